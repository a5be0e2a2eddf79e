"""More selections from a store that holds a run: other methods, seeds or checkpoints, without a model or a new pass."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from gradsift.datastore import checkpoints, examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.features.encoder import encoder_pairs
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.methods.registry import checked_options, scores, split_options
from gradsift.pipelines.mix.stage import describe_mixture, make_mixture
from gradsift.pipelines.model.load import open_model
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, parse_recipe
from gradsift.pipelines.runs.curate import RunResult, describe
from gradsift.pipelines.select.select import refusals_of, select_for


def changed(last: Mapping[str, Any], sections: Mapping[str, Any], name: str, seed: int | None) -> Recipe:
    """The last run's recipe with other sections `select` and `mix`, under another name and without validation."""
    more = {"select": None, "mix": None, **sections, "name": name[:64], "validate": None}
    if seed is not None:
        more["seed"] = seed
    return parse_recipe({**last["recipe"], **more}, "this selection").written_as({**last["written"], **more})


def evidence(
    store: Store,
    recipe: Recipe,
    summary: Mapping[str, Any],
    checkpoint: int | None = None,
    progress: Progress = quiet,
) -> dict[str, Evidence]:
    """{target: evidence} of a finished run, at all of its checkpoints or at one.

    Raises InputError for a run of an older version, which must be finished again, and for an unknown checkpoint.
    """
    rows = summary["rows"]
    if any("dataset_id" not in row for row in rows):
        raise InputError("the store's last run is of an older version; run its recipe again (it finds its rows)")
    pool_rows = [row for row in rows if row["role"] == "pool"]
    ordinals = [row["checkpoint"] for row in pool_rows]
    if checkpoint is not None and checkpoint not in ordinals:
        raise InputError(f"there is no checkpoint {checkpoint}; this store has {sorted(ordinals)}")
    used = summary["ingest"]["pool"].get("used_dataset_id", pool_rows[0]["dataset_id"])
    pool = examples.get_dataset(store, used)
    targets = {
        row["dataset"]: examples.get_dataset(store, row["dataset_id"]) for row in rows if row["role"] == "target"
    }
    folder = recipe.selecting.encoder if recipe.selecting else None
    encoder = encoder_pairs(store, folder, pool, targets, progress)
    found = {}
    for name, target in targets.items():
        pairs = []
        for row in pool_rows:
            query = next(x for x in rows if x["dataset"] == name and x["checkpoint"] == row["checkpoint"])
            if checkpoint is None or row["checkpoint"] == checkpoint:
                pairs.append(SpacePair(row["space_id"], query["space_id"], _mean_lr(store, row["space_id"])))
        found[name] = Evidence(store, pool, target, pairs, recipe.seed, encoder.get(name))
    return found


def _mean_lr(store: Store, space_id: int) -> float:
    return checkpoints.by_digest(store, features.space_spec(store, space_id)["checkpoint"]).mean_lr


def reselect(
    store: Store,
    select: Mapping[str, Any],
    *,
    target: str | None = None,
    checkpoint: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    progress: Progress = quiet,
) -> list[dict[str, Any]]:
    """Select by another method on the store's last run and record it as a run of its own."""
    last = selections.last_run(store, computed=True)
    recipe = changed(last, {"select": dict(select)}, name or _name(last, select["method"]), seed)
    result = RunResult(recipe.name, last["name"], rows=last["summary"]["rows"], ingest=last["summary"]["ingest"])
    run_id = selections.start_run(store, recipe.name, recipe.model_dump(mode="json", by_alias=True), recipe.written)
    found = evidence(store, recipe, last["summary"], checkpoint, progress)
    wanted = _wanted(found, target)
    for key in wanted:
        chosen = select_for(store, recipe, found[key], key)
        result.selections.append(describe(store, recipe, key, chosen, found[key].pool))
        progress("selections", len(result.selections), len(wanted))
    selections.finish_run(store, run_id, asdict(result))
    return result.selections


def _name(last: Mapping[str, Any], suffix: str) -> str:
    return f"{last['recipe']['name']}-{suffix.replace('_', '-')}"


def remix(
    store: Store,
    mix: Mapping[str, Any],
    *,
    name: str | None = None,
    seed: int | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Make another mixture of the store's last run's pool, from its rows where parts need them, and record it."""
    last = selections.last_run(store, computed=True)
    select = last["recipe"].get("select")
    recipe = changed(last, {"select": select, "mix": dict(mix)}, name or _name(last, "mix"), seed)
    summary = last["summary"]
    result = RunResult(recipe.name, last["name"], rows=summary["rows"], ingest=summary["ingest"])
    run_id = selections.start_run(store, recipe.name, recipe.model_dump(mode="json", by_alias=True), recipe.written)
    used = summary["ingest"]["pool"].get("used_dataset_id")
    if used is None:
        raise InputError("the store's last run is of an older version; run its recipe again (it finds its rows)")
    found = evidence(store, recipe, summary, None, progress) if summary["rows"] else {}
    if recipe.needs_rows and not found:
        raise InputError("this mixture looks at gradients and the store's last run computed none; use `gradsift run`")
    loaded = open_model(recipe.model) if recipe.lm else None
    targets, pairs = {n: e.target for n, e in found.items()}, {n: e.pairs for n, e in found.items()}
    chosen = make_mixture(store, recipe, loaded, examples.get_dataset(store, used), targets, pairs, progress)
    result.mixtures.append(describe_mixture(store, chosen))
    selections.finish_run(store, run_id, asdict(result))
    return result.mixtures[0]


def _wanted(found: Mapping[str, Evidence], target: str | None) -> list[str]:
    if target is not None and target not in found:
        raise InputError(f"there is no target {target!r}; this store has {', '.join(found)}")
    return [target] if target is not None else list(found)


def score(
    store: Store, select: Mapping[str, Any], target: str | None = None, checkpoint: int | None = None
) -> dict[str, pa.Table]:
    """{target: table of example_id, source, score (the best column), label_tokens}, best first; chooses nothing.

    Raises InputError for a method whose rule looks at rows and has no score.
    """
    last = selections.last_run(store, computed=True)
    recipe = changed(last, {"select": {**select, "fraction": 1.0}}, _name(last, select["method"]), None)
    name, rule, options = recipe.select.parts()
    if name == "none":
        raise InputError(f"method {recipe.select.method!r} chooses sets and scores no example; use `gradsift select`")
    of_score, _ = split_options(name, rule, checked_options(name, rule, options))
    found = evidence(store, recipe, last["summary"], checkpoint)
    with refusals_of(f"method {recipe.select.method!r}"):
        return {
            key: _score_table(found[key], scores()[name].run(found[key], **of_score)) for key in _wanted(found, target)
        }


def _score_table(e: Evidence, scores: Any) -> pa.Table:
    one = scores if scores.ndim == 1 else scores.max(axis=1)
    table = pa.table(
        {
            "example_id": e.ids,
            "source": e.sources(),
            "score": pa.array(one),
            "label_tokens": pa.array(e.label_tokens(), pa.int32()),
        }
    )
    return table.sort_by([("score", "descending"), ("example_id", "ascending")])
