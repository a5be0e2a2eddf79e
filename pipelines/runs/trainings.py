"""The validation runs that a recipe asks for, before anything is chosen: how many, and on how many rows each."""

from collections.abc import Iterator
from dataclasses import dataclass

from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.validate.arms import BASE, QTUNING

ONCE = ("mixture", "random", "random_balanced", "human", "full")  # the same rows for targets of equally many rows


@dataclass(frozen=True)
class Pool:
    """What a run chooses from: usable rows, and their mean tokens and label tokens."""

    rows: int
    tokens: float
    label_tokens: float


@dataclass(frozen=True)
class Training:
    """One run: an arm, its rows, and the rows that it sees in all its steps (0: it is not trained)."""

    arm: str
    rows: int
    seen: int


def trainings(recipe: Recipe, pool: Pool) -> list[Training]:
    """All runs of the recipe's validation. Sizes are what the recipe asks for; an arm whose rows differ between targets
    has a run for each."""
    if recipe.validate_ is None:
        return []
    settings = recipe.validation
    sizes = sizes_of(recipe, pool)
    runs = [Training(BASE, 0, 0)]
    for name, rows, times in _arms(recipe, sizes):
        anchor = sizes[next(n for n in ("selected", "mixture") if n in sizes)]
        batch = settings.batch_size
        matched = -(-anchor // batch) * batch if settings.match == "steps" else rows
        count = times * len(settings.seeds) * max(1, len(settings.lrs))
        runs += [Training(name, rows, matched * settings.epochs)] * count
    return runs


def _arms(recipe: Recipe, sizes: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """(arm, rows, runs of each seed and rate)."""
    settings, targets = recipe.validation, len(recipe.targets)
    anchor = sizes.get("selected", sizes.get("mixture", 0))
    names = [name for name in OURS if name in sizes]
    names += [QTUNING] if settings.qtuning is not None and "selected" in sizes else []
    for name in dict.fromkeys([*names, *settings.arms]):
        if name in OURS and name not in sizes:
            continue
        yield name, sizes.get(name, anchor), 1 if name in ONCE else targets


def sizes_of(recipe: Recipe, pool: Pool) -> dict[str, int]:
    """Rows of what the recipe chooses, and of the whole pool."""
    sizes = {"full": pool.rows}
    if recipe.selecting is not None:
        select = recipe.select
        wanted = select.examples or max(1, int((select.fraction or 0.0) * pool.rows))
        if select.label_tokens is not None:
            wanted = max(select.at_least or 1, int(select.label_tokens / max(1.0, pool.label_tokens)))
        sizes["selected"] = min(pool.rows, wanted)
    if recipe.mix is not None:
        mix = recipe.mix
        budget = mix.examples or (mix.fraction or 0.0) * pool.rows
        budget = budget or (mix.label_tokens or 0) / max(1.0, pool.label_tokens)
        sizes["mixture"] = int(budget or (mix.tokens or 0) / max(1.0, pool.tokens))
    return sizes
