"""What a run made, as values: written to the catalog as JSON and read back by this module alone, whoever wrote it.

A summary has the form that `gradsift run --json` prints: plain objects with the fields below, except that the counts of
`SpaceRows` are in the object itself (`"ok": 1480, "no_labels": 3`). Summaries of older versions lack fields that came
later; `read` gives those their defaults.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from gradsift.datastore.arms import Worth
from gradsift.datastore.cascades import CascadeReport
from gradsift.datastore.compared import Portfolio, Versus
from gradsift.datastore.documents import object_of, with_rest
from gradsift.datastore.errors import InputError
from gradsift.datastore.holders import process_name
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.readings import SourceReport
from gradsift.datastore.store import Store
from gradsift.datastore.warmups import Drift

Json = dict[str, Any]  # a document or a part of one, as JSON holds it
Counts = Mapping[str, int]
MADE = ("selections", "mixtures")
BY_HAND = "by hand"  # method of what a person chose


@dataclass(frozen=True)
class Stage:
    """A stage and the seconds it took in this call: few where the work was done before."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class DatasetReport:
    """What reading a dataset gave. `rows_read` is all rows that its sources have; `duplicates` are good rows that
    repeat another's chat. `went` says by source where rows of each outcome were, {outcome: {source: rows}}: all that
    were `read`, and of these those that are no example of it."""

    examples: int
    digest: str
    rows_read: int
    new: int
    duplicates: int
    quarantined: Counts = field(default_factory=dict)  # by reason
    by_source: Counts = field(default_factory=dict)
    deleted: int = 0  # good rows of examples that were deleted before: they stay out
    not_drawn: int = 0  # good rows beyond the sample that a source's `rows` asks for
    filtered: int = 0  # rows that a source's `where` leaves out
    went: Mapping[str, Counts] = field(default_factory=dict)  # empty in summaries of older versions
    sources: Sequence[SourceReport] = ()  # as the recipe names them


@dataclass(frozen=True)
class LeftOut:
    """Examples that a screening leaves out for one reason."""

    reason: str
    examples: int
    by_source: Counts


@dataclass(frozen=True)
class PoolReport(DatasetReport):
    """The pool's, with what screening left of it: `used` examples, which are the dataset `used_dataset_id`."""

    left_out_test_rows: int = 0
    test_rows_by_source: Counts = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    screenings: Sequence[int] = ()  # their numbers in the catalog
    used: int | None = None  # None in summaries of older versions
    used_dataset_id: int | None = None
    used_by_source: Counts = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Examples that screening left."""
        return self.examples if self.used is None else self.used


@dataclass(frozen=True)
class Ingested:
    """What reading the sources gave, by dataset."""

    pool: PoolReport
    targets: Mapping[str, DatasetReport]
    tests: Mapping[str, DatasetReport]


@dataclass(frozen=True)
class SpaceRows:
    """Feature rows of a dataset at one checkpoint: where they are, how many were computed in this call, and how many
    there are by status."""

    role: str
    space_id: int
    dataset: str
    checkpoint: int
    transform: str
    computed: int
    dataset_id: int | None = None  # None in summaries of older versions
    statuses: Counts = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """Rows of a source that came and left between two versions."""

    source: str
    came: int
    left: int


@dataclass(frozen=True)
class VersionReport:
    """A numbered version that a run has, against the one before it. `new`: it has its number from this run, and is
    else what a run before it had made. `came` and `left` count rows; of a first version, and where the one before is
    no longer there, `before` is None and nothing is compared."""

    version: str
    kind: str
    name: str
    number: int
    new: bool
    rows: int
    before: int | None = None
    came: int | None = None
    left: int | None = None
    by_source: Sequence[Moved] = ()
    why: str = ""  # of a new number: that a deletion made it, or what changed though its rows did not


@dataclass(frozen=True)
class SelectionReport:
    """A selection: its sources, and the share of the target's own ones in it and in the pool (None: none are known)."""

    name: str
    target: str
    method: str
    digest: str
    examples: int
    rule: str = ""
    by_source: Counts = field(default_factory=dict)
    source_precision: float | None = None
    source_share_of_pool: float | None = None
    export: str | None = None
    selection_id: int | None = None  # in the catalog
    version: str = ""  # its number, as NAME@NUMBER, where it was made beside a run; a run's own has `versions`
    portfolio: Portfolio | None = None  # how its method was chosen, where it is `auto`


