"""Examples of which a predicate holds: what stands behind every `--where`.

The predicate is SQLite's (`predicates`), over the columns of a place that an example was read from, the signals of its
gradient row and its standing in the store. It holds of an example where it holds of any of its places.

Only what it looks at is read: columns of the catalog alone take one pass over it, a shard of examples at a time;
`text` reads the shards of examples, a signal those columns of the mapped gradient rows (40 bytes and more an example).
"""

from collections.abc import Iterator, Mapping, Sequence

from gradsift.datastore import examples, runs, signals
from gradsift.datastore.chats import all_text, of_table
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.predicates import ASKED, FUNCTIONS, SIGNALS, Predicate
from gradsift.datastore.selections import NEWEST
from gradsift.datastore.store import Store

OF_PLACE = {
    "source": "CAST(coalesce(o.source, e.source) AS TEXT)",
    "licence": "CAST(CASE WHEN o.file IS NULL THEN e.licence ELSE o.licence END AS TEXT)",
    "file": "o.file",
    "line": "o.line",
    "extra": "o.extra",
}
OF_EXAMPLE = {"id": "e.example_id", "chars": "e.chars"}
ABSENT = {"selected": 0}  # what a column says of an example that it knows nothing of; else null
Looked = dict[str, dict[str, object]]  # {column: {id: value}}


def matching(store: Store, predicate: str, field: str = "--where") -> list[str]:
    """Ids of the examples of which a predicate holds, sorted. `field` is where a user wrote it.

    Raises InputError, naming columns and functions, for one that is none; for one about another column (`extra`) that
    no row has, which may hold of all; and for one about a signal that no example has.
    """
    with asked_of(predicate, ASKED, field) as asked:
        found = _in_catalog(store, asked)
        if found is None:
            found = {name for batch in rows_for(store, asked) for name in asked.of(batch)}
        asked.refuse_absent()
    return sorted(found)


def _in_catalog(store: Store, asked: Predicate) -> set[str] | None:
    """Ids of the examples of which a predicate holds that looks at the catalog alone, where the catalog can be asked it
    as it is. Not for other columns: those that no row has must be told."""
    of_catalog = {name: of for name, of in {**OF_EXAMPLE, **OF_PLACE}.items() if name != "extra"}
    if not asked.columns.keys() <= of_catalog.keys():
        return None
    listed, joined = _of_catalog([name for name in of_catalog if name in asked.columns])
    rows = f"SELECT {listed} FROM main.example AS e {joined}"
    try:
        found = store.catalog.ids_where(rows, asked.text, {*FUNCTIONS, "coalesce"})
    except InputError as error:
        raise asked.refusal(error) from error
    return None if found is None else set(found)


def _of_catalog(names: Sequence[str]) -> tuple[str, str]:
    """What a query of the catalog lists for these columns, and what it joins for them."""
    expressions = {**OF_EXAMPLE, **OF_PLACE}
    joined = "LEFT JOIN origin AS o USING (example_id) " if any(name in OF_PLACE for name in names) else ""
    return ", ".join(["e.example_id AS key", *(f"{expressions[name]} AS {name}" for name in names)]), joined


def asked_of(predicate: str, columns: Mapping[str, str], field: str) -> Predicate:
    """A predicate that knows which of the columns it looks at and has no others."""
    with Predicate(predicate, columns, field) as whole:
        whole.of([])  # learns which, and says what is wrong with it
        return Predicate(predicate, {name: what for name, what in columns.items() if name in whole.used}, field)


def rows_for(store: Store, asked: Predicate) -> Iterator[list[tuple[object, ...]]]:
    """Rows for a predicate over some of `ASKED`: an example's id and its columns, one for each of its places; those of
    a shard of examples at a time."""
    names = list(asked.columns)
    looked = {**_signals(store, names), **_states(store, names)}
    of_catalog = [name for name in (*OF_EXAMPLE, *OF_PLACE) if name in names]
    listed, joined = _of_catalog(of_catalog)
    for shard_id in example_shards(store):
        rows = store.catalog.rows(f"SELECT {listed} FROM example AS e {joined}WHERE e.shard_id=?", (shard_id,))
        if not rows:
            require_there(store, shard_id)
        if "text" in names:
            looked["text"] = dict(_texts(store, shard_id))
        keys = [row["key"] for row in rows]
        columns = [
            [row[name] for row in rows] if name in of_catalog else _of_keys(looked[name], keys, ABSENT.get(name))
            for name in names
        ]
        yield list(zip(keys, *columns, strict=True))


def _of_keys(values: Mapping[str, object], keys: Sequence[str], absent: object) -> list[object]:
    return [values.get(key, absent) for key in keys]


