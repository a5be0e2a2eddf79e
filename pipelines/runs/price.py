"""What choosing costs, beside the training that it is to spare: told by a dry run, whatever the store has already.

FLOPs are those of `report/cost.py`: 4·N a token for a gradient row and a step with an adapter, 6·N for one in full.
Minutes are of the speeds that the dry run measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.report.cost import Selecting, training_flops
from gradsift.pipelines.runs.probe import Speeds
from gradsift.pipelines.runs.trainings import Pool, Training, sizes_of
from gradsift.pipelines.training.trial import portfolio_flops


@dataclass(frozen=True)
class Price:
    """A line: FLOPs, minutes (None: not measured), and FLOPs in epochs over the whole pool."""

    what: str
    flops: float
    minutes: float | None
    epochs: float


@dataclass(frozen=True)
class Priced:
    """What prices follow from: weights outside the embedding, the pool with the lengths of a sample, tokens of all
    targets, rows that the warm-up's steps see, and the measured speeds."""

    recipe: Recipe
    weights: int
    pool: Pool
    lengths: Sequence[int]
    target_tokens: float
    warmup_rows: int
    speeds: Speeds

    @property
    def epoch(self) -> float:
        """FLOPs of training on every usable row once."""
        return training_flops(self.recipe, self.weights, self.pool.rows * self.pool.tokens)

    @property
    def step_row(self) -> float:
        """Seconds of a row in a step of training, 0 where none was measured."""
        return self.speeds.arm.row or self.speeds.warmup_row


def prices(priced: Priced, points: int, runs: Sequence[Training], shares: Sequence[float] = ()) -> list[Price]:
    """What the recipe's choosing costs, training on everything, and one arm of its validation; `shares` of the
    pool at each checkpoint are a cascade's, where there is one. [] of a model whose weights cannot be counted."""
    if not priced.weights:
        return []
    lines = []
    if points:
        lines.append(of_gradients(priced, f"gradient rows of everything, {points} checkpoints", [1.0] * points))
    if shares:
        lines.append(of_gradients(priced, "gradient rows of the cascade, at most", shares))
    targets = len(priced.recipe.targets)
    tokens = sizes_of(priced.recipe, priced.pool).get("selected", 0) * priced.pool.tokens
    tried = portfolio_flops(priced.recipe, priced.weights, tokens, priced.target_tokens / max(1, targets))
    if tried:
        lines.append(_line(priced, "trials of methods for all targets, at most", targets * tried, 0.0))
    whole = priced.pool.rows
    lines.append(_line(priced, "training on everything, one epoch", priced.epoch, whole * priced.step_row))
    arm = next((run for run in runs if run.seen and run.arm != "full"), None)
    if arm is not None:
        flops = training_flops(priced.recipe, priced.weights, arm.seen * priced.pool.tokens)
        lines.append(_line(priced, f"training one arm, {arm.rows:,} rows", flops, arm.seen * priced.step_row))
    return lines


def of_gradients(priced: Priced, what: str, shares: Sequence[float]) -> Price:
    """Warm-up and gradient rows: of each checkpoint a share of the pool's rows (of one taken twice, once), and the
    targets' at every one."""
    pool, speeds = priced.pool, priced.speeds
    rows = pool.rows * sum(shares)
    spent = Selecting(
        round(priced.warmup_rows * pool.tokens),
        round(rows * pool.tokens),
        {"all": round(len(shares) * priced.target_tokens)},
    )
    row = speeds.gradient.mean(priced.lengths)
    of_targets = len(shares) * priced.target_tokens / max(1.0, pool.tokens)  # in rows of the pool
    return _line(priced, what, spent.flops(priced.weights), priced.warmup_rows * speeds.warmup_row
                 + (rows + of_targets) * row, measured=bool(row))  # fmt: skip


def _line(priced: Priced, what: str, flops: float, seconds: float, *, measured: bool = True) -> Price:
    minutes = seconds / 60 if measured and seconds else None
    return Price(what, flops, minutes, flops / priced.epoch if priced.epoch else 0.0)
