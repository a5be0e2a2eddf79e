"""What selecting and training cost, in FLOPs and seconds.

A forward pass takes 2·N FLOPs a token for N weights outside the embedding; a backward pass through frozen weights
another 2·N (gradients of activations only), through trained ones 4·N. So a token costs 4·N with an adapter, 6·N in
full, and a gradient row costs what a training step with an adapter does. Attention's share (below a tenth at these
lengths) and the projection (0.2 % of a pass) are left out. The pool's rows serve every target: their cost is divided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradsift.datastore import features
from gradsift.datastore.runs import ArmRow, RunResult, SpaceRows
from gradsift.datastore.store import Store
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.weights import outside_embeddings
from gradsift.pipelines.recipe import Recipe

ROW, FULL = 4, 6  # FLOPs of a token for each weight: with an adapter, and in full


@dataclass(frozen=True)
class Cost:
    """A line of the cost table. `seconds` are of the run that did the work; None where another did."""

    what: str
    tokens: int
    flops: float
    seconds: float | None
    share_of_training: float | None


def weights_outside_embeddings(recipe: Recipe) -> int:
    """N of a recipe's model; 0 for a GGUF model."""
    return outside_embeddings(open_model(recipe.model).folder, recipe.model.gguf_file)


@dataclass(frozen=True)
class Selecting:
    """Tokens that went through the model to choose: in the warm-up, for the pool's rows, and for each target's."""

    warmup: int
    pool: int
    targets: Mapping[str, int]

    def flops(self, weights: int) -> float:
        """FLOPs of all of it."""
        return ROW * weights * (self.warmup + self.pool + sum(self.targets.values()))

    def shared(self, weights: int) -> float:
        """FLOPs of what serves every target."""
        return ROW * weights * (self.warmup + self.pool)

    def own(self, weights: int, target: str) -> float:
        """FLOPs of a target's own rows."""
        return ROW * weights * self.targets.get(target, 0)


def training_flops(recipe: Recipe, weights: int, tokens: float) -> float:
    """FLOPs of training an arm on so many tokens."""
    return (FULL if recipe.validate_ and recipe.validate_.mode == "full" else ROW) * weights * tokens


def costs(store: Store, recipe: Recipe, result: RunResult) -> list[Cost]:
    """Selection (warm-up, rows of pool and targets) and the training that it is for, by arm."""
    n, spent = weights_outside_embeddings(recipe), selecting(store, recipe, result)
    seconds: dict[str, float] = {}
    # Else a part was done by an earlier call. Plain rows come from the pool's own pass.
    whole_work = all(row.computed >= row.statuses.get("ok", 1) for row in result.rows if row.role != "plain")
    for stage in result.stages if whole_work else ():
        name = stage.stage.split("-")[0]
        seconds[name] = seconds.get(name, 0.0) + stage.seconds
    rows: list[tuple[str, int, float, float | None]] = []
    if spent.warmup:
        rows.append(("warm-up", spent.warmup, float(ROW * n * spent.warmup), seconds.get("warmup")))
    if spent.pool:
        tokens = spent.pool + sum(spent.targets.values())
        rows.append(("gradient rows", tokens, float(ROW * n * tokens), seconds.get("gradients")))
    tried = [(made.target, made.portfolio) for made in result.selections if made.portfolio is not None]
    rows += [(f"trials for {target}", portfolio.tokens, portfolio.spent, None) for target, portfolio in tried]
    training = _training(result.arms)
    main = training.get("selected") or training.get("mixture")
    whole = training_flops(recipe, n, main[0]) if main else 0.0
    lines = [Cost(what, tokens, flops, spent, flops / whole if whole else None) for what, tokens, flops, spent in rows]
    for name, (tokens, took) in training.items():
        flops = training_flops(recipe, n, tokens)
        lines.append(Cost(f"training {name}, one seed", tokens, flops, took, flops / whole if whole else None))
    return lines


def selecting(store: Store, recipe: Recipe, result: RunResult) -> Selecting:
    """What went through the model to choose, by the rows that the store has; all 0 in a run without gradient rows."""
    pool, targets = _row_tokens(store, result.rows)
    if recipe.warmup is None or recipe.warmup.from_ or not pool:
        return Selecting(0, pool, targets)
    points, size = max(1, len(result.pool_rows)), result.ingest.pool.left
    if result.drift is not None:  # the warm-up's own sample, which may be of another pool
        share = result.drift.trained / max(1, size)
    else:
        share = min(1.0, max(recipe.warmup.fraction, recipe.warmup.min_examples / max(1, size)))
    once = result.cascade.tokens if result.cascade else pool / points
    return Selecting(int(once * share * recipe.warmup.epochs), pool, targets)


def _row_tokens(store: Store, rows: Sequence[SpaceRows]) -> tuple[int, dict[str, int]]:
    """Tokens that went through the model for rows of (the pool, each target), over all checkpoints."""
    pool, targets = 0, dict[str, int]()
    for row in rows:
        if row.role in ("pool", "target") and row.dataset_id is not None:
            ids = features.with_rows(store, row.space_id, row.dataset_id)
            blocks = features.read(store, row.space_id, ids)
            tokens = sum(int(b.signal("n_tokens").sum()) for b in blocks if "n_tokens" in b.signals.column_names)
            if row.role == "pool":
                pool += tokens
            else:
                targets[row.dataset] = targets.get(row.dataset, 0) + tokens
    return pool, targets


def _training(arms: Sequence[ArmRow]) -> dict[str, tuple[int, float | None]]:
    """{arm: (mean tokens of a run, mean seconds)} of the first target that has it."""
    spent: dict[str, tuple[int, float | None]] = {}
    for arm in arms:
        if arm.tokens and arm.arm not in spent:
            spent[arm.arm] = (round(arm.tokens), arm.seconds)
    return spent