def example_shards(store: Store) -> list[int]:
    """Numbers of the shards of examples, sorted."""
    rows = store.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples' ORDER BY shard_id")
    return [int(row["shard_id"]) for row in rows]


def require_there(store: Store, shard_id: int) -> None:
    """Raise BusyError where a shard has left: another has its rows, which a pass over the shards would not see."""
    if store.catalog.one("SELECT 1 FROM shard WHERE shard_id=?", (shard_id,)) is None:
        raise BusyError("the store was compacted or pruned while it was read; run this again")


def _texts(store: Store, shard_id: int) -> Iterator[tuple[str, str]]:
    for table in examples.read_groups(store, shard_id):
        for name, chat in zip(table["example_id"].to_pylist(), of_table(table), strict=True):
            yield name, "\n".join(map(all_text, chat))


def _signals(store: Store, names: Sequence[str]) -> Looked:
    """{signal: {id: value}} of the newest run's rows. Raises InputError for one that they have not."""
    wanted = [name for name in names if name in SIGNALS]
    if not wanted:
        return {}
    space = signals.newest_space(store)
    there = set() if space is None else signals.names_in(store, space)
    if space is None or set(wanted) - there:
        known = ", ".join(name for name in SIGNALS if name in there) or "none, for no run has computed gradients"
        raise InputError(
            f"no example of {store.root} has `{min(set(wanted) - there)}`: of the signals there are {known}; "
            "`features.signals` of a recipe says which a run computes"
        )
    found: dict[str, dict[str, object]] = {name: {} for name in wanted}
    for table in signals.tables(store, space, wanted):
        ids = table["example_id"].to_pylist()
        for name in wanted:
            found[name].update(zip(ids, table[name].to_numpy(zero_copy_only=False).tolist(), strict=True))
    return found


def _states(store: Store, names: Sequence[str]) -> Looked:
    found: Looked = {}
    if "mark" in names:
        found["mark"] = screened(store)
    if "selected" in names:
        found["selected"] = selected(store)
    if "role" in names:
        found["role"] = roles(store)
    return found


def screened(store: Store) -> dict[str, object]:
    """{id: why} of what the newest run's screenings left out."""
    return {
        row["example_id"]: row["reason"]
        for number in newest_screenings(store)
        for row in store.catalog.rows("SELECT example_id, reason FROM mark WHERE screening_id=?", (number,))
    }


def newest_screenings(store: Store) -> list[int]:
    """Numbers of the screenings of the newest run that read its sources."""
    return list(_ingested(store).get("pool", {}).get("screenings", ()))


def _ingested(store: Store) -> runs.Json:
    """What the newest run that read its sources had read; empty without one."""
    newest = next((run for run in runs.finished(store) if not run.summary.get("base")), None)
    return dict(newest.summary.get("ingest", {})) if newest else {}


def roles(store: Store) -> dict[str, object]:
    """{id: what the newest run that read its sources has it for}: `pool` as screening left it, else `target`, else
    `test`, else `left_out` by screening. Cost: the members of these datasets."""
    ingested = _ingested(store)
    left_out = screened(store)
    found: dict[str, object] = dict.fromkeys(left_out, "left_out")
    for role, part in (("test", "tests"), ("target", "targets")):
        for name, report in ingested.get(part, {}).items():
            found |= dict.fromkeys(_members(store, role, report["digest"], name), role)
    pool = ingested.get("pool")
    if pool is not None:
        members = _members(store, "pool", pool["digest"], number=pool.get("used_dataset_id"))
        found |= dict.fromkeys((name for name in members if name not in left_out), "pool")
    return found


def _members(store: Store, role: str, digest: str, name: str | None = None, number: int | None = None) -> list[str]:
    """Ids of the members that a dataset still has, by its number or else its digest: one of which examples were deleted
    has that behind `void` and its number."""
    if number is None:
        known = store.catalog.one(
            "SELECT max(dataset_id) AS n FROM dataset WHERE role=? AND (name=? OR CAST(? AS TEXT) IS NULL) "
            "AND digest IN (?, 'void ' || dataset_id || ' ' || ?)",
            (role, name, name, digest, digest),
        )
        number = known["n"] if known is not None else None
    rows = store.catalog.rows("SELECT example_id FROM dataset_member WHERE dataset_id=?", (number,))
    return [str(row["example_id"]) for row in rows]


def selected(store: Store) -> dict[str, object]:
    """{id: how many of the newest selections and mixtures of each name hold it}."""
    counted = store.catalog.rows(
        f"SELECT i.example_id, count(*) AS n FROM ({NEWEST}) AS s JOIN selection_item AS i USING (selection_id) "
        "GROUP BY i.example_id"
    )
    return {row["example_id"]: row["n"] for row in counted}
