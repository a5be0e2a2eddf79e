"""What a store holds, as tables."""

import json
from datetime import UTC, datetime

from gradsift.datastore import features, indexes
from gradsift.datastore.engine import Record
from gradsift.datastore.holders import holder_is_dead
from gradsift.datastore.lives import Life, lives
from gradsift.datastore.store import Store

Table = list[Record]
GOES_ON = "not finished: `gradsift delete` goes on"


def overview(store: Store) -> dict[str, Table]:
    """Tables of examples, datasets, files, quarantine, coverage, warm-ups, indexes, selections, arms, runs, deletions,
    deleted examples that are there again, and live leases."""
    catalog = store.catalog

    def rows(query: str) -> Table:
        return [dict(row) for row in catalog.rows(query)]

    return {
        "examples": rows(
            "SELECT source, count(*) AS examples, sum(chars) AS characters FROM example "
            "GROUP BY source ORDER BY examples DESC, source"
        ),
        "datasets": rows("SELECT role, name, rows, substr(digest, 1, 12) AS digest FROM dataset ORDER BY dataset_id"),
        "files": rows(
            "SELECT kind, count(*) AS files, sum(rows) AS rows, sum(bytes) AS bytes FROM shard "
            "GROUP BY kind ORDER BY kind"
        ),
        "quarantine": catalog.named("quarantine_summary"),
        "feature_rows": [row | {"fingerprint": row["fingerprint"][:12]} for row in catalog.named("coverage")],
        "warmups": [
            {
                "warmup": row["fingerprint"][:12],
                "pool_rows": row["pool_rows"],
                "trained_on": row["trained"],
                "checkpoints": row["points"],
                "of": row["epochs"],
                "finished_utc": "not finished" if row["finished"] is None else _utc(row["finished"]),
            }
            for row in rows(
                "SELECT w.*, "
                "(SELECT count(*) FROM warmup_example AS e WHERE e.fingerprint = w.fingerprint) AS trained, "
                "(SELECT count(*) FROM checkpoint AS c WHERE c.warmup = w.fingerprint) AS points "
                "FROM warmup AS w ORDER BY w.created, w.fingerprint"
            )
        ],
        "indexes": [
            {
                "kind": index.kind,
                "space": features.space_fingerprint(store, index.space_id)[:12],
                "rows": index.rows,
                "state": indexes.state(store, index),
                "recall": index.measured.recall,
                "bytes": index.bytes,
            }
            for index in indexes.all_of(store)
        ],
        "selections": rows(
            "SELECT s.name, (SELECT max(number) FROM version AS v WHERE v.selection_id = s.selection_id) AS version, "
            "s.target, s.method, count(*) AS examples, sum(copies) AS rows, s.void AS void, "
            "substr(s.digest, 1, 12) AS digest "
            "FROM selection AS s JOIN selection_item USING (selection_id) "
            "GROUP BY s.selection_id ORDER BY s.selection_id"
        ),
        "validation_arms": _arms(rows("SELECT name, target, seed, spec, result FROM arm")),
        "runs": [
            {
                "run_id": life.run_id,
                "name": life.name,
                "started_utc": _utc(life.started),
                "finished_utc": _utc(life.ended) if life.state == "finished" and life.ended else "not finished",
                "state": _state(life),
            }
            for life in lives(store)
        ],
        "deletions": [
            {
                "examples": row["examples"],
                "started_utc": _utc(row["started"]),
                "finished_utc": GOES_ON if row["finished"] is None else _utc(row["finished"]),
            }
            for row in rows("SELECT * FROM forgetting ORDER BY forgetting_id")
        ],
        "brought_back": [  # by a run of an earlier version that had lost its lease
            row | {"next": "gradsift delete --id takes it out again"}
            for row in rows("SELECT example_id AS deleted_example FROM tombstone JOIN example USING (example_id)")
        ],
        "live_work": _live(rows("SELECT name, holder, expires FROM lease ORDER BY name"), store.catalog.now()),
    }


def committed_bytes(store: Store) -> int:
    """Bytes of all committed files."""
    sizes = store.catalog.rows("SELECT bytes FROM shard UNION ALL SELECT bytes FROM search_index")
    return sum(int(row["bytes"]) for row in sizes)


def _arms(arms: Table) -> Table:
    """One row for each arm and its loss on every test set, by target, name, seed and learning rate."""
    table = []
    for arm in arms:
        result = json.loads(arm["result"])
        losses = {name: test.get("loss") for name, test in result.get("tests", {}).items()}
        known = [f"{name} {round(loss, 4)}" for name, loss in losses.items() if loss is not None]
        row = {"targets": arm["target"], "arm": arm["name"], "seed": arm["seed"]}
        row["lr"] = json.loads(arm["spec"]).get("training", {}).get("lr")
        row["examples"] = result.get("examples")
        row["test_losses"] = ", ".join(known) or None
        table.append(row)
    return sorted(table, key=lambda r: (r["targets"], r["arm"], r["seed"], r["lr"] is not None, r["lr"] or 0.0))


def _state(life: Life) -> str:
    if life.is_dead and life.ended:
        return f"crashed, last seen {_utc(life.ended)}: `gradsift runs --close-dead` closes it"
    return life.state


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _live(leases: Table, now: float) -> Table:
    return [
        {"lease": lease["name"], "holder": lease["holder"], "seconds_left": round(lease["expires"] - now)}
        for lease in leases
        if lease["expires"] > now and not holder_is_dead(lease["holder"])
    ]
