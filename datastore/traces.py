"""Where examples have left traces: what a deletion takes out, and what it cannot reach and names."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradsift.datastore import outputs, runs, tombstones
from gradsift.datastore.engine import marks, parts
from gradsift.datastore.errors import InputError
from gradsift.datastore.forget import Picked
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class Trace:
    """Things of one kind that a deletion takes out, or makes void."""

    what: str
    count: int


@dataclass(frozen=True)
class Seen:
    """A warm-up that trained on deleted examples. `examples` is how many, None where the store does not know: then the
    warm-up drew from a pool that had some. `runs` are names of runs whose gradient rows are at its checkpoints."""

    warmup: str
    checkpoints: int
    examples: int | None
    runs: Sequence[str]
    command: str = "gradsift run RECIPE --new-warmup"


def traces(store: Store, picked: Picked) -> list[Trace]:
    """Counts of what holds the examples, by kind: one look-up each, and a pass over feature rows and chosen rows."""
    tables = {
        "places in versions of datasets": "membership",
        "places that they were read from": "origin",
        "rows of selections and mixtures": "selection_item",
        "feature rows": "feature_row",
        "marks": "mark",
    }
    ids = set(picked.ids)
    counts = Counter({"examples": len(ids), "quarantined excerpts": len(picked.quarantined)})
    for what, table in tables.items():
        counts[what] = _count(store, table, picked.ids)
    counts["marks"] += _count(store, "mark", picked.ids, "twin")
    return [Trace(what, count) for what, count in counts.items() if count]


def by_source(store: Store, ids: Sequence[str]) -> dict[str, int]:
    """{source: examples}, the largest first; an example counts under the source that the catalog says."""
    counts: Counter[str] = Counter()
    for part in parts(ids):
        rows = store.catalog.rows(f"SELECT source FROM example WHERE example_id IN ({marks(part)})", part)
        counts.update(str(row["source"]) for row in rows)
    return dict(counts.most_common())


def _count(store: Store, table: str, ids: Sequence[str], column: str = "example_id") -> int:
    total = 0
    for part in parts(ids, 10_000):
        row = store.catalog.one(f"SELECT count(*) AS n FROM {table} WHERE {column} IN ({marks(part)})", part)
        total += int(row["n"]) if row else 0
    return total


def versions_that_hold(store: Store, ids: Sequence[str]) -> list[str]:
    """NAME@NUMBER of numbered versions that become void."""
    found: set[tuple[str, str, int]] = set()
    for part in parts(ids, 10_000):
        texts = (
            "SELECT DISTINCT v.kind, v.name, v.number FROM membership AS m JOIN dataset AS d ON d.chain = m.chain "
            "AND m.since <= d.dataset_id AND m.until > d.dataset_id JOIN version AS v ON v.dataset_id = d.dataset_id "
            f"WHERE d.void IS NULL AND m.example_id IN ({marks(part)})",
            "SELECT DISTINCT v.kind, v.name, v.number FROM selection_item AS i "
            "JOIN selection AS s USING (selection_id) JOIN version AS v ON v.selection_id = s.selection_id "
            f"WHERE s.void IS NULL AND i.example_id IN ({marks(part)})",
        )
        for text in texts:
            found |= {(row["kind"], row["name"], row["number"]) for row in store.catalog.rows(text, part)}
    return [f"{'pool:' if kind == 'pool' else ''}{name}@{number}" for kind, name, number in sorted(found)]


def indexes_with(store: Store, ids: Sequence[str]) -> list[str]:
    """KIND of SPACE of the search indexes that a deletion drops: of spaces that have rows of the examples."""
    found: set[str] = set()
    for part in parts(ids, 10_000):
        rows = store.catalog.rows(
            "SELECT i.kind, f.fingerprint FROM search_index AS i JOIN feature_space AS f USING (space_id) "
            f"WHERE i.space_id IN (SELECT space_id FROM feature_row WHERE example_id IN ({marks(part)}))",
            part,
        )
        found |= {f"{row['kind']} of {row['fingerprint'][:12]}" for row in rows}
    return sorted(found)


def seen_by(store: Store, ids: Sequence[str]) -> list[Seen]:
    """Warm-ups of which the store has checkpoints that trained on any of the examples, or may have."""
    points = store.catalog.rows("SELECT warmup, count(*) AS n FROM checkpoint GROUP BY warmup ORDER BY warmup")
    noted = {row["fingerprint"] for row in store.catalog.rows("SELECT DISTINCT fingerprint FROM warmup_example")}
    trained: Counter[str] = Counter()
    for part in parts(ids):
        rows = store.catalog.rows(
            f"SELECT fingerprint, count(*) AS n FROM warmup_example WHERE example_id IN ({marks(part)}) GROUP BY 1",
            part,
        )
        trained.update({row["fingerprint"]: row["n"] for row in rows})
    pooled = bool(tombstones.known(store, ids)) or _were_pooled(store, ids)  # of deleted ones nobody knows any more
    found = []
    for point in points:
        warmup = point["warmup"]
        if trained[warmup] or (warmup not in noted and pooled):
            seen = trained[warmup] if warmup in noted else None
            found.append(Seen(warmup, int(point["n"]), seen, _runs_at(store, warmup)))
    return found


def _were_pooled(store: Store, ids: Sequence[str]) -> bool:
    """Whether any of the examples was ever in a pool."""
    return any(
        store.catalog.one(
            "SELECT 1 FROM membership AS m JOIN dataset AS d ON d.dataset_id = m.chain "
            f"WHERE d.role = 'pool' AND m.example_id IN ({marks(part)}) LIMIT 1",
            part,
        )
        for part in parts(ids)
    )


def _runs_at(store: Store, warmup: str) -> list[str]:
    """Names of the runs whose rows are at the warm-up's checkpoints."""
    digests = {row["digest"] for row in store.catalog.rows("SELECT digest FROM checkpoint WHERE warmup=?", (warmup,))}
    rows = store.catalog.rows("SELECT space_id, spec FROM feature_space")
    spaces = {row["space_id"] for row in rows if any(digest in row["spec"] for digest in digests)}
    names = []
    for number in store.catalog.rows("SELECT run_id FROM run WHERE finished IS NOT NULL ORDER BY run_id"):
        run = runs.get(store, number["run_id"])
        if any(row.get("space_id") in spaces for row in run.summary.get("rows", ())):
            names.append(str(run.recipes.resolved.get("name", run.name)))
    return list(dict.fromkeys(names))


