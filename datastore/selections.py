"""Scores, selections and mixtures in the store."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from gradsift.datastore import tombstones, versions
from gradsift.datastore.compared import Portfolio
from gradsift.datastore.engine import Row, Transaction
from gradsift.datastore.errors import BusyError, CorruptionError, InputError
from gradsift.datastore.identity import Spec, canonical_json, digest_ids, fingerprint
from gradsift.datastore.runs import MixturePlan, plan_from_json
from gradsift.datastore.store import Store

MASK = "loss_mask"
NEWEST = (  # selection of each name and target
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY name, target ORDER BY created DESC, selection_id DESC) "
    "AS place FROM selection WHERE void IS NULL) AS placed WHERE place = 1"
)
MIXTURE = "mixture"  # method and target of a mixture
NO_TARGET = "none"  # target of a selection that is for none
PORTFOLIO = b"gradsift.portfolio"  # metadata of details: how the method was chosen, JSON
PLAN = b"gradsift.mixture"  # metadata of a mixture's details: what was asked and what came out, JSON


@dataclass(frozen=True)
class Selection:
    """An ordered choice of examples; `scores` are None where the method gives none. `copies` is how often each occurs:
    once, except in mixtures that repeat."""

    selection_id: int
    name: str
    target: str
    method: str
    digest: str
    example_ids: list[str]
    scores: list[float | None]
    copies: list[int]

    @property
    def rows(self) -> int:
        """Examples, each counted as often as it occurs."""
        return sum(self.copies)


@dataclass(frozen=True)
class Picks:
    """What was chosen, in rank order: ids, scores (None where the method gives none), and how often each occurs
    (None: once).

    `details` has a row for each example of the pool (`example_id`, `score`, and what else the rule says of it; of a
    mixture: a row for each chosen one). Its column `loss_mask` (a list of booleans, one for each label token, or null)
    is part of the selection's digest. `won` is the method that was taken, where the recipe's chooses between several.
    """

    example_ids: Sequence[str]
    scores: Sequence[float | None]
    details: pa.Table | None = None
    copies: Sequence[int] | None = None
    won: str = ""


def save(store: Store, name: str, target: str, spec: Spec, picks: Picks) -> Selection:
    """Record a selection, its details in a Parquet shard; the same spec again returns the one recorded first."""
    text, details = canonical_json(spec), picks.details
    method = f"{spec['method']} ({picks.won})" if picks.won else spec["method"]
    copies, digest = _copies(picks), picks_digest(picks)
    seen = {*picks.example_ids, *(details["example_id"].to_pylist() if details is not None else [])}

    def record(db: Transaction, shard_id: int | None) -> bool:
        if any(row["example_id"] in seen for row in db.rows("SELECT example_id FROM tombstone")):
            raise BusyError(f"examples of {name} were deleted while it was made; run this again")
        void = db.one("SELECT selection_id FROM selection WHERE spec=? AND void IS NOT NULL", (text,))
        if void is not None:  # it lost examples since and is no longer what this spec gives
            lost = canonical_json({**spec, "void": void["selection_id"]})
            db.execute("UPDATE selection SET spec=? WHERE selection_id=?", (lost, void["selection_id"]))
        inserted = db.one(
            "INSERT INTO selection (name, target, method, digest, spec, scores_shard, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING selection_id",
            (name, target, method, digest, text, shard_id, db.now()),
        )
        if inserted is None:
            return False
        items = zip(picks.example_ids, picks.scores, copies, strict=True)
        db.executemany(
            "INSERT INTO selection_item (selection_id, rank, example_id, score, copies) VALUES (?, ?, ?, ?, ?)",
            ((inserted["selection_id"], rank, *item) for rank, item in enumerate(items)),
        )
        db.execute(
            "UPDATE selection_item SET (source, licence) = (SELECT e.source, e.licence FROM example AS e "
            "WHERE e.example_id = selection_item.example_id) WHERE selection_id=?",
            (inserted["selection_id"],),
        )
        return True

    if details is None:
        with store.catalog.write() as db:
            record(db, None)
    else:
        commit_details(store, details, record)
    return find(store, spec) or _missing(name)


def commit_details(
    store: Store,
    details: pa.Table,
    record: Callable[[Transaction, int], bool | None],
    replaces: Sequence[int] = (),
) -> None:
    """Commit a selection's table with what `record` writes, in the place of shards that it `replaces`."""
    store.commit_file(
        "scores", ".parquet", details.num_rows, lambda handle: _write(details, handle), record, replaces=replaces
    )


def _copies(picks: Picks) -> list[int]:
    return list(picks.copies or [1] * len(picks.example_ids))


def picks_digest(picks: Picks) -> str:
    """Digest of the selection that these picks are."""
    return digest_of(picks.example_ids, _copies(picks), picks.details)


