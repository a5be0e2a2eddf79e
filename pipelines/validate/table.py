"""From recorded runs to the table of arms: means, intervals, comparisons with verdicts, forgetting, cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.arms import ArmResult, Measured
from gradsift.datastore.compared import Versus
from gradsift.datastore.runs import ArmRow
from gradsift.pipelines.findings import versus
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.recipe.validate import AT_RANDOM, OURS, REDRAWN
from gradsift.pipelines.validate.arms import BASE, Arm
from gradsift.scorers.verdicts import Drawn, Losses, Pair, judge

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class ArmRun:
    """One training of an arm at a learning rate, and its recorded result."""

    arm: Arm
    lr: float
    result: ArmResult


@dataclass(frozen=True)
class _Lookups:
    """What the table's lines look up: the recipe, the run of `base`, the metric of each target, sources of examples."""

    recipe: Recipe
    base: ArmRun | None
    metrics: Mapping[str, str]
    sources: Mapping[str, str]


def mean_ci95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % t interval; None for fewer than two values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, (T95[n - 2] if n - 2 < len(T95) else 1.96) * spread / math.sqrt(n)


def table(
    recipe: Recipe, runs: Sequence[ArmRun], metrics: Mapping[str, str], sources: Mapping[str, str]
) -> list[ArmRow]:
    """All rows, targets in recipe order. Compared: each of our arms with every other, and every arm with `random`; all
    comparisons of the table are corrected together."""
    best = {(name, target): _at_best_rate(runs, name, target) for target in metrics for name in _names(runs, target)}
    compared = _comparisons(best, list(metrics))
    lookups = _Lookups(recipe, next((run for run in runs if run.arm.name == BASE), None), metrics, sources)
    return [
        _row(lookups, name, target, kept, compared.get((name, target), {})) for (name, target), kept in best.items()
    ]


def _names(runs: Sequence[ArmRun], target: str) -> list[str]:
    """Arms of a target, in one order for all: `base`, ours, the others as they first come."""
    first = [BASE, *OURS, *(run.arm.name for run in runs)]
    mine = {run.arm.name for run in runs if target in run.arm.targets}
    return [name for name in dict.fromkeys(first) if name in mine]


def _at_best_rate(runs: Sequence[ArmRun], name: str, target: str) -> list[ArmRun]:
    """An arm's runs at the learning rate with the least mean loss on the target's `val` rows; a rate at which a run
    diverged comes last."""
    mine = [run for run in runs if run.arm.name == name and target in run.arm.targets]
    losses: dict[float, list[float]] = {}
    for run in mine:
        losses.setdefault(run.lr, []).append(run.result.vals.get(target, math.inf))
    best = min(losses, key=lambda lr: (float(np.mean(losses[lr])), lr))
    return [run for run in mine if run.lr == best]


def _comparisons(
    kept: Mapping[tuple[str, str], Sequence[ArmRun]], targets: Sequence[str]
) -> dict[tuple[str, str], dict[str, Versus]]:
    """{(arm, target): {other: comparison}}, each pair of arms once, p corrected over all of the table."""
    pairs: dict[tuple[str, str, str], Pair] = {}
    for target in targets:
        arms = {name: _losses(name, target, runs) for (name, of_target), runs in kept.items() if of_target == target}
        weights = next((test.tokens for runs in kept.values() for test in _tests(runs, target)), ())
        for one, other in to_compare([name for name in arms if arms[name].seeds]):
            pair = pair_of(arms, one, other, np.array(weights, np.float64))
            if pair is not None:
                pairs[target, one, other] = pair
    compared: dict[tuple[str, str], dict[str, Versus]] = {}
    for (target, one, other), finding in zip(pairs, judge(list(pairs.values())), strict=True):
        compared.setdefault((one, target), {})[other] = versus(finding)
    return compared


def to_compare(names: Sequence[str]) -> list[tuple[str, str]]:
    """Ours with every other, but not with their own redraws; and every other with `random`."""
    ours = [name for name in OURS if name in names]
    others = [name for name in names if name not in (*ours, BASE)]
    pairs = [(one, other) for k, one in enumerate(ours) for other in (*ours[k + 1 :], *others) if other != REDRAWN]
    pairs += [(name, "random") for name in others if "random" in names and name != "random"]
    return pairs + [(one, BASE) for one in ours if BASE in names]


