"""Sources before and after: what each gave, what screening left of it, and what was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradsift.datastore import choices
from gradsift.datastore.choices import Choice
from gradsift.datastore.quarantine import Asked
from gradsift.datastore.runs import Counts, Run
from gradsift.datastore.store import Store
from gradsift.pipelines.query.passes import computed_run
from gradsift.pipelines.report.funnel import as_rows, by_source, funnel
from gradsift.pipelines.runs.stayed_out import Kind, Stayed, kinds, stayed_out
from gradsift.pipelines.tables import Row

MOST = 6  # selections beside the pool
OTHER = "…"  # all sources beyond those that are shown
SHOWN = 30


@dataclass(frozen=True)
class Stage:
    """A set of rows: its name, how it is told from others of that name, and its rows by source."""

    name: str
    reference: str
    by_source: Counts

    @property
    def rows(self) -> int:
        """Of all sources."""
        return sum(self.by_source.values())


@dataclass(frozen=True)
class Sources:
    """`stages` in the order of the data: the pool, what screening left, and the newest of each selection and mixture;
    `sources` are those with most rows of the pool, the last one `…` for all others. `funnel` and `lost` are tables of
    where rows went, in all and by source; `kinds` are those that stayed out, by source and reason."""

    run: str
    stages: Sequence[Stage]
    sources: Sequence[str]
    funnel: Sequence[Row]
    lost: Sequence[Row]
    kinds: Sequence[Kind]

    def share(self, stage: Stage, source: str) -> float:
        """The share of a stage's rows that are of a source, 0 to 1."""
        return self.rows(stage, source) / max(1, stage.rows)

    def rows(self, stage: Stage, source: str) -> int:
        """A stage's rows of a source, or of all that are not shown."""
        if source != OTHER:
            return stage.by_source.get(source, 0)
        return sum(rows for name, rows in stage.by_source.items() if name not in self.sources[:-1])


def sources(store: Store) -> Sources:
    """Sources of the last run's pool, and of what was chosen since. Cost: a pass over the chosen rows."""
    run = computed_run(store)
    stages = [*_of_pool(run), *_chosen(store)] if run is not None else _chosen(store)
    counted = funnel(run.result) if run is not None else None
    return Sources(
        run.name if run is not None else "",
        stages,
        _order(stages),
        as_rows(counted) if counted else [],
        by_source(counted) if counted else [],
        kinds(store),
    )


def of_choice(store: Store, chosen: Choice) -> Sources:
    """Sources of the last run's pool beside those of one selection or mixture."""
    run = computed_run(store)
    own = Stage(chosen.name, chosen.reference, choices.by_source(store, chosen.selection_id))
    stages = [*(_of_pool(run) if run is not None else ()), own]
    return Sources("" if run is None else run.name, stages, _order(stages), [], [], [])


def stayed(store: Store, asked: Asked, first: int, count: int) -> list[Stayed]:
    """Rows that stayed out, from number `first` on, by file and line. Cost: as many rows as are passed over."""
    return list(stayed_out(store, asked, first + count))[first:]


def _of_pool(run: Run) -> list[Stage]:
    pool = run.result.ingest.pool
    found = [Stage("pool", "", pool.by_source)]
    if pool.used_by_source and pool.used_by_source != pool.by_source:
        found.append(Stage("after screening", "", pool.used_by_source))
    return found


def _chosen(store: Store) -> list[Stage]:
    """The newest of each name and target."""
    newest: dict[tuple[str, str], Stage] = {}
    for one in choices.choices(store):
        key = one.name, one.target
        if one.void is None and key not in newest and len(newest) < MOST:
            newest[key] = Stage(one.name, one.reference, choices.by_source(store, one.selection_id))
    return list(newest.values())


def _order(stages: Sequence[Stage]) -> list[str]:
    names = dict.fromkeys(name for stage in stages for name in stage.by_source)
    first: Mapping[str, int] = stages[0].by_source if stages else {}
    ordered = sorted(names, key=lambda name: (-first.get(name, 0), name))
    return ordered if len(ordered) <= SHOWN else [*ordered[: SHOWN - 1], OTHER]