def exported_to(store: Store) -> list[str]:
    """Folders that runs exported to, in the order of the runs, then those of other commands; where inside a store,
    inside this one (`outputs.here`)."""
    named: list[str | None] = []
    for run, folder in _recorded_exports(store):
        named.append(outputs.here(store, folder, _page_of(run)))
    named += outputs.noted(store, "export")
    return list(dict.fromkeys(name for name in named if name is not None))


def exported_nowhere(store: Store) -> list[str]:
    """Folders that runs of older versions exported to and recorded as seen from where they were started, which the
    store does not know."""
    lost = [folder for run, folder in _recorded_exports(store) if outputs.here(store, folder, _page_of(run)) is None]
    return list(dict.fromkeys(lost))


def reported_to(store: Store) -> dict[str, int]:
    """{page: number of the newest run that wrote its report there}; where inside a store, inside this one."""
    pages = ((run.run_id, _page_of(run)) for run in _finished(store))
    found = [(run_id, outputs.here(store, page, page)) for run_id, page in pages if page]
    return {page: run_id for run_id, page in found if page is not None}


def _recorded_exports(store: Store) -> Iterator[tuple[runs.Run, str]]:
    """(run, folder) of each export of a run, as it was recorded."""
    for run in _finished(store):
        rows = store.catalog.rows("SELECT folder FROM run_version WHERE run_id=? AND folder IS NOT NULL", (run.run_id,))
        yield from ((run, str(row["folder"])) for row in rows)
        made = (made for part in runs.MADE for made in run.summary.get(part, ()))
        yield from ((run, str(one["export"])) for one in made if one.get("export"))


def _page_of(run: runs.Run) -> str:
    return str(run.summary.get("report") or "")


def _finished(store: Store) -> list[runs.Run]:
    rows = store.catalog.rows("SELECT run_id FROM run WHERE finished IS NOT NULL ORDER BY run_id")
    found = []
    for row in rows:
        try:
            found.append(runs.get(store, row["run_id"]))
        except (ValueError, InputError):
            continue
    return found
