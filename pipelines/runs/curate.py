"""The whole run: ingest → screen → warm-up → gradients → select → mix → export → validate, from one recipe.

Every stage asks the catalog what is done and does the rest, so the run can be killed anywhere and called again. Only
what a method of the recipe needs is computed. `step` wraps each piece of work (flows pass one that makes it a Prefect
task); this module needs no Prefect.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from gradsift.datastore import leases, lives, runs, versions
from gradsift.datastore.cascades import CascadeReport
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import BusyError, CorruptionError
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.runs import Ingested, Recipes, RunResult, SelectionReport, SpaceRows, Stage
from gradsift.datastore.selections import Selection
from gradsift.datastore.settled import resolve
from gradsift.datastore.store import Store
from gradsift.datastore.warmups import Drift
from gradsift.pipelines.export.about import Told, pool_words
from gradsift.pipelines.export.export import export
from gradsift.pipelines.features import layers
from gradsift.pipelines.features.capture import watched_layers
from gradsift.pipelines.features.cascade import cascade
from gradsift.pipelines.features.drift import drift_of
from gradsift.pipelines.features.fit import look
from gradsift.pipelines.features.gather import Material, evidence, unusable_of
from gradsift.pipelines.features.gradients import checkpoint_rows
from gradsift.pipelines.mix.mixture import describe_mixture, make_mixture
from gradsift.pipelines.model.encode import template_notes
from gradsift.pipelines.model.positions import check_length
from gradsift.pipelines.model.work import Spread, Work, open_work
from gradsift.pipelines.pool import semantic
from gradsift.pipelines.pool.read import read_datasets, with_screening
from gradsift.pipelines.progress import Progress, Step, directly, quiet
from gradsift.pipelines.recipe import ChosenLayers, Recipe, packages
from gradsift.pipelines.report.kept import newest_page
from gradsift.pipelines.report.report import keep_report
from gradsift.pipelines.report.worth import with_worth
from gradsift.pipelines.runs import forget
from gradsift.pipelines.runs.look import lost_labels
from gradsift.pipelines.select import need
from gradsift.pipelines.select.select import describe, select_for
from gradsift.pipelines.training.adopted import base_notes, with_adapter_of
from gradsift.pipelines.training.warmup import warm_up
from gradsift.pipelines.validate.validate import Made, validate
from gradsift.pipelines.version import made_with

T = TypeVar("T")


def curate(
    recipe: Recipe,
    store: Store,
    *,
    export_root: Path | None = None,
    step: Step = directly,
    progress: Progress = quiet,
    spread: Spread | None = None,
    new_warmup: bool | None = None,
) -> RunResult:
    """Run a recipe against a store, or finish one that was interrupted. `spread` does the pieces of its work: units of
    rows, signatures, validation runs; without it, threads of this process compute the units. `new_warmup` asks for
    checkpoints of the present pool, False for the store's own; None is what an interrupted run asked for.

    Raises BusyError when another live process runs on this store; other GradsiftErrors as stages name them.
    """
    packages.check(recipe)
    recipe = with_adapter_of(recipe)
    with leases.held(store, leases.RUN) as mine:
        if not mine:
            raise BusyError(f"another run is working on {store.root}; wait for it, or see who with `gradsift status`")
        deletion = forget.resume(store, progress)
        recipes = Recipes(recipe.model_dump(mode="json", by_alias=True), recipe.written)
        run_id = runs.start(store, recipe.name, recipes, new_warmup)
        work = Work(store, recipe, progress=progress, spread=spread)
        root = store.root / "exports" if export_root is None else export_root.absolute()  # as it is recorded
        with lives.ending(store, run_id):
            result = _curate(work, run_id, recipes, root, _Stages(step))
        return result if deletion is None else replace(result, finished=_told(deletion, result))


def _told(deletion: forget.Finished, result: RunResult) -> list[str]:
    """What a deletion came to that the run finished first, without exports that the run wrote anew since."""
    written = {Path(made.export).resolve() for made in result.made if made.export}
    exports = [one for one in deletion.exports if Path(one.folder).resolve() not in written]
    return forget.told(replace(deletion, exports=exports))


@dataclass(frozen=True)
class _Stages:
    """The stages of a run as they are done: each is a step, and its seconds are noted."""

    step: Step
    done: list[Stage] = field(default_factory=list)

    def __call__(self, name: str, action: Callable[[], T]) -> T:
        with self.timed(name):
            value: T = self.step(name, action)
        return value

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the block as a stage."""
        start = time.perf_counter()
        yield
        self.done.append(Stage(name, round(time.perf_counter() - start, 2)))


