"""More selections from a store that holds a run: other methods, seeds or checkpoints, without a new pass, and without a
model but for methods that train one."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from gradsift.datastore import runs
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import MixtureReport, Run, SelectionReport
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material, evidence
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import ROWS, checked_options, scored, split_options
from gradsift.pipelines.methods.room import make_room
from gradsift.pipelines.methods.rules import best
from gradsift.pipelines.mix.mixture import describe_mixture, make_mixture
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Fields, Method
from gradsift.pipelines.runs import forget
from gradsift.pipelines.runs.last import material_of, require_whole, work_on
from gradsift.pipelines.runs.later import changed, name_after, numbers, started
from gradsift.pipelines.select.select import describe, refusals_of, select_for


def reselect(
    store: Store,
    select: Fields,
    *,
    target: str | None = None,
    checkpoint: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    memory: str | None = None,
    progress: Progress = quiet,
) -> list[SelectionReport]:
    """Select by another method on the store's last run and record it as a run of its own."""
    forget.finish(store, progress)
    last = runs.last_run(store, computed=True)
    _require_rows(select, last)
    method = _method(select)
    trains = method is not None and bool(method.between)
    sections = {"select": dict(select), **_allowing(memory)}
    recipe = changed(last, sections, name or name_after(last, select["method"]), seed, trains=trains)
    require_whole(last, recipe, checkpoint)
    material = material_of(store, last, checkpoint)
    work = work_on(store, recipe, material, progress, trains=trains)
    wanted = _wanted(material, target)
    reports = []
    with started(store, recipe, last) as (run_id, result):
        for key in wanted:
            chosen = select_for(
                work, evidence(work, material, key, recipe.select.encoder, needs=recipe.select.needs), key
            )
            reports.append(describe(work, key, chosen, material.pool))
            progress("selections", len(reports), len(wanted))
        runs.finish(store, run_id, replace(result, selections=reports))
    number_of = numbers(store, run_id)
    return [replace(report, version=number_of[report.name]) for report in reports]


def remix(
    store: Store, mix: Fields, *, name: str | None = None, seed: int | None = None, progress: Progress = quiet
) -> MixtureReport:
    """Make another mixture of the store's last run's pool, from its rows where parts need them, and record it."""
    forget.finish(store, progress)
    last = runs.last_run(store, computed=True)
    select = last.recipes.resolved.get("select")
    recipe = changed(last, {"select": select, "mix": dict(mix)}, name or name_after(last, "mix"), seed)
    require_whole(last, recipe)
    material = material_of(store, last)
    if recipe.needs_rows and not material.pairs:
        raise InputError("this mixture looks at gradients and the store's last run computed none; use `gradsift run`")
    with started(store, recipe, last) as (run_id, result):
        work = open_work(store, recipe, progress)
        report = describe_mixture(work, make_mixture(work, material))
        runs.finish(store, run_id, replace(result, mixtures=[report]))
    return replace(report, version=numbers(store, run_id)[report.name])


def score(
    store: Store,
    select: Fields,
    target: str | None = None,
    checkpoint: int | None = None,
    memory: str | None = None,
) -> dict[str, pa.Table]:
    """{target: table of example_id, source, score (the best column), label_tokens}, best first; chooses nothing.

    `label_tokens` are those of the gradient pass, missing where the run had none. Raises InputError for a method whose
    rule looks at rows and has no score.
    """
    last = runs.last_run(store, computed=True)
    _require_rows(select, last)
    section = {"select": {**select, "fraction": 1.0}, **_allowing(memory)}
    recipe = changed(last, section, name_after(last, select["method"]))
    name, rule, options = recipe.select.parts()
    if name == "none":
        raise InputError(f"method {recipe.select.method!r} chooses sets and scores no example; use `gradsift select`")
    of_score, _ = split_options(name, rule, checked_options(name, rule, options))
    require_whole(last, recipe, checkpoint)
    material = material_of(store, last, checkpoint)
    work = work_on(store, recipe, material)
    tables = {}
    for key in _wanted(material, target):
        e = evidence(work, material, key, recipe.select.encoder, needs=recipe.select.needs)
        with refusals_of(f"method {recipe.select.method!r}"):
            make_room(e, name, None, of_score, 0)
            tables[key] = _score_table(e, scored(e, recipe.select.method, name, of_score))
    return tables


def _allowing(memory: str | None) -> Fields:
    return {} if memory is None else {"memory": memory}


def _require_rows(select: Fields, last: Run) -> None:
    method = _method(select)
    if last.result.rows or method is None or not method.needs & ROWS:
        return
    bare = last.recipes.resolved.get("model") is None
    raise InputError(
        f"method {select['method']!r} looks at gradients and the store's last run, {last.name!r}, computed none; "
        f"name it under `select` in the recipe{', add a `model`,' if bare else ''} and use `gradsift run`"
    )


def _method(select: Fields) -> Method | None:
    """A method with its options; None where they make no sense, which is said when they are read."""
    try:
        return Method(**{name: select[name] for name in Method.model_fields if select.get(name) is not None})
    except ValidationError:
        return None


def _wanted(material: Material, target: str | None) -> list[str]:
    if target is not None and target not in material.targets:
        raise InputError(f"there is no target {target!r}; this store has {', '.join(material.targets)}")
    return [target] if target is not None else list(material.targets)


def _score_table(e: Evidence, values: NDArray[np.float64]) -> pa.Table:
    tokens = e.label_tokens() if e.pairs else [None] * len(e.ids)
    table = pa.table(
        {
            "example_id": e.ids,
            "source": e.sources(),
            "score": pa.array(best(values)),
            "label_tokens": pa.array(tokens, pa.int32()),
        }
    )
    return table.sort_by([("score", "descending"), ("example_id", "ascending")])