def is_masked(selection: Selection) -> bool:
    """Whether loss masks are part of a selection, by its digest alone: also where its table is lost."""
    return selection.digest != digest_of(selection.example_ids, selection.copies, None)


def in_table_alone(selection: Selection) -> str:
    """What only the table of a selection says, in words, "" for nothing: without that, it is another."""
    if is_masked(selection):
        return "loss masks"
    return "shares" if selection.method == MIXTURE else ""


def digest_of(ids: Sequence[str], copies: Sequence[int], details: pa.Table | None) -> str:
    """Digest of a choice: of its ids in rank order, how often each occurs, and its token masks."""
    if any(n != 1 for n in copies):
        ids = [f"{i} {n}" for i, n in zip(ids, copies, strict=True)]
    if details is None or MASK not in details.column_names:
        return digest_ids(ids)
    return fingerprint([list(ids), _masks(details)])


def recomputed(store: Store, selection: Selection) -> str:
    """Digest of a selection's items and masks as they are now. Raises CorruptionError for a damaged table."""
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection.selection_id,))
    table = None
    if row is not None and row["scores_shard"] is not None:
        with store.open(row["scores_shard"]) as file:
            if MASK in pq.read_schema(file).names:
                table = pq.read_table(file, columns=["example_id", MASK])
    return digest_of(selection.example_ids, selection.copies, table)


def _missing(name: str) -> Selection:
    raise InputError(f"selection {name} was not recorded")


def _write(table: pa.Table, handle: BinaryIO) -> None:
    pq.write_table(table, handle, compression="zstd", write_page_checksum=True)


def details(store: Store, selection: Selection) -> pa.Table | None:
    """What a selection's method said of every pool example, or None. Raises CorruptionError for a damaged shard."""
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection.selection_id,))
    if row is None or row["scores_shard"] is None:
        return None
    with store.open(row["scores_shard"]) as file:
        table = pq.read_table(file)
    going = tombstones.going(store)
    return table.filter(pc.invert(pc.is_in(table["example_id"], pa.array(going, pa.string())))) if going else table


def masks(store: Store, selection: Selection) -> dict[str, list[bool]]:
    """{id: whether each label token keeps its loss}, of the chosen examples whose tokens are pruned. Raises
    CorruptionError where the table that holds them is lost: without them it would be another selection."""
    if not is_masked(selection):
        return {}
    table = details(store, selection)
    if table is None or MASK not in table.column_names:
        raise CorruptionError(
            f"the loss masks of {selection.name!r} are lost with its table, and without them it is another selection. "
            "Run `gradsift verify --repair` to make them again."
        )
    of_all = _masks(table)
    return {i: of_all[i] for i in selection.example_ids if i in of_all}


def _masks(table: pa.Table) -> dict[str, list[bool]]:
    pairs = zip(table["example_id"].to_pylist(), table[MASK].to_pylist(), strict=True)
    return {i: mask for i, mask in pairs if mask is not None}


def spec_of(store: Store, selection: Selection) -> Spec:
    """Everything that decided a selection: digests of its pool and targets, feature spaces, settings."""
    row = store.catalog.one("SELECT spec FROM selection WHERE selection_id=?", (selection.selection_id,))
    return dict(json.loads(row["spec"])) if row else {}


@dataclass(frozen=True)
class Facts:
    """What the catalog knows of a selection's examples, as columns in rank order; sources and licences as they were
    when it was made."""

    sources: list[str]
    licences: list[str | None]
    chars: list[int]


def facts(store: Store, selection: Selection) -> Facts:
    """Facts of the chosen examples; shorter than the selection where some are no longer in the store."""
    rows = store.catalog.rows(
        "SELECT coalesce(i.source, e.source) AS source, e.chars, "  # a process of an older version notes none
        "CASE WHEN i.source IS NULL THEN e.licence ELSE i.licence END AS licence "
        "FROM selection_item AS i JOIN example AS e USING (example_id) "
        "WHERE i.selection_id=? ORDER BY i.rank",
        (selection.selection_id,),
    )
    return Facts([row["source"] for row in rows], [row["licence"] for row in rows], [row["chars"] for row in rows])


def find(store: Store, spec: Spec) -> Selection | None:
    """The selection with exactly this spec, or None: also for one of which examples were deleted."""
    row = store.catalog.one("SELECT * FROM selection WHERE spec=? AND void IS NULL", (canonical_json(spec),))
    return _load(store, row) if row else None


def use(store: Store, spec: Spec) -> Selection | None:
    """The selection with exactly this spec, which becomes the newest of its name; None where there is none."""
    with store.catalog.write() as db:
        db.execute("UPDATE selection SET created=? WHERE spec=? AND void IS NULL", (db.now(), canonical_json(spec)))
    return find(store, spec)