def _curate(work: Work, run_id: int, recipes: Recipes, export_root: Path, stage: _Stages) -> RunResult:
    store, recipe = work.store, work.recipe
    if recipe.lm is not None:
        work = stage("model", lambda: open_work(store, recipe, work.progress, work.spread))
        check_length(recipe, work.model)
    material, ingested = stage("ingest", lambda: read_datasets(work))
    targets = {name: (len(one.example_ids), len(set(one.subtasks))) for name, one in material.targets.items()}
    need.check(recipe, len(material.pool.example_ids), targets)
    lost = _check_labels(work, material)
    made_of = _Rows()
    if recipe.needs_rows:
        work, material, made_of = _gradients(work, material, stage, run_id)
        recipes = replace(recipes, resolved=work.recipe.model_dump(mode="json", by_alias=True))
        material, ingested = _without_semantic(work, material, ingested, stage)
    notes = made_of.notes
    if work.loaded is not None:
        notes = list(dict.fromkeys([*template_notes(work.loaded.tokenizer), *lost, *notes]))
    result = RunResult(
        recipe.name,
        ingested,
        rows=made_of.rows,
        notes=notes,
        cascade=made_of.cascade,
        drift=made_of.drift,
        unusable=unusable_of(store, material.pool, [pair.train for pair in material.pairs]),
    )
    made = Made()
    if recipe.selecting is not None:
        chosen = stage("select", lambda: _select(work, material))
        reports = [describe(work, target, s, material.pool) for target, s in chosen.items()]
        made, result = replace(made, chosen=chosen), replace(result, selections=reports)
    if recipe.mix is not None:
        mixed = stage("mix", lambda: make_mixture(work, material))
        made, result = replace(made, mixture=mixed), replace(result, mixtures=[describe_mixture(work, mixed)])
    result = stage("export", lambda: _export(work, made, recipes, export_root, result))
    if recipe.validate_ is not None:
        with stage.timed("validate"):  # not a step: its runs are
            result = replace(result, arms=validate(work, material, made, stage.step))
            result = with_worth(store, recipe, result)
    path = newest_page(store, recipe.name)
    result = replace(result, stages=tuple(stage.done), report=str(path), made_with=made_with())
    runs.finish(store, run_id, result)
    catch_up(store)
    stage("report", lambda: keep_report(store, runs.get(store, run_id)))
    return replace(result, stages=tuple(stage.done), versions=versions.of_run(store, run_id))


def _check_labels(work: Work, material: Material) -> list[str]:
    """What there is to say of targets that lose their labels; raises InputError where that is most of one."""
    notes = lost_labels(work, material)
    for number, note in enumerate(notes, 1):
        work.progress(note, number, len(notes))
    return notes


@dataclass(frozen=True)
class _Rows:
    """The gradient rows of a run, what there is to say of the model's weights in them, of their warm-up, and of the
    choice among them where they are of a part of the pool."""

    rows: Sequence[SpaceRows] = ()
    notes: Sequence[str] = ()
    drift: Drift | None = None
    cascade: CascadeReport | None = None


