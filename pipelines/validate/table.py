"""From recorded runs to the table of arms: means, intervals, comparisons with verdicts, forgetting, cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.validate.arms import BASE, Arm
from gradsift.scorers import statistics

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
OURS = ("selected", "mixture")


@dataclass(frozen=True)
class Run:
    """One training of an arm at a learning rate, and its recorded result."""

    arm: Arm
    lr: float
    result: dict[str, Any]


@dataclass(frozen=True)
class ArmRow:
    """A line of the result table: one arm on one target, over its seeds, at its best learning rate.

    `forgetting` is the mean change of the other targets' test loss against `base`. `versus` holds, by the other arm's
    name, a comparison of test losses (negative: this arm is lower), paired by seed and row; its p is corrected for all
    that this arm is compared with on the target.
    """

    arm: str
    target: str
    seeds: list[int]
    lr: float
    test_loss: list[float]
    test_loss_mean: float | None
    test_loss_ci95: float | None
    metric: str
    score: list[float]
    score_mean: float | None
    response_tokens: float | None
    forgetting: float | None
    examples: int
    label_tokens: float
    tokens: float | None  # that a run trained on, all epochs
    source_precision: float | None
    seconds: float | None
    early_grad_norm: float | None
    peak_bytes: int | None  # of a run, the largest; of the GPU, or of the whole process
    diverged: int
    lm_eval: dict[str, float] = field(default_factory=dict)  # means over seeds
    curves: list[list[list[float]]] = field(default_factory=list)
    versus: dict[str, dict[str, Any]] = field(default_factory=dict)


def mean_ci95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % t interval; None for fewer than two values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, (T95[n - 2] if n - 2 < len(T95) else 1.96) * spread / math.sqrt(n)


def table(recipe: Recipe, runs: Sequence[Run], metrics: Mapping[str, str], sources: Mapping[str, str]) -> list[ArmRow]:
    """All rows, targets in recipe order. Compared: each of our arms with every other, and every arm with `random`."""
    best = {(name, t): _best_rate(runs, name, t) for t in metrics for name in _names(runs, t)}
    kept = {
        (name, t): [x for x in runs if x.arm.name == name and t in x.arm.targets and x.lr == lr]
        for (name, t), lr in best.items()
    }
    compared = _comparisons(kept, list(metrics))
    base = next((x for x in runs if x.arm.name == BASE), None)
    return [
        _row(recipe, name, t, best[name, t], kept[name, t], base, metric, sources, compared)
        for t, metric in metrics.items()
        for name in _names(runs, t)
    ]


def _names(runs: Sequence[Run], target: str) -> list[str]:
    """Arms of a target, in one order for all: `base`, ours, the others as they first come."""
    first = [BASE, *OURS, *(x.arm.name for x in runs)]
    mine = {x.arm.name for x in runs if target in x.arm.targets}
    return [name for name in dict.fromkeys(first) if name in mine]


def _best_rate(runs: Sequence[Run], name: str, target: str) -> float:
    """The learning rate with the least mean loss on the target's `val` rows; a rate that diverged once is last."""
    mine = [x for x in runs if x.arm.name == name and target in x.arm.targets]
    losses = {lr: [x.result["vals"].get(target, math.inf) for x in mine if x.lr == lr] for lr in {x.lr for x in mine}}
    return min(losses, key=lambda lr: (float(np.mean(losses[lr])), lr))


