"""What selecting and training cost, in FLOPs and seconds.

A forward pass takes 2·N FLOPs a token for N weights outside the embedding; a backward pass through frozen weights
another 2·N (gradients of activations only), through trained ones 4·N. So a token costs 4·N with an adapter, 6·N in
full, and a gradient row costs what a training step with an adapter does. Attention's share (below a tenth at these
lengths) and the projection (0.2 % of a pass) are left out. The pool's rows serve every target: their cost is divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.datastore import features
from gradsift.datastore.runs import ArmRow, RunResult, SpaceRows
from gradsift.datastore.store import Store
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.weights import weight_files
from gradsift.pipelines.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """A line of the cost table. `seconds` are of the run that did the work; None where another did."""

    what: str
    tokens: int
    flops: float
    seconds: float | None
    share_of_training: float | None


def weights_outside_embeddings(recipe: Recipe) -> int:
    """N, from the shapes in the weight files; 0 for a GGUF model."""
    from safetensors import safe_open

    total = 0
    files = weight_files(open_model(recipe.model).folder, recipe.model.gguf_file)
    for path in (file for file in files if file.suffix == ".safetensors"):
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if "embed" not in name and "lm_head" not in name and "wte" not in name:
                    size = 1
                    for width in file.get_slice(name).get_shape():
                        size *= width
                    total += size
    return total


def costs(store: Store, recipe: Recipe, result: RunResult) -> list[Cost]:
    """Selection (warm-up, rows of pool and targets) and the training that it is for, by arm."""
    n = weights_outside_embeddings(recipe)
    seconds: dict[str, float] = {}
    # Else a part was done by an earlier call. Plain rows come from the pool's own pass.
    whole_work = all(row.computed >= row.statuses.get("ok", 1) for row in result.rows if row.role != "plain")
    for stage in result.stages if whole_work else ():
        name = stage.stage.split("-")[0]
        seconds[name] = seconds.get(name, 0.0) + stage.seconds
    per_token = 6 if recipe.validate_ and recipe.validate_.mode == "full" else 4
    rows: list[tuple[str, int, float, float | None]] = []
    pool_tokens, target_tokens = _row_tokens(store, result.rows)
    if recipe.warmup is not None and not recipe.warmup.from_ and pool_tokens:
        points, pool = max(1, len(result.pool_rows)), result.ingest.pool
        size = pool.left
        if result.drift is not None:  # the warm-up's own sample, which may be of another pool
            share = result.drift.trained / max(1, size)
        else:
            share = min(1.0, max(recipe.warmup.fraction, recipe.warmup.min_examples / max(1, size)))
        tokens = int(pool_tokens / points * share * recipe.warmup.epochs)
        rows.append(("warm-up", tokens, 4.0 * n * tokens, seconds.get("warmup")))
    if pool_tokens:
        tokens = pool_tokens + target_tokens
        rows.append(("gradient rows", tokens, 4.0 * n * tokens, seconds.get("gradients")))
    training = _training(result.arms)
    main = training.get("selected") or training.get("mixture")
    whole = float(per_token * n * main[0]) if main else 0.0
    lines = [Cost(what, tokens, flops, spent, flops / whole if whole else None) for what, tokens, flops, spent in rows]
    for name, (tokens, spent) in training.items():
        flops = float(per_token * n * tokens)
        lines.append(Cost(f"training {name}, one seed", tokens, flops, spent, flops / whole if whole else None))
    return lines


def _row_tokens(store: Store, rows: Sequence[SpaceRows]) -> tuple[int, int]:
    """Tokens that went through the model for rows of (pool, targets), over all checkpoints."""
    tokens = {"pool": 0, "target": 0}
    for row in rows:
        if row.role in tokens and row.dataset_id is not None:
            ids = features.with_rows(store, row.space_id, row.dataset_id)
            for block in features.read(store, row.space_id, ids):
                if "n_tokens" in block.signals.column_names:
                    tokens[row.role] += int(block.signal("n_tokens").sum())
    return tokens["pool"], tokens["target"]


def _training(arms: Sequence[ArmRow]) -> dict[str, tuple[int, float | None]]:
    """{arm: (mean tokens of a run, mean seconds)} of the first target that has it."""
    spent: dict[str, tuple[int, float | None]] = {}
    for arm in arms:
        if arm.tokens and arm.arm not in spent:
            spent[arm.arm] = (round(arm.tokens), arm.seconds)
    return spent