def _gradients(work: Work, material: Material, stage: _Stages, run_id: int) -> tuple[Work, Material, _Rows]:
    """Warm up, choose layers where the recipe has them chosen, and compute the rows of every checkpoint, or those
    that a cascade asks for; the work is then under a recipe that names the layers."""
    recipe, store = work.recipe, work.store
    found: list[Sequence[str]] = []

    def check(model: Any) -> None:
        watched = watched_layers(model, recipe.features.parameters, recipe.features.patterns)
        found.append(look(model, watched, work.model, recipe.model.attention, recipe.lora).notes())
        for number, note in enumerate(found[-1], 1):
            work.progress(note, number, len(found[-1]))

    new = runs.wants_new_warmup(store, recipe.name)
    warmed = stage("warmup", lambda: warm_up(work, material.pool, check, new=new))
    choice = None
    rule = recipe.features.layers
    if isinstance(rule, ChosenLayers):
        choice = stage("layers", lambda: layers.choose(work, material, warmed.points[0], rule))
        work = layers.settled(work, choice.layers)
        resolve(store, run_id, work.recipe.model_dump(mode="json", by_alias=True))
        work.progress(choice.note, 1, 1)
    parted = None if recipe.cascade is None else cascade(work, material, warmed.points, stage)
    with_rows, rows = (parted.material, parted.rows) if parted else _of_all(work, material, warmed.points, stage)
    drift = None
    if warmed.run is not None and recipe.warmup is not None:
        looked = [row for row in rows if row.role == "pool" and parted and row.checkpoint == parted.report.checkpoint]
        drift = drift_of(
            store,
            warmed.run,
            material.pool,
            looked[0].space_id if looked else with_rows.pairs[-1].train,
            reused=warmed.reused,
            max_drift=recipe.warmup.max_drift,
            among=parted.landmarks if parted else None,
        )
    # a model that was trained before was looked at then
    notes = found[-1] if found else runs.last_notes(store, recipe.name, drift.warmup if drift else "")
    notes = [note for note in notes if not layers.of_choice(note)]
    chosen = [] if choice is None else [choice.note]
    notes = list(dict.fromkeys([*base_notes(recipe), *chosen, *notes]))
    return work, with_rows, _Rows(rows, notes, drift, parted.report if parted else None)


def _of_all(
    work: Work, material: Material, points: Sequence[Checkpoint], stage: _Stages
) -> tuple[Material, Sequence[SpaceRows]]:
    """Rows of the whole pool at every checkpoint."""
    pairs, rows = [], []
    for point in points:
        pair, computed = stage(f"gradients-{point.ordinal}", lambda: checkpoint_rows(work, material, point))
        pairs.append(pair)
        rows += computed
    return replace(material, pairs=tuple(pairs)), rows


def _without_semantic(work: Work, material: Material, ingested: Ingested, stage: _Stages) -> tuple[Material, Ingested]:
    """Leave near-duplicates by gradient rows or embeddings out, where the recipe asks for that."""
    dedup = work.recipe.dedup
    if dedup is None or dedup.semantic is None or dedup.semantic.represent == "encoder":
        return material, ingested
    screened = stage("semantic", lambda: semantic.by_rows(work, material.pool, material.pairs))
    report = with_screening(work, ingested.pool, screened)
    return replace(material, pool=screened.pool), replace(ingested, pool=report)


def _select(work: Work, material: Material) -> dict[str, Selection]:
    select = work.recipe.select
    return {
        name: select_for(work, evidence(work, material, name, select.encoder, needs=select.needs), name)
        for name in material.targets
    }


def _export(work: Work, made: Made, recipes: Recipes, root: Path, result: RunResult) -> RunResult:
    told = Told(pool=pool_words(result))

    def written(selection: Selection) -> str:
        if Path(selection.name).name != selection.name:
            raise CorruptionError(
                f"selection {selection.selection_id} of {work.store.root} is called by a path, {selection.name!r}, "
                "which gradsift does not do: somebody else wrote into its catalog. Look with `gradsift verify`"
            )
        folder = root / selection.name
        return str(export(work.store, selection, recipes, folder, progress=work.progress, told=told))

    selected = zip(result.selections, made.chosen.values(), strict=True)
    exported: Sequence[SelectionReport] = [replace(report, export=written(s)) for report, s in selected]
    mixtures = [replace(report, export=written(made.mixture)) for report in result.mixtures if made.mixture]
    return replace(result, selections=exported, mixtures=mixtures)
