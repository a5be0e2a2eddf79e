"""Stage: the mixture of a run: gathers what its parts look at, has it made, and says what came out."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradsift.datastore import selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.features.encoder import encoder_pairs
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.mix.law import held_out, law_weights
from gradsift.pipelines.mix.mixture import mixture
from gradsift.pipelines.mix.order import default_method
from gradsift.pipelines.mix.weights import Context
from gradsift.pipelines.model.lengths import lengths, spec_of
from gradsift.pipelines.model.load import Loaded
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Mix, Recipe
from gradsift.pipelines.training.loss_drop import pool_losses


def make_mixture(
    store: Store,
    recipe: Recipe,
    loaded: Loaded | None,
    pool: Dataset,
    targets: Mapping[str, Dataset],
    pairs: Mapping[str, Sequence[SpacePair]],
    progress: Progress = quiet,
) -> Selection:
    """Make the recipe's mixture. `pairs` are the gradient spaces of each target, empty without gradients."""
    mix = recipe.mix or Mix(examples=1)
    evidence = {}
    for part in mix.all_parts():
        if part.target is not None and part.name is not None:
            method, target = part.select or default_method(recipe), targets[part.target]
            encoder = encoder_pairs(store, method.encoder, pool, {part.target: target}, progress)
            losses = pool_losses(store, recipe, loaded, target, progress) if loaded else None
            evidence[part.name] = Evidence(
                store, pool, target, pairs[part.target], recipe.seed, encoder.get(part.target), losses
            )
    return mixture(store, recipe, pool, evidence, _context(store, recipe, loaded, pool, targets, pairs, progress),
                   progress)  # fmt: skip


def _context(
    store: Store,
    recipe: Recipe,
    loaded: Loaded | None,
    pool: Dataset,
    targets: Mapping[str, Dataset],
    pairs: Mapping[str, Sequence[SpacePair]],
    progress: Progress,
) -> Context:
    def needed() -> Loaded:
        if loaded is None:
            raise InputError(f"recipe {recipe.name!r} has no `model`, which a budget in tokens needs")
        return loaded

    some = next((name for name in targets if pairs.get(name)), None)
    return Context(
        lengths=lambda dataset: lengths(store, recipe, needed(), dataset, progress),
        evidence=Evidence(store, pool, targets[some], pairs[some], recipe.seed) if some else None,
        law=lambda part, data, names, budget: law_weights(
            store, recipe, needed(), part, data, names, int(budget), progress
        ),
        hold_out=lambda part, data: held_out(store, recipe, part, data),
        identity={"lengths": spec_of(recipe, loaded), "model": loaded.model_digest} if loaded else {},
    )


def describe_mixture(store: Store, chosen: Selection) -> dict[str, Any]:
    """What a run reports of its mixture: budget, and requested against realised by part and source."""
    plan = selections.plan(store, chosen) or {}
    by_source: dict[str, int] = {}
    for line in plan.get("table", []):
        by_source[line["source"]] = by_source.get(line["source"], 0) + line["rows"]
    return {
        "name": chosen.name,
        "digest": chosen.digest,
        "examples": len(chosen.example_ids),
        "rows": chosen.rows,
        **plan.get("budget", {}),
        "by_source": dict(sorted(by_source.items(), key=lambda item: (-item[1], item[0]))),
        "table": plan.get("table", []),
    }
