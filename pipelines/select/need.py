"""What a recipe's methods will hold in memory, from its sizes: said by a dry run, and checked before gradients."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from gradsift.datastore.errors import InputError
from gradsift.pipelines.memory import default_budget
from gradsift.pipelines.methods.memory import PER_EXAMPLE, SEMDEDUP, Sizes
from gradsift.pipelines.methods.registry import looks_at, memory_of, methods, rules
from gradsift.pipelines.methods.room import fit
from gradsift.pipelines.recipe import Method, Recipe
from gradsift.pipelines.training.adopted import folders


def planned(
    recipe: Recipe, pool: int, targets: Mapping[str, tuple[int, int]], tokens: float = 0.0, layers: int = 1
) -> dict[str, tuple[float, Sizes, str]]:
    """{what: (bytes, sizes, what makes it less)} of the methods of a recipe, of each the largest over its targets.

    `targets` are (rows, subtasks); `tokens` the mean label tokens of a chat. Rows by module have `layers` times the
    dims.
    """
    dims = _dims(recipe, layers)
    wanted: dict[str, tuple[float, Sizes, str]] = {}

    def note(what: str, method: Method, of: str | None, chosen: int) -> None:
        score, rule, options = method.parts()
        represent = looks_at(score, rule, options)
        names = [of] if of is not None else list(targets)
        for rows, subtasks in (targets[name] for name in names):
            sizes = Sizes(
                pool, dims.get(represent, 0), rows, subtasks, chosen, _checkpoints(recipe), int(tokens * pool)
            )
            need = memory_of(score, rule, options, sizes)
            if need > wanted.get(what, (0.0, sizes, ""))[0]:
                wanted[what] = (need, sizes, rules()[rule].memory.less)

    for what, method, of, chosen in _methods(recipe, pool):
        note(what, method, of, chosen)
    semantic = recipe.dedup.semantic if recipe.dedup else None
    if semantic is not None:
        represent = "plain" if semantic.represent == "gradients" else semantic.represent
        sizes = Sizes(pool, dims.get(represent, 0), 0, 0, 0)
        need = PER_EXAMPLE * pool + SEMDEDUP.need(sizes, {"clusters": semantic.clusters or 0})
        wanted["`dedup.semantic`"] = (need, sizes, SEMDEDUP.less)
    return wanted


def check(recipe: Recipe, pool: int, targets: Mapping[str, tuple[int, int]]) -> None:
    """Raise InputError where a method of the recipe needs more memory than it may take: before gradients are computed,
    not after."""
    budget = recipe.memory or default_budget()
    for what, why in refused(planned(recipe, pool, targets), budget):
        raise InputError(f"{what}: {why}")


def refused(plan: Mapping[str, tuple[float, Sizes, str]], budget: float) -> Iterator[tuple[str, str]]:
    """(what, why) of what `planned` says that needs more than may be taken."""
    for what, (need, sizes, less) in plan.items():
        try:
            fit(budget, need, sizes, less)
        except InputError as error:
            yield what, str(error)


def _methods(recipe: Recipe, pool: int) -> Iterator[tuple[str, Method, str | None, int]]:
    """(what, method, its target or None for each, how many it chooses)."""
    chosen = pool
    if recipe.selecting is not None:
        chosen = recipe.select.examples or int((recipe.select.fraction or 1.0) * pool)
        for select in [recipe.select.by(name) for name in recipe.select.between] or [recipe.select]:
            yield f"method {select.method!r}", select, None, chosen
    for part in recipe.mix.all_parts() if recipe.mix else ():
        whole = part.sources is None and not isinstance(part.weights, dict)  # else it is asked when its pool is known
        if part.target is not None and whole:
            method = recipe.method_of(part)
            yield f"mix, part {part.name!r}, method {method.method!r}", method, part.target, pool
    for arm in recipe.validate_.arms if recipe.validate_ else ():
        if arm in methods():
            yield f"arm {arm!r}", Method(method=arm, encoder=recipe.validation.encoder), None, chosen


def _checkpoints(recipe: Recipe) -> int:
    if recipe.warmup is not None and recipe.warmup.from_:
        return len(folders(recipe.warmup.from_))
    return recipe.warmup.epochs if recipe.warmup is not None else 1


def _dims(recipe: Recipe, layers: int) -> dict[str, int]:
    """Dims of rows by what they represent; those that the recipe's folders do not tell are left out."""
    width = recipe.features.projector.dim * (layers if recipe.features.projector.per_module else 1)
    hidden = _hidden(recipe.lm.path) if recipe.lm is not None else 0
    select = recipe.selecting.encoder if recipe.selecting is not None else None
    semantic = recipe.dedup.semantic.encoder if recipe.dedup and recipe.dedup.semantic else None
    return {"gradients": width, "plain": width, "embedding": hidden, "encoder": _hidden(select or semantic)}


def _hidden(folder: str | None) -> int:
    """Size of a model's hidden states by its config, 0 where that does not tell."""
    path = Path(folder or "") / "config.json"
    if folder is None or not path.is_file():
        return 0
    config = json.loads(path.read_text("utf-8"))
    return int(config.get("hidden_size") or config.get("text_config", {}).get("hidden_size") or 0)