def _tests(runs: Sequence[ArmRun], target: str) -> list[Measured]:
    return [run.result.tests[target] for run in runs if not run.result.diverged]


def _losses(name: str, target: str, runs: Sequence[ArmRun]) -> Losses:
    drawn: Drawn = "anew" if name in (*AT_RANDOM, REDRAWN) else "never" if name in (BASE, "full") else "once"
    good = [run for run in runs if not run.result.diverged]
    values = np.array([test.items for test in _tests(good, target)], np.float64)
    return Losses(values, [run.arm.seed for run in good], drawn, len(runs) - len(good))


def pair_of(arms: Mapping[str, Losses], one: str, other: str, weights: NDArray[np.float64]) -> Pair | None:
    """Two arms, where they share a seed. What another draw of a set would change is bounded by the selection drawn
    again, where there is one; else by the arm it is compared with, `random`, or what else is drawn anew."""
    mine, others = arms[one], arms[other]
    if other == BASE:  # no seed changes a model that is not trained
        values = np.repeat(others.values[:1], len(mine.seeds), axis=0)
        others = replace(others, values=values, seeds=mine.seeds)
    if not set(mine.seeds) & set(others.seeds):
        return None
    like_mine, like_others = _bound(arms, one, other), _bound(arms, other, one)
    return Pair(mine, others, weights, like_mine, like_others, first=one in OURS and other == "random")


def _bound(arms: Mapping[str, Losses], name: str, against: str) -> Losses | None:
    own = [REDRAWN] if name == "selected" else []
    names = [*own, *([against] if against in AT_RANDOM else []), *AT_RANDOM]
    return next((arms[n] for n in names if n in arms and len(arms[n].seeds) > 1), None)


def _row(lookups: _Lookups, name: str, target: str, runs: Sequence[ArmRun], versus: Mapping[str, Versus]) -> ArmRow:
    own = set(lookups.recipe.targets[target].own_sources)
    good = [run for run in runs if not run.result.diverged]
    tests = [run.result.tests[target] for run in good]
    losses = [test.loss for test in tests]
    mean, ci = mean_ci95(losses) if losses else (None, None)
    answered = [test for test in tests if test.score is not None]
    logs = [run.result.train for run in good if run.result.train]
    shares = [
        sum(lookups.sources[i] in own for i in run.arm.example_ids) / len(run.arm.example_ids)
        for run in runs
        if run.arm.example_ids
    ]
    return ArmRow(
        arm=name,
        target=target,
        seeds=[run.arm.seed for run in good],
        lr=runs[0].lr,
        test_loss=losses,
        test_loss_mean=mean,
        test_loss_ci95=ci,
        metric=lookups.metrics[target],
        score=[test.score for test in answered if test.score is not None],
        score_mean=_mean([test.score for test in answered]),
        response_tokens=_mean([test.response_tokens for test in answered]),
        forgetting=_forgetting(good, lookups.base, target) if name != BASE else None,
        examples=round(float(np.mean([run.result.examples for run in runs]))),
        label_tokens=float(np.mean([run.result.label_tokens for run in runs])),
        tokens=_mean([log.tokens for log in logs]),
        source_precision=_mean(shares) if own else None,
        seconds=_mean([log.seconds for log in logs]),
        early_grad_norm=_mean([log.early_grad_norm for log in logs]),
        peak_bytes=max((log.peak_bytes for log in logs if log.peak_bytes is not None), default=None),
        diverged=len(runs) - len(good),
        lm_eval=_means([run.result.lm_eval for run in good if run.result.lm_eval is not None]),
        curves=[[[point[0], point[1]] for point in log.curve] for log in logs],
        versus=versus,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([figure[key] for figure in figures])) for key in (figures[0] if figures else ())}


def _forgetting(runs: Sequence[ArmRun], base: ArmRun | None, target: str) -> float | None:
    if base is None or base.result.diverged:
        return None
    return _mean(
        [
            measured.loss - base.result.tests[other].loss
            for run in runs
            for other, measured in run.result.tests.items()
            if other != target
        ]
    )
