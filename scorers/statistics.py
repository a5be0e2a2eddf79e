"""Is one arm better than another? Paired differences, intervals, p-values, correction, and a plain verdict.

    d_s = Σ_i w_i·(arm_si − baseline_si) / Σ_i w_i,     difference = mean_s d_s,     t = difference / (sd(d)/√S)

Arms share seeds and test items, so everything is paired. Two sources of chance are kept apart: seeds (training) and
items (the test set). The interval resamples both (two-level percentile bootstrap); the p-value is the paired t-test's
over seeds, which is what repeating the experiment would vary; Holm's step-down corrects it for the number of
comparisons. With few seeds a test finds little: "no evidence" is not "no difference". Legend: S seeds, I test items, C
comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Verdict = Literal["better", "worse", "no evidence", "one seed"]
DRAWS = 4_000


@dataclass(frozen=True)
class Comparison:
    """An arm against another, lower values being better. `noise` is the baseline's standard deviation over seeds;
    `effect` the mean difference in units of it, None where it is unknown or 0."""

    difference: float
    low: float | None
    high: float | None
    p: float | None
    wins: int
    seeds: int
    noise: float | None
    effect: float | None


def compare(arm: F64, baseline: F64, weights: F64 | None = None, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """[S, I] values of an arm and a baseline at the same seeds and items; [I] weights of items (default: equal).

    A value of a seed is its items' weighted mean. Raises ValueError when the shapes differ or a value is not finite.
    """
    if arm.shape != baseline.shape or arm.ndim != 2:
        raise ValueError(f"paired values must have one shape [seeds, items], not {arm.shape} and {baseline.shape}")
    if not (np.isfinite(arm).all() and np.isfinite(baseline).all()):
        raise ValueError("a value is not finite")
    weight = np.ones(arm.shape[1]) if weights is None else np.asarray(weights, np.float64)
    per_seed = (arm - baseline) @ weight / weight.sum()
    base = baseline @ weight / weight.sum()
    s = len(per_seed)
    low, high = interval(arm - baseline, weight, draws, seed)
    noise = float(base.std(ddof=1)) if s > 1 else None
    mean = float(per_seed.mean())
    return Comparison(
        mean, low, high, t_test(per_seed), int((per_seed < 0).sum()), s, noise, mean / noise if noise else None
    )


def interval(differences: F64, weights: F64, draws: int = DRAWS, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % percentile interval of the mean of [S, I] differences, resampling seeds and items; (None, None) for a single
    difference.

    With one seed only items are resampled. O(draws·(S + I)) random numbers and draws·S·I products.
    """
    s, n = differences.shape
    if s * n < 2:
        return None, None
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        of_items = rng.multinomial(n, np.full(n, 1 / n), size) * weights
        of_seeds = rng.multinomial(s, np.full(s, 1 / s), size)
        means[start : start + size] = np.einsum("ds,si,di->d", of_seeds, differences, of_items) / (
            s * of_items.sum(axis=1)
        )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def t_test(differences: F64) -> float | None:
    """Two-sided p of the paired t-test over [S] seeds; None for one seed. 1 where all differences are 0, 0 where they
    are all one other value."""
    from scipy.stats import t

    s = len(differences)
    if s < 2:
        return None
    spread = float(differences.std(ddof=1))
    mean = float(differences.mean())
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / (spread / s**0.5), s - 1))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """[C] p-values → [C] adjusted for all of them (Holm 1979); None stays None and does not count."""
    known = [k for k, value in enumerate(p) if value is not None]
    out: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, k in enumerate(sorted(known, key=lambda k: (p[k], k))):
        largest = max(largest, min(1.0, (len(known) - rank) * float(p[k] or 0.0)))
        out[k] = largest
    return out


def verdict(comparison: Comparison, adjusted: float | None, level: float = 0.05) -> Verdict:
    """`better` or `worse` where the adjusted p is below the level and the interval excludes 0."""
    if adjusted is None or comparison.low is None or comparison.high is None:
        return "one seed"
    if adjusted >= level or comparison.low <= 0 <= comparison.high:
        return "no evidence"
    return "better" if comparison.difference < 0 else "worse"


def ranks(values: F64) -> F64:
    """Ranks from 1, ties averaged."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def spearman(a: F64, b: F64) -> float:
    """Rank correlation of [N] and [N] values; NaN where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def lds(predicted: F64, measured: F64) -> F64:
    """Linear datamodeling score (Park et al. 2023, TRAK §2): for each of [T] targets the rank correlation, over [R]
    random subsets, of the predicted ([R, T], sums of scores) and measured ([R, T]) outputs. 0 where either does not
    vary."""
    return np.nan_to_num([spearman(a, b) for a, b in zip(predicted.T, measured.T, strict=True)])
