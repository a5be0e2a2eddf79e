"""Validation of what a store holds: the last run's selections and mixture, with its own or other settings."""

from dataclasses import replace
from pathlib import Path

from gradsift.datastore import lives, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.runs import Recipes, RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.features.space import require_model
from gradsift.pipelines.model.work import Spread, Work, open_work
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.read import refuse_leaks
from gradsift.pipelines.progress import Progress, Step, directly, quiet
from gradsift.pipelines.recipe import Fields, packages, recorded_recipe
from gradsift.pipelines.report.kept import newest_page
from gradsift.pipelines.report.report import keep_report
from gradsift.pipelines.report.worth import with_worth
from gradsift.pipelines.runs import forget
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.validate.validate import Made, validate
from gradsift.pipelines.version import made_with


def revalidate(
    store: Store,
    settings: Fields | None = None,
    *,
    out: Path | None = None,
    step: Step = directly,
    progress: Progress = quiet,
    spread: Spread | None = None,
) -> RunResult:
    """Run (or finish) the arms of the store's last run and record them as a run of its own, with a report.

    The last run may be a later selection or mixture (`gradsift select`, `mix`): then that is what is compared. Arms
    that have been trained with the same settings are not trained again. Raises InputError where there is nothing to
    validate, or no model to train, and FeatureSpaceMismatch where the model is not the one that chose any more.
    """
    forget.finish(store, progress)
    last = runs.last_run(store)
    base = runs.last_run(store, computed=True)
    own = last.recipes.resolved.get("validate") or base.recipes.resolved.get("validate")
    section = dict(settings) if settings is not None else _plain(own)
    recipe = recorded_recipe({**last.recipes.resolved, "validate": section or {}}, "this validation")
    if recipe.lm is None:
        raise InputError(f"recipe {recipe.name!r} has no `model` to train")
    packages.check_validation(recipe)
    made = _made(store, last.result)
    if not made.chosen and made.mixture is None:
        raise InputError("the store's last run chose nothing to validate")
    work = open_work(store, recipe, progress, spread)
    material = material_of(store, base)
    for pair in material.pairs:
        require_model(store, pair.train, work.model)
    wanted = list(made.chosen) or list(recipe.targets)
    material = replace(material, tests={name: _test(work, name) for name in wanted})
    refuse_leaks(material.targets, material.tests)
    recipes = Recipes(recipe.model_dump(mode="json", by_alias=True), last.recipes.written)
    run_id = runs.start(store, recipe.name, recipes)
    with lives.ending(store, run_id):
        rows = validate(work, material, made, step)
        path = out or newest_page(store, recipe.name)
        result = replace(last.result, base=last.name, arms=rows, report=str(path), made_with=made_with())
        result = with_worth(store, recipe, result)
        runs.finish(store, run_id, result)
        keep_report(store, runs.get(store, run_id), out)
    return result


def _plain(section: Fields | None) -> Fields | None:
    """A recorded section, which its reader may never have seen. Raises InputError where it would run code (tasks of
    lm-eval are that), or write and send elsewhere (trackers do)."""
    asked = section or {}
    harness = asked.get("lm_eval") or {}
    reaching = {"lm_eval.include_path": harness.get("include_path"), "report_to": asked.get("report_to")}
    for name, value in reaching.items():
        if value:
            raise InputError(
                f"the store's recorded recipe has `validate.{name}: {value}`, which reaches out of the store, and is "
                "followed in a file of yours alone: write the `validate` section that you want to one, and give that "
                "(`gradsift validate --settings FILE`)"
            )
    return section


def _made(store: Store, result: RunResult) -> Made:
    chosen = {made.target: selections.get(store, made.name, made.target) for made in result.selections}
    mixed = [selections.get(store, made.name) for made in result.mixtures]
    return Made(chosen, mixed[0] if mixed else None)


def _test(work: Work, name: str) -> Dataset:
    test = work.recipe.targets[name].test
    if test is None:
        raise InputError(f"targets.{name} has no `test`, which validation measures on; add it and run the recipe again")
    return ingest(work.store, "test", name, [test], work.recipe.seed)[0]
