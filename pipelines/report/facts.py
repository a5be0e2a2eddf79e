"""What a reader needs to know of a run: its words, when it ended, of what it was made, and what to do next."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from gradsift.datastore import features
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Run, RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.report.effects import RULE
from gradsift.pipelines.tables import Row

WORDS = {
    "target": "what the model should become good at: examples of it (`val`) steer the choice, others (`test`) measure.",
    "arm": "one way of choosing rows to train on; all arms start from the same model and are trained alike.",
    "base": "the model before any of this training.",
    "random": "as many rows of the pool, drawn by chance: what choosing must beat.",
    "seed": "the number that decides what is left to chance; each arm is trained once for each seed.",
    "loss, nats": "how surprised the model is by the right answers, per token; 0 is not at all. A nat is the unit of "
    "information with natural logarithms: a loss that is 0.1 nats lower makes each token 1.1 times as probable.",
    "percent better": "(loss of random − loss of this arm) / loss of random, on test rows. Its interval is the "
    "verdict's own 95 % interval divided by random's mean loss.",
    "size": RULE,
}


def words(result: RunResult) -> Mapping[str, str]:
    """The words that the page of a run uses: those of validation only where it validated."""
    return WORDS if result.arms else {"target": WORDS["target"]} if result.ingest.targets else {}


def date_of(run: Run) -> str:
    """When the run ended: recorded with it, so that the page made again says the same."""
    return datetime.fromtimestamp(run.finished, UTC).strftime("%Y-%m-%d %H:%M UTC") if run.finished else ""


def facts(store: Store, recipe: Recipe, run: Run) -> list[Row]:
    """A line for each fact: run, date, model with its digest, main settings, versions."""
    found = {
        "run": f"{run.run_id} of this store, {run.name}",
        "finished": date_of(run),
        "model": _model(store, recipe, run.result),
        "method": _method(run.result),
        "trained": _trained(recipe) if run.result.arms else "",
        "versions": ", ".join(f"{name} {version}" for name, version in run.result.made_with.items()),
    }
    return [{"what": what, "value": value} for what, value in found.items() if value]


def _model(store: Store, recipe: Recipe, result: RunResult) -> str:
    if recipe.lm is None:
        return ""
    name = recipe.lm.hub or Path(recipe.lm.path or "").name
    rows = result.pool_rows
    if not rows:
        return name
    try:
        return f"{name}, digest {features.space_spec(store, rows[-1].space_id)['model'][:12]}"
    except (InputError, KeyError):
        return name


def _method(result: RunResult) -> str:
    chosen = [f"{made.method}: {made.examples:,} rows for {made.target}" for made in result.selections]
    chosen += [f"mixture of {made.rows:,} rows" for made in result.mixtures]
    pool = result.ingest.pool
    return f"{'; '.join(chosen)}, of {pool.left:,}" if chosen else ""


def _trained(recipe: Recipe) -> str:
    of = recipe.validate_
    if of is None:
        return ""
    rates = ", ".join(f"{rate:g}" for rate in of.lrs or [of.lr])
    return f"{of.mode}, {of.epochs:g} epochs, learning rate {rates}, seeds {', '.join(map(str, of.seeds))}"


def recipe_text(run: Run) -> str:
    """The recipe as its author wrote it, in YAML, without what was not set."""
    return yaml.safe_dump(_set(run.recipes.written), sort_keys=False, allow_unicode=True)


def _set(value: object) -> object:
    if isinstance(value, dict):
        return {key: _set(inner) for key, inner in value.items() if inner is not None}
    return [_set(inner) for inner in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