def get(store: Store, name: str, target: str | None = None) -> Selection:
    """The newest selection of a name (and target), by when it was last made or found again; NAME@NUMBER gives a version
    (`versions`), NAME@DIGEST (its start is enough; of digits alone, eight) an older one of that name.

    Raises InputError that lists what there is, and for a version that is void or was pruned.
    """
    return by_number(store, number_of(store, name, target))


def number_of(store: Store, name: str, target: str | None = None) -> int:
    """The number in the catalog of what `get` gives, whose rows are not read."""
    if versions.is_number(name):
        return _number_of_version(store, versions.find(store, name))
    plain, _, digest = name.partition("@")
    row = store.catalog.one(
        "SELECT selection_id FROM selection WHERE name=? AND target=coalesce(?, target) "
        "AND substr(digest, 1, length(?))=? AND void IS NULL ORDER BY created DESC, selection_id DESC LIMIT 1",
        (plain, target, digest, digest),
    )
    if row is None:
        known = store.catalog.rows(
            "SELECT name FROM selection WHERE void IS NULL GROUP BY name ORDER BY min(selection_id)"
        )
        names = ", ".join(str(row["name"]) for row in known)
        raise InputError(f"no selection {name!r} in {store.root}; there are: {names or 'none'}")
    return int(row["selection_id"])


def of_version(store: Store, version: versions.Version) -> Selection:
    """What a version holds. Raises InputError for a pool's, and for one that is void or was pruned."""
    return by_number(store, _number_of_version(store, version))


def _number_of_version(store: Store, version: versions.Version) -> int:
    if version.kind == "pool":
        raise InputError(f"{version} is a pool, not a selection or mixture")
    return versions.usable(store, version)


def standing_for(store: Store, name: str, target: str, digest: str) -> Selection | None:
    """The selection of this digest, or, where examples of it were deleted, the newest that was recorded as what is left
    of it; None where there is neither."""
    rows = store.catalog.rows(
        "SELECT * FROM selection WHERE name=? AND target=? ORDER BY created DESC, selection_id DESC", (name, target)
    )
    of_number = {row["selection_id"]: row for row in rows}
    for row in rows:
        at: Row | None = row if row["void"] is None else None
        while at is not None and at["digest"] != digest:
            number, before, _ = json.loads(at["spec"]).get("stands_for", (None, None, None))
            if before == digest:
                return _load(store, row)
            at = of_number.get(number)
        if at is not None:
            return _load(store, row)
    return None


def rest_of(store: Store, name: str, target: str, digest: str) -> Selection | None:
    """The rows that are left of the void selection of this digest; None where there is none, or none of its rows."""
    row = store.catalog.one(
        "SELECT * FROM selection WHERE name=? AND target=? AND digest=? AND void IS NOT NULL "
        "ORDER BY created DESC, selection_id DESC LIMIT 1",
        (name, target, digest),
    )
    left = _load(store, row) if row is not None else None
    return left if left is not None and left.example_ids else None


def by_number(store: Store, selection_id: int) -> Selection:
    """The selection of this number, whether or not it is void."""
    (row,) = store.catalog.rows("SELECT * FROM selection WHERE selection_id=?", (selection_id,))
    return _load(store, row)


def newest(store: Store) -> list[Selection]:
    """The newest selection of each name and target, in the order they were made."""
    rows = store.catalog.rows(f"{NEWEST} ORDER BY selection_id")
    return [_load(store, row) for row in rows]


def _load(store: Store, row: Row) -> Selection:
    items = store.catalog.rows(
        "SELECT example_id, score, copies FROM selection_item WHERE selection_id=? ORDER BY rank",
        (row["selection_id"],),
    )
    return Selection(
        row["selection_id"],
        row["name"],
        row["target"],
        row["method"],
        row["digest"],
        [item["example_id"] for item in items],
        [item["score"] for item in items],
        [item["copies"] for item in items],
    )


def plan(store: Store, selection: Selection) -> MixturePlan | None:
    """What a mixture was asked for and what came out, or None for another selection."""
    table = details(store, selection)
    text = (table.schema.metadata or {}).get(PLAN) if table is not None else None
    return plan_from_json(json.loads(text)) if text else None


def with_portfolio(details: pa.Table, portfolio: Portfolio | None) -> pa.Table:
    """Details that say how the method was chosen, where it was."""
    if portfolio is None:
        return details
    return details.replace_schema_metadata(
        {**(details.schema.metadata or {}), PORTFOLIO: canonical_json(asdict(portfolio))}
    )


def portfolio(store: Store, selection: Selection) -> Portfolio | None:
    """How the method of a selection was chosen, or None where it was given. Raises CorruptionError for a damaged
    shard."""
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection.selection_id,))
    if row is None or row["scores_shard"] is None:
        return None
    with store.open(row["scores_shard"]) as file:
        text = (pq.read_schema(file).metadata or {}).get(PORTFOLIO)
    found: Portfolio | None = TypeAdapter(Portfolio).validate_json(text) if text else None
    return found
