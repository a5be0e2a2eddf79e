"""What a store holds, as tables."""

import time
from typing import Any

from gradsift.datastore.leases import holder_is_dead
from gradsift.datastore.store import Store

Table = list[dict[str, Any]]


def overview(store: Store) -> dict[str, Table]:
    """Tables of examples, datasets, quarantine, coverage, selections, arms, runs and live leases."""
    catalog = store.catalog

    def rows(text: str) -> Table:
        return [dict(row) for row in catalog.rows(text)]

    leases = rows("SELECT name, holder, expires FROM lease")
    now = time.time()
    return {
        "examples": rows(
            "SELECT source, count(*) AS examples, sum(chars) AS characters FROM example "
            "GROUP BY source ORDER BY examples DESC, source"
        ),
        "datasets": rows("SELECT role, name, rows, substr(digest, 1, 12) AS digest FROM dataset"),
        "quarantine": catalog.named("quarantine_summary"),
        "feature_rows": [r | {"fingerprint": r["fingerprint"][:12]} for r in catalog.named("coverage")],
        "selections": rows(
            "SELECT s.name, s.target, s.method, count(*) AS examples, sum(copies) AS rows, "
            "substr(s.digest, 1, 12) AS digest "
            "FROM selection AS s JOIN selection_item USING (selection_id) GROUP BY s.selection_id"
        ),
        "validation_arms": rows(
            "SELECT target AS targets, name AS arm, seed, spec ->> '$.training.lr' AS lr, "
            "result ->> '$.examples' AS examples, "
            "(SELECT group_concat(key || ' ' || round(value ->> '$.loss', 4), ', ') "
            "FROM json_each(result, '$.tests')) AS test_losses FROM arm ORDER BY target, name, seed, lr"
        ),
        "runs": rows(
            "SELECT run_id, name, datetime(started, 'unixepoch') AS started_utc, "
            "coalesce(datetime(finished, 'unixepoch'), 'not finished') AS finished_utc FROM run"
        ),
        "live_work": [
            {"lease": r["name"], "holder": r["holder"], "seconds_left": round(r["expires"] - now)}
            for r in leases
            if r["expires"] > now and not holder_is_dead(r["holder"])
        ],
    }