def _comparisons(
    kept: Mapping[tuple[str, str], Sequence[Run]], targets: Sequence[str]
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """{(arm, other, target): comparison}, p corrected over those of the same arm and target."""
    pairs = []
    for t in targets:
        names = [name for name, target in kept if target == t and name != BASE]
        ours = [name for name in OURS if name in names]
        wanted = [(a, b) for a in ours for b in names if a != b]
        wanted += [(a, "random") for a in names if "random" in names and a not in (*ours, "random")]
        wanted += [(name, BASE) for name in ours if (BASE, t) in kept]
        pairs += [(a, b, t) for a, b in dict.fromkeys(wanted)]
    found = {key: _compare(kept[key[0], key[2]], kept[key[1], key[2]], key[2]) for key in pairs}
    known = {key: value for key, value in found.items() if value is not None}
    out = {}
    for family in dict.fromkeys((a, t) for a, _, t in known):
        mine = {key: value for key, value in known.items() if (key[0], key[2]) == family}
        adjusted = statistics.holm([value.p for value in mine.values()])
        for (key, value), p in zip(mine.items(), adjusted, strict=True):
            judged = {"p_adjusted": p, "comparisons": len(mine), "verdict": statistics.verdict(value, p)}
            out[key] = asdict(value) | judged
    return out


def _compare(one: Sequence[Run], other: Sequence[Run], target: str) -> statistics.Comparison | None:
    a = {x.arm.seed: x.result["tests"][target] for x in one if not x.result["diverged"]}
    b = {x.arm.seed: x.result["tests"][target] for x in other if not x.result["diverged"]}
    if other and other[0].arm.name == BASE and b:
        b = dict.fromkeys(a, next(iter(b.values())))  # no seed changes a model that is not trained
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    return statistics.compare(
        np.array([a[s]["items"] for s in seeds]),
        np.array([b[s]["items"] for s in seeds]),
        np.array(a[seeds[0]]["tokens"], np.float64),
    )


def _row(
    recipe: Recipe,
    name: str,
    target: str,
    lr: float,
    runs: Sequence[Run],
    base: Run | None,
    metric: str,
    sources: Mapping[str, str],
    compared: Mapping[tuple[str, str, str], dict[str, Any]],
) -> ArmRow:
    own = set(recipe.targets[target].own_sources)
    good = [x for x in runs if not x.result["diverged"]]
    losses = [x.result["tests"][target]["loss"] for x in good]
    mean, ci = mean_ci95(losses) if losses else (None, None)
    scores = [x.result["tests"][target]["score"] for x in good if metric != "loss"]
    lengths = [x.result["tests"][target]["response_tokens"] for x in good if metric != "loss"]
    shares = [
        sum(sources[i] in own for i in x.arm.example_ids) / len(x.arm.example_ids) for x in runs if x.arm.example_ids
    ]
    trained = [x.result["train"] for x in good if x.result["train"]]
    norms = [t["early_grad_norm"] for t in trained if t["early_grad_norm"] is not None]
    return ArmRow(
        arm=name,
        target=target,
        seeds=[x.arm.seed for x in good],
        lr=lr,
        test_loss=losses,
        test_loss_mean=mean,
        test_loss_ci95=ci,
        metric=metric,
        score=scores,
        score_mean=_mean(scores),
        response_tokens=_mean(lengths),
        forgetting=_forgetting(good, base, target) if name != BASE else None,
        examples=round(float(np.mean([x.result["examples"] for x in runs]))),
        label_tokens=float(np.mean([x.result["label_tokens"] for x in runs])),
        tokens=_mean([t["tokens"] for t in trained]),
        source_precision=_mean(shares) if own else None,
        seconds=_mean([t["seconds"] for t in trained]),
        early_grad_norm=_mean(norms),
        peak_bytes=max((t["peak_bytes"] for t in trained), default=None),
        diverged=len(runs) - len(good),
        lm_eval=_means([x.result["lm_eval"] for x in good if "lm_eval" in x.result]),
        curves=[[[row[0], row[1]] for row in t["curve"]] for t in trained],
        versus={b: value for (a, b, t), value in compared.items() if a == name and t == target},
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([f[key] for f in figures])) for key in (figures[0] if figures else ())}


def _forgetting(runs: Sequence[Run], base: Run | None, target: str) -> float | None:
    if base is None or base.result["diverged"]:
        return None
    changes = [
        measured["loss"] - base.result["tests"][other]["loss"]
        for x in runs
        for other, measured in x.result["tests"].items()
        if other != target
    ]
    return _mean(changes)


def as_dicts(rows: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """The table as plain data."""
    return [asdict(row) for row in rows]