@dataclass(frozen=True)
class Share:
    """A line of a mixture's table: what a part asked of a source and what came out.

    `weight` is the share of the part that was asked for (None where the ranking decides), `requested` the budget that
    follows from it before caps, floors and what there is, `budget` after. Both are rows, or tokens of a token budget.
    """

    part: str
    source: str
    weight: float | None
    requested: int | None
    budget: int
    rows: int
    examples: int
    tokens: int | None
    share: float
    note: str


@dataclass(frozen=True)
class MixturePlan:
    """What a mixture was asked for and what came out, in `unit`s and by part and source; the rules that it follows."""

    unit: str = "rows"
    requested: int = 0
    realised: int = 0
    table: Sequence[Share] = ()
    rule: str = ""
    order: str = ""


@dataclass(frozen=True)
class MixtureReport:
    """A mixture: its budget in `unit`s, requested against realised, in all and by part and source."""

    name: str
    digest: str
    examples: int
    rows: int
    unit: str = "rows"
    requested: int = 0
    realised: int = 0
    by_source: Counts = field(default_factory=dict)
    table: Sequence[Share] = ()
    export: str | None = None
    selection_id: int | None = None  # in the catalog
    version: str = ""  # its number, as NAME@NUMBER, where it was made beside a run; a run's own has `versions`


@dataclass(frozen=True)
class ArmRow:
    """A line of the result table: one arm on one target, over its seeds, at its best learning rate.

    `forgetting` is the mean change of the other targets' test loss against `base`; `versus` holds comparisons by the
    other arm's name; `curves` has [step, loss] of each run.
    """

    arm: str
    target: str
    seeds: Sequence[int]
    lr: float
    test_loss: Sequence[float]
    test_loss_mean: float | None
    test_loss_ci95: float | None
    metric: str
    score: Sequence[float]
    score_mean: float | None
    response_tokens: float | None
    forgetting: float | None
    examples: int
    label_tokens: float
    tokens: float | None = None  # that a run trained on, all epochs
    source_precision: float | None = None
    seconds: float | None = None
    early_grad_norm: float | None = None
    peak_bytes: int | None = None  # of a run, the largest; of the GPU, or of the whole process
    diverged: int = 0
    lm_eval: Mapping[str, float] = field(default_factory=dict)  # means over seeds
    curves: Sequence[Sequence[Sequence[float | None]]] = ()
    versus: Mapping[str, Versus] = field(default_factory=dict)
    worth: Worth | None = None  # of an arm told to be better than random, its cost known; not in older summaries


@dataclass(frozen=True)
class RunResult:
    """What a run made. `base` is set for a selection, mixture or validation made later: the run whose rows it used."""

    name: str
    ingest: Ingested
    base: str = ""
    stages: Sequence[Stage] = ()
    rows: Sequence[SpaceRows] = ()
    selections: Sequence[SelectionReport] = ()
    mixtures: Sequence[MixtureReport] = ()
    arms: Sequence[ArmRow] = ()
    report: str = ""
    notes: Sequence[str] = ()  # of what the rows have of the model's weights
    cascade: CascadeReport | None = None  # of rows of a part of the pool
    drift: Drift | None = None  # of the pool from its warm-up; None without one, and in summaries of older versions
    unusable: Sequence[LeftOut] | None = None  # of what screening left, by status; None in older summaries
    versions: Sequence[VersionReport] = ()  # of a run that has just ended; `versions.of_run` knows those of any
    made_with: Mapping[str, str] = field(default_factory=dict)  # {package: version}; none in older summaries
    finished: Sequence[str] = ()  # what a deletion came to that was interrupted before, and that the run finished

    @property
    def pool_rows(self) -> list[SpaceRows]:
        """Rows of the pool, one entry for each checkpoint, oldest first."""
        return [row for row in self.rows if row.role == "pool"]

    @property
    def made(self) -> list[SelectionReport | MixtureReport]:
        """Selections, then mixtures."""
        return [*self.selections, *self.mixtures]


