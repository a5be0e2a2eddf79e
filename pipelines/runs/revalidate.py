"""Validation of what a store holds: the last run's selections and mixture, with its own or other settings."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.features.encoder import encoder_pairs
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.model.load import Loaded, open_model
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.progress import Progress, Step, directly, quiet
from gradsift.pipelines.recipe import Recipe, parse_recipe
from gradsift.pipelines.report.report import write_report
from gradsift.pipelines.runs.curate import RunResult
from gradsift.pipelines.runs.reselect import evidence
from gradsift.pipelines.training.loss_drop import pool_losses
from gradsift.pipelines.validate.table import as_dicts
from gradsift.pipelines.validate.validate import Elsewhere, validate


def revalidate(
    store: Store,
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    step: Step = directly,
    progress: Progress = quiet,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """Run (or finish) the arms of the store's last run and record them as a run of its own, with a report.

    The last run may be a later selection or mixture (`gradsift select`, `mix`): then that is what is compared. Arms
    that have been trained with the same settings are not trained again. Raises InputError for a run that cannot be.
    """
    last = selections.last_run(store)
    base = selections.last_run(store, computed=True)
    section = (
        dict(settings) if settings is not None else last["recipe"].get("validate") or base["recipe"].get("validate")
    )
    recipe = parse_recipe({**last["recipe"], "validate": section or {}}, "this validation")
    if recipe.lm is None:
        raise InputError(f"recipe {recipe.name!r} has no `model` to train")
    summary = last["summary"]
    chosen = {s["target"]: selections.get(store, s["name"], s["target"]) for s in summary["selections"]}
    mixed = [selections.get(store, m["name"]) for m in summary.get("mixtures", [])]
    if not chosen and not mixed:
        raise InputError("the store's last run chose nothing to validate")
    wanted = list(chosen) or list(recipe.targets)
    tests = {name: _test(store, recipe, name) for name in wanted}
    found = evidence(store, recipe, base["summary"]) if base["summary"]["rows"] else {}
    targets = {name: found[name].target if name in found else _val(store, recipe, name) for name in wanted}
    used = base["summary"]["ingest"]["pool"]["used_dataset_id"]
    pool = examples.get_dataset(store, used)
    run_id = selections.start_run(store, recipe.name, recipe.model_dump(mode="json", by_alias=True), last["written"])
    mixture: Selection | None = mixed[0] if mixed else None
    loaded = open_model(recipe.model)
    evidence_for = partial(_evidence, store, recipe, loaded, found, progress)
    rows = validate(
        store, recipe, loaded, pool, chosen, mixture, targets, tests, evidence_for, step, progress, elsewhere
    )
    path = out or store.root / "reports" / f"{recipe.name}.html"
    known = {f: summary[f] for f in ("name", "stages", "ingest", "rows", "selections") if f in summary}
    result = RunResult(
        **known, base=last["name"], mixtures=summary.get("mixtures", []), arms=as_dicts(rows), report=str(path)
    )
    selections.finish_run(store, run_id, asdict(result))
    write_report(store, path)
    return {"arms": result.arms, "report": str(path)}


def _test(store: Store, recipe: Recipe, name: str) -> Dataset:
    test = recipe.targets[name].test
    if test is None:
        raise InputError(f"targets.{name} has no `test`, which validation measures on; add it and run the recipe again")
    return ingest(store, "test", name, [test], recipe.seed)[0]


def _val(store: Store, recipe: Recipe, name: str) -> Dataset:
    return ingest(store, "target", name, [recipe.targets[name].val], recipe.seed)[0]


def _evidence(
    store: Store, recipe: Recipe, loaded: Loaded, found: Mapping[str, Evidence], progress: Progress, target: str
) -> Evidence:
    if target not in found:
        raise InputError("this store has no gradient rows for an arm that chooses by a method; use `gradsift run`")
    base = found[target]
    folder = recipe.validate_.encoder if recipe.validate_ else None
    encoder = encoder_pairs(store, folder, base.pool, {target: base.target}, progress)
    losses = pool_losses(store, recipe, loaded, base.target, progress)
    return Evidence(store, base.pool, base.target, base.pairs, recipe.seed, encoder.get(target), losses)
