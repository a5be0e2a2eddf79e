"""The whole run: ingest → screen → warm-up → gradients → select → mix → export → validate, from one recipe.

Every stage asks the catalog what is done and does the rest, so the run can be killed anywhere and called again.
`step` wraps each piece of work (flows pass one that makes it a Prefect task); this module needs no Prefect.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gradsift.datastore import examples, features, leases, selections
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.features import gradients
from gradsift.pipelines.features.encoder import encoder_pairs
from gradsift.pipelines.features.space import GradientJob, make_job
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.mix.stage import describe_mixture, make_mixture
from gradsift.pipelines.model.load import Loaded, open_model
from gradsift.pipelines.pool.ingest import IngestReport, ingest
from gradsift.pipelines.pool.screen import Screened, screen, semantic, semantic_encoder
from gradsift.pipelines.progress import Progress, Step, directly, quiet
from gradsift.pipelines.recipe import Recipe, Source
from gradsift.pipelines.report.report import write_report
from gradsift.pipelines.select.select import select_for
from gradsift.pipelines.training import warmup
from gradsift.pipelines.training.loss_drop import pool_losses
from gradsift.pipelines.validate.table import as_dicts
from gradsift.pipelines.validate.validate import Elsewhere, validate

T = TypeVar("T")
RUN_LEASE = "run"


@dataclass
class RunResult:
    """What a run made. `stages` are seconds of this call, small where the work was done before."""

    name: str
    base: str = ""  # of a selection made later: the run whose rows it used
    stages: list[dict[str, Any]] = field(default_factory=list)
    ingest: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    mixtures: list[dict[str, Any]] = field(default_factory=list)
    arms: list[dict[str, Any]] = field(default_factory=list)
    report: str = ""


@dataclass(frozen=True)
class Data:
    """The datasets of a recipe."""

    pool: Dataset
    targets: dict[str, Dataset]
    tests: dict[str, Dataset]


def curate(
    recipe: Recipe,
    store: Store,
    *,
    export_root: Path | None = None,
    step: Step = directly,
    progress: Progress = quiet,
    elsewhere: Elsewhere | None = None,
) -> RunResult:
    """Run a recipe against a store, or finish one that was interrupted. `elsewhere` does the validation runs.

    Raises BusyError when another live process runs on this store; other GradsiftErrors as stages name them.
    """
    with leases.held(store, RUN_LEASE) as mine:
        if not mine:
            raise BusyError(f"another run is working on {store.root}; wait for it, or see who with `gradsift status`")
        return _curate(recipe, store, export_root or store.root / "exports", step, progress, elsewhere)


def _curate(
    recipe: Recipe, store: Store, export_root: Path, step: Step, progress: Progress, elsewhere: Elsewhere | None
) -> RunResult:
    result = RunResult(recipe.name)
    resolved = recipe.model_dump(mode="json", by_alias=True)
    run_id = selections.start_run(store, recipe.name, resolved, recipe.written)

    def timed(name: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        value: T = step(name, work)
        result.stages.append({"stage": name, "seconds": round(time.perf_counter() - start, 2)})
        return value

    loaded = timed("model", lambda: open_model(recipe.model)) if recipe.lm else None
    data = timed("ingest", lambda: _ingest(store, recipe, result, progress))
    pairs: list[SpacePair] = []
    if loaded is not None and recipe.needs_rows:
        points = timed("warmup", lambda: warmup.warm_up(store, recipe, loaded, data.pool, progress))
        for point in points:
            rows_here = partial(_rows, store, recipe, loaded, data, point, result, progress)
            pairs.append(timed(f"gradients-{point.ordinal}", rows_here))
    if recipe.dedup and recipe.dedup.semantic and recipe.dedup.semantic.represent != "encoder":
        data = timed("semantic", lambda: _semantic(store, recipe, data, pairs, result))
    chosen: dict[str, Selection] = {}
    if recipe.selecting is not None and loaded is not None:
        chosen = timed("select", lambda: _select(store, recipe, loaded, data, pairs, result, progress))
    made = dict(chosen)
    if recipe.mix is not None:
        mixed = timed("mix", lambda: _mix(store, recipe, loaded, data, pairs, result, progress))
        made[selections.MIXTURE] = mixed
    recipes = selections.Recipes(resolved, recipe.written)
    timed("export", lambda: _export(store, list(made.values()), recipes, export_root, result, progress))
    if recipe.validate_ is not None and loaded is not None:
        start = time.perf_counter()
        rows = validate(
            store,
            recipe,
            loaded,
            data.pool,
            chosen,
            made.get(selections.MIXTURE),
            data.targets,
            data.tests,
            partial(_validation_evidence, store, recipe, loaded, data, pairs, progress),
            step,
            progress,
            elsewhere,
        )
        result.stages.append({"stage": "validate", "seconds": round(time.perf_counter() - start, 2)})
        result.arms = as_dicts(rows)
    result.report = str(store.root / "reports" / f"{recipe.name}.html")
    selections.finish_run(store, run_id, asdict(result))
    timed("report", lambda: write_report(store, Path(result.report)))
    return result


def _ingest(store: Store, recipe: Recipe, result: RunResult, progress: Progress) -> Data:
    pool, report = ingest(store, "pool", recipe.name, recipe.pool, recipe.seed, progress)
    result.ingest = {"pool": _summary(pool, report), "targets": {}, "tests": {}}
    targets, tests = {}, {}
    for name, target in recipe.targets.items():
        targets[name], report = ingest(store, "target", name, [target.val], recipe.seed, progress)
        result.ingest["targets"][name] = _summary(targets[name], report)
        if target.test is not None:
            tests[name], report = ingest(store, "test", name, [target.test], recipe.seed, progress)
            result.ingest["tests"][name] = _summary(tests[name], report)
        elif recipe.validate_ is not None:
            raise InputError(f"targets.{name} has no `test`, which `validate` needs; add it or drop `validate`")
    _refuse_leaks(targets, tests)
    pool = _without_tests(store, pool, tests, result)
    extra = [ingest(store, "test", name, [source], recipe.seed, progress)[0] for name, source in _sets(recipe)]
    references = [*targets.values(), *tests.values(), *extra]
    pool = _note_screened(store, result, screen(store, recipe, pool, references, progress))
    pool = _note_screened(store, result, semantic_encoder(store, recipe, pool, progress))
    return Data(pool, targets, tests)


def _sets(recipe: Recipe) -> list[tuple[str, Source]]:
    return list(recipe.decontaminate.sets.items()) if recipe.decontaminate else []


def _note_screened(store: Store, result: RunResult, found: Screened) -> Dataset:
    """Add a screening to the report; returns its pool."""
    report = result.ingest["pool"]
    report["left_out"] = [*report.get("left_out", []), *found.left_out]
    report["screenings"] = [*report.get("screenings", []), *([found.screening] if found.screening else [])]
    report |= {
        "used": len(found.pool.example_ids),
        "used_dataset_id": found.pool.dataset_id,
        "used_by_source": examples.source_counts(store, found.pool),
    }
    return found.pool


def _semantic(store: Store, recipe: Recipe, data: Data, pairs: Sequence[SpacePair], result: RunResult) -> Data:
    target = next(iter(data.targets.values()))
    found = semantic(store, recipe, Evidence(store, data.pool, target, pairs, recipe.seed))
    return Data(_note_screened(store, result, found), data.targets, data.tests)


def _without_tests(store: Store, pool: Dataset, tests: dict[str, Dataset], result: RunResult) -> Dataset:
    """The pool without rows of a test set: training on those would make any selection look good."""
    held_out = {i for test in tests.values() for i in test.example_ids}
    kept = [i for i in pool.example_ids if i not in held_out]
    result.ingest["pool"]["left_out_test_rows"] = len(pool.example_ids) - len(kept)
    if len(kept) == len(pool.example_ids):
        return pool
    if not kept:
        raise InputError("every example of the pool is also in a test set")
    return examples.define_dataset(store, "pool", pool.name, dict.fromkeys(kept, ""))


def _refuse_leaks(targets: dict[str, Dataset], tests: dict[str, Dataset]) -> None:
    for name, test in tests.items():
        shared = set(test.example_ids) & set(targets[name].example_ids)
        if shared:
            raise InputError(
                f"targets.{name}: {len(shared)} test rows are also in `val`; a selection may not see the test set"
            )


def _summary(dataset: Dataset, report: IngestReport) -> dict[str, Any]:
    return {
        "examples": len(dataset.example_ids),
        "digest": dataset.digest,
        "rows_read": report.rows,
        "new": report.new,
        "duplicates": report.duplicates,
        "quarantined": dict(report.quarantined.most_common()),
        "by_source": dict(report.by_source.most_common()),
    }


def _rows(
    store: Store,
    recipe: Recipe,
    loaded: Loaded,
    data: Data,
    point: Checkpoint,
    result: RunResult,
    progress: Progress,
) -> SpacePair:
    """Feature rows of all targets, then of the pool, at one checkpoint."""
    job = make_job(recipe, loaded, store, point)
    query = 0
    for target in data.targets.values():  # first: an unusable target should fail before the long part
        query = _dataset_rows(store, job.as_query(), target, 1, result, progress, point.ordinal)
    train = _dataset_rows(store, job, data.pool, recipe.workers, result, progress, point.ordinal)
    return SpacePair(train, query, point.mean_lr)


def _dataset_rows(
    store: Store,
    job: GradientJob,
    dataset: Dataset,
    workers: int,
    result: RunResult,
    progress: Progress,
    ordinal: int,
) -> int:
    space_id, _ = gradients.plan_rows(store, job, dataset)
    label = f"checkpoint {ordinal}: gradients of {dataset.name}"

    def one(_number: int) -> int:
        return gradients.work(store, job, space_id, dataset, progress, label)

    if workers == 1:
        computed = one(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            computed = sum(pool.map(one, range(workers)))
    found = features.statuses(store, space_id, dataset.dataset_id)
    gradients.require_rows(dataset, found)
    result.rows.append(
        {
            "role": dataset.role,
            "space_id": space_id,
            "dataset": dataset.name,
            "dataset_id": dataset.dataset_id,
            "checkpoint": ordinal,
            "transform": job.transform,
            "computed": computed,
            **found,
        }
    )
    return space_id


def _select(
    store: Store,
    recipe: Recipe,
    loaded: Loaded,
    data: Data,
    pairs: Sequence[SpacePair],
    result: RunResult,
    progress: Progress,
) -> dict[str, Selection]:
    chosen = {}
    encoder = encoder_pairs(store, recipe.select.encoder, data.pool, data.targets, progress)
    for name, target in data.targets.items():
        losses = pool_losses(store, recipe, loaded, target, progress)
        evidence = Evidence(store, data.pool, target, pairs, recipe.seed, encoder.get(name), losses)
        chosen[name] = select_for(store, recipe, evidence, name)
        result.selections.append(describe(store, recipe, name, chosen[name], data.pool))
    return chosen


def _validation_evidence(
    store: Store,
    recipe: Recipe,
    loaded: Loaded,
    data: Data,
    pairs: Sequence[SpacePair],
    progress: Progress,
    target: str,
) -> Evidence:
    """What arms that choose by a method look at."""
    folder = recipe.validate_.encoder if recipe.validate_ else None
    encoder = encoder_pairs(store, folder, data.pool, {target: data.targets[target]}, progress)
    losses = pool_losses(store, recipe, loaded, data.targets[target], progress)
    return Evidence(store, data.pool, data.targets[target], pairs, recipe.seed, encoder.get(target), losses)


def describe(store: Store, recipe: Recipe, name: str, chosen: Selection, pool: Dataset) -> dict[str, Any]:
    """What a run reports of a selection: size, sources, and the share of the target's own ones in it and the pool."""
    found = _sources(store, chosen.example_ids)
    own = set(recipe.targets[name].own_sources)
    everything = _sources(store, pool.example_ids)
    return {
        "name": chosen.name,
        "target": name,
        "method": chosen.method,
        "rule": recipe.select.parts()[1],
        "digest": chosen.digest,
        "examples": len(found),
        "by_source": {s: found.count(s) for s in sorted(set(found), key=lambda s: (-found.count(s), s))},
        "source_precision": sum(s in own for s in found) / len(found) if own else None,
        "source_share_of_pool": sum(s in own for s in everything) / len(everything) if own else None,
    }


def _sources(store: Store, ids: Sequence[str]) -> list[str]:
    found = examples.sources_of(store, ids)
    return [found[i][0] for i in ids]


def _mix(
    store: Store,
    recipe: Recipe,
    loaded: Loaded | None,
    data: Data,
    pairs: Sequence[SpacePair],
    result: RunResult,
    progress: Progress,
) -> Selection:
    spaces = dict.fromkeys(data.targets, pairs)  # one pair serves all: targets share their space
    chosen = make_mixture(store, recipe, loaded, data.pool, data.targets, spaces, progress)
    result.mixtures.append(describe_mixture(store, chosen))
    return chosen


def _export(
    store: Store,
    chosen: Sequence[Selection],
    recipes: selections.Recipes,
    root: Path,
    result: RunResult,
    progress: Progress,
) -> None:
    for summary in (*result.selections, *result.mixtures):
        selection = next(s for s in chosen if s.name == summary["name"])
        summary["export"] = str(export(store, selection, recipes, root / selection.name, progress=progress))