@dataclass(frozen=True)
class Recipes:
    """The recipe of a run as plain data: with absolute paths, and with paths as its author wrote them."""

    resolved: Json
    written: Json


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, what it made, the seconds it took, and when it ended (UTC, seconds since 1970)."""

    name: str
    recipes: Recipes
    summary: Json
    seconds: float
    run_id: int = 0
    finished: float = 0.0

    @cached_property
    def result(self) -> RunResult:
        """What it made. Raises InputError where that cannot be read any more."""
        return read(self.summary)

    @property
    def digests(self) -> set[tuple[str, str]]:
        """(name, digest) of its selections and mixtures."""
        return {(made["name"], made["digest"]) for kind in MADE for made in self.summary.get(kind, ())}

    @property
    def by_hand(self) -> bool:
        """Whether it made nothing but what a person picked."""
        return {made["method"] for made in self.summary.get("selections", ())} == {BY_HAND}


def as_json(result: RunResult) -> Json:
    """A result as plain data."""
    document = asdict(result)
    for row in document["rows"]:
        row.update(row.pop("statuses"))
    return document


def read(document: Json) -> RunResult:
    """A result from plain data, of this or an older version. Raises InputError for one that does not fit."""
    rows = with_rest(document, "rows", {f.name for f in fields(SpaceRows)}, "statuses")
    try:
        result: RunResult = _adapter().validate_python({**document, "rows": rows})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(
            f"run {document.get('name')!r} was recorded by another version ({where}: {error.errors()[0]['msg']}); "
            "run its recipe again"
        ) from None
    return result


@cache
def _adapter() -> TypeAdapter[RunResult]:
    return TypeAdapter(RunResult)


def plan_as_json(plan: MixturePlan) -> Json:
    """A mixture's plan as plain data, as details of mixtures and manifests of exports hold it."""
    budget = {"unit": plan.unit, "requested": plan.requested, "realised": plan.realised}
    return {"budget": budget, "table": [asdict(line) for line in plan.table], "rule": plan.rule, "order": plan.order}


def plan_from_json(document: Json) -> MixturePlan:
    """The inverse of `plan_as_json`."""
    lines = [Share(**line) for line in document["table"]]
    return MixturePlan(**document["budget"], table=lines, rule=document["rule"], order=document["order"])


def start(store: Store, name: str, recipes: Recipes, new_warmup: bool | None = None) -> int:
    """Record the start of a run, and whether it asks for a new warm-up; returns its number."""
    asked = None if new_warmup is None else int(new_warmup)
    resolved, written = canonical_json(recipes.resolved), canonical_json(recipes.written)
    with store.catalog.write() as db:
        (inserted,) = db.rows(
            "INSERT INTO run (name, recipe, started, written, new_warmup, holder) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING run_id",
            (name, resolved, db.now(), written, asked, process_name()),
        )
    return int(inserted["run_id"])


def wants_new_warmup(store: Store, name: str) -> bool:
    """Whether the newest run of that name, or one that was interrupted before it, asked for a new warm-up: that stands
    until a run has finished with it, or one asks for the finished one."""
    done = next((run.run_id for run in finished(store) if run.name == name and not run.summary.get("base")), 0)
    asked = store.catalog.one(
        "SELECT new_warmup FROM run WHERE name=? AND run_id > ? AND new_warmup IS NOT NULL ORDER BY run_id DESC",
        (name, done),
    )
    return asked is not None and bool(asked["new_warmup"])


def finish(store: Store, run_id: int, result: RunResult) -> None:
    """Record the end of a run and what it made."""
    with store.catalog.write() as db:
        db.execute(
            "UPDATE run SET finished=?, summary=? WHERE run_id=?",
            (db.now(), canonical_json(as_json(result)), run_id),
        )


def last_run(store: Store, computed: bool = False) -> Run:
    """The newest finished run, but what a person picked by hand is never meant unless it is named; `computed`: not
    counting later selections from its rows. Raises InputError when there is none."""
    for run in finished(store):
        if not (run.by_hand or (computed and run.summary.get("base"))):
            return run
    raise InputError(f"no run has finished in {store.root}; start one with `gradsift run RECIPE`")


def newest_number(store: Store) -> int:
    """The number of the newest run that began, however it stands; 0 without one."""
    (row,) = store.catalog.rows("SELECT coalesce(max(run_id), 0) AS n FROM run")
    return int(row["n"])


def last_notes(store: Store, name: str, warmup: str = "") -> Sequence[str]:
    """Notes of the newest finished run of that name or with that warm-up; none where there is none."""
    for run in finished(store):
        if run.name == name or (run.summary.get("drift") or {}).get("warmup") == warmup:
            return tuple(run.summary.get("notes", ()))
    return ()


class Named(Protocol):
    """A selection or mixture."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def digest(self) -> str:
        """Digest of its rows."""


def recipe_of(store: Store, chosen: Named) -> Recipes:
    """Recipes of the newest finished run that made a selection or mixture; raises InputError when there is none."""
    namesake = None
    for run in finished(store):
        if (chosen.name, chosen.digest) in run.digests:
            return run.recipes
        if namesake is None and chosen.name in {name for name, _ in run.digests}:
            namesake = run.recipes
    void = store.catalog.one("SELECT 1 FROM selection WHERE name=? AND void IS NOT NULL", (chosen.name,))
    if void and namesake:  # no run made what stands for a selection since examples of it were deleted
        return namesake
    raise InputError(f"no finished run made {chosen.name!r}; run its recipe again to its end")


def finished(store: Store) -> Iterator[Run]:
    """Finished runs, the newest first, each read when it is asked for."""
    numbers = store.catalog.rows("SELECT run_id FROM run WHERE finished IS NOT NULL ORDER BY run_id DESC")
    return (get(store, number["run_id"]) for number in numbers)


def get(store: Store, run_id: int) -> Run:
    """A finished run by its number. Raises InputError where there is none."""
    row = store.catalog.one("SELECT * FROM run WHERE run_id=? AND finished IS NOT NULL", (run_id,))
    if row is None:
        raise InputError(f"there is no finished run {run_id} in {store.root}; `gradsift report --list` lists them")
    of = {name: object_of(row[name], f"`{name}` of run {run_id}") for name in ("recipe", "written", "summary")}
    recipes, seconds = Recipes(of["recipe"], of["written"] or of["recipe"]), row["finished"] - row["started"]
    return Run(row["name"], recipes, of["summary"], seconds, row["run_id"], row["finished"])


def recorded(store: Store) -> list[Json]:
    """Resolved recipes of all runs, finished or not, the newest first, each once."""
    rows = store.catalog.rows("SELECT recipe FROM run GROUP BY recipe ORDER BY max(run_id) DESC")
    return [json.loads(row["recipe"]) for row in rows]


def makers(store: Store, chosen: Named) -> Iterator[Run]:
    """Finished runs that made a selection or mixture, the newest first."""
    return (run for run in finished(store) if (chosen.name, chosen.digest) in run.digests)


def newest_of_each(store: Store) -> list[Run]:
    """The newest finished run of each name, the newest first."""
    rows = store.catalog.rows(
        "SELECT max(run_id) AS n FROM run WHERE finished IS NOT NULL GROUP BY name ORDER BY n DESC"
    )
    return [get(store, row["n"]) for row in rows]
