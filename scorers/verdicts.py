"""Is one arm better than another? Differences, their sources of chance, one correction for a whole report, a verdict.

    d = mean_s Σ_i w_i·(arm_si − other_si) / Σ_i w_i
    h(p)² = t_{S−1}(p)²·(seeds + draws) + t_{m−1}(p)²·rows,     p: where h(p) = |d|;  95 % interval: d ± h(0.05)

Half-widths add in squares, each with its own Student's t (MOVER: Zou & Donner 2008), so one source that looks small by
chance does not lend its certainty to another. The sources, as variances of d:

- `seeds`: Var_s(d_s)/S of the S paired seeds. Rows that are drawn anew for each seed vary in it, too.
- `rows`: I/(I−1)·Σ_i (w_i/Σw)²·(d_i − d)² of the I test rows, d_i means over seeds; m = (Σw²)²/Σw⁴ ≤ I.
- `draws`: for each side whose rows are drawn once for all seeds, what another draw would change: at most the variance
  over seeds of an arm that *is* drawn anew, for that holds draw and training. This is the method's own where it was
  drawn again for each seed; else that of random draws.

Without `draws` the claim is about this very set; with it, about what made the set, provided that its sets vary no more
than those of the bound. Both p are corrected over all comparisons of the report by Holm's step-down with weights: half
of the level is for those that the report is about (`first`), half for all others. A verdict names the strongest claim
that holds at 0.05. Departure from MOVER: p-values by inverting its interval. Legend: S seeds, I test rows, C
comparisons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
Drawn = Literal["anew", "once", "never"]
"""Rows of an arm: drawn anew for each seed; once for all; or nothing to draw (all rows, or none)."""
Verdict = Literal[
    "better", "worse", "this set better", "this set worse", "no evidence", "one seed", "too few rows", "diverged"
]
Claim = Literal["method", "this set", ""]
Source = tuple[F64, F64]  # [C] variances and degrees of freedom
LEVEL = 0.05
MIN_ROWS = 10
SMALLEST = -40.0  # log of the smallest p that is told from 0


@dataclass(frozen=True)
class Losses:
    """An arm on one target: [S, I] losses of its seeds' test rows, where its rows come from, seeds that diverged."""

    values: F64
    seeds: Sequence[int]
    drawn: Drawn
    diverged: int = 0


@dataclass(frozen=True)
class Pair:
    """Two arms to compare; [I] weights of test rows; for each side whose rows are drawn once, an arm that is drawn anew
    and varies as much as another draw of it, or more (None: unknown); is it one of those that the report is about."""

    arm: Losses
    other: Losses
    weights: F64
    like_arm: Losses | None = None
    like_other: Losses | None = None
    first: bool = False


@dataclass(frozen=True)
class Inference:
    """What is inferred of a difference: its 95 % interval, p, and p corrected. None: unknown."""

    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None

    @property
    def found(self) -> bool:
        """Is there a difference, by the corrected p."""
        return self.p_adjusted is not None and self.p_adjusted < LEVEL


@dataclass(frozen=True)
class Finding:
    """An arm against another, lower being better, inferred for this very set and, with the draw counted, for the
    method. `noise` is the other's standard deviation over seeds, `effect` the difference in units of it (None: unknown
    or 0), `draw_sd` what draws add, at most; `comparisons` were corrected together, `firsts` of them with half of the
    level."""

    difference: float
    this_set: Inference
    method: Inference
    wins: int
    seeds: int
    rows: int
    noise: float | None
    effect: float | None
    draw_sd: float | None
    comparisons: int
    firsts: int
    verdict: Verdict
    claim: Claim


@dataclass(frozen=True)
class _Estimate:
    """A pair at its common seeds: [S, I] losses of both, [I] shares of rows, the difference, the variances of its
    sources (NaN: unknown), their degrees of freedom."""

    arm: F64
    other: F64
    share: F64
    difference: float
    seeds: float
    draws: float
    rows: float
    df_seeds: int
    df_draws: int
    df_rows: float


def judge(pairs: Sequence[Pair]) -> list[Finding]:
    """All comparisons of a report, [C] pairs → [C] findings, corrected together.

    Paired by the seeds that both arms finished. No verdict with one seed or fewer than `MIN_ROWS` rows; an arm of which
    a seed diverged is never better than another. Raises Unsuitable where a pair shares no seed, shapes differ or a
    value is not finite. O(C·S·I).
    """
    known = [_estimate(pair) for pair in pairs]
    first = np.array([pair.first for pair in pairs], bool)

    def column(values: Iterable[float]) -> F64:
        return np.array(list(values), np.float64)

    d = column(e.difference for e in known)
    rows = column(e.rows for e in known), column(e.df_rows for e in known)
    seeds = column(e.seeds for e in known), column(e.df_seeds for e in known)
    both = column(e.seeds + e.draws for e in known), column(e.df_draws for e in known)
    p_set, p_method = joint_p(d, seeds, rows), joint_p(d, both, rows)
    one_seed = np.nan_to_num(seeds[0]), seeds[1]  # the interval is then of rows alone
    of_set = _claims(d, half_width(LEVEL, one_seed, rows), p_set, holm(p_set, first))
    of_method = _claims(d, half_width(LEVEL, both, rows), p_method, holm(p_method, first))
    return [
        _finding(pair, e, this_set, method, len(pairs), int(first.sum()))
        for pair, e, this_set, method in zip(pairs, known, of_set, of_method, strict=True)
    ]


def _estimate(pair: Pair) -> _Estimate:
    arm, other = _common(pair)
    s, n = arm.shape
    share = np.asarray(pair.weights, np.float64) / np.sum(pair.weights)
    by_seed, by_row = (arm - other) @ share, (arm - other).mean(axis=0)
    d = float(by_seed.mean())
    likes = [like for side, like in ((pair.arm, pair.like_arm), (pair.other, pair.like_other)) if side.drawn == "once"]
    draws = [_variance(np.asarray(like.values, np.float64) @ share) if like else np.nan for like in likes]
    return _Estimate(
        arm=arm,
        other=other,
        share=share,
        difference=d,
        seeds=_variance(by_seed) / s,
        draws=float(sum(draws)),
        rows=float(n / (n - 1) * (share**2 * (by_row - d) ** 2).sum()) if n > 1 else np.nan,
        df_seeds=max(1, s - 1),
        df_draws=max(1, min([s, *(len(like.seeds) for like in likes if like)]) - 1),
        df_rows=max(1.0, float((share**2).sum() ** 2 / (share**4).sum()) - 1),
    )


def _common(pair: Pair) -> tuple[F64, F64]:
    """[S, I] and [S, I] losses at the seeds that both have."""
    seeds = [seed for seed in pair.arm.seeds if seed in set(pair.other.seeds)]
    if not seeds:
        raise Unsuitable("two arms that share no seed cannot be compared")
    arm, other = (
        np.asarray(side.values, np.float64)[[list(side.seeds).index(seed) for seed in seeds]]
        for side in (pair.arm, pair.other)
    )
    if arm.shape != other.shape or arm.shape[1:] != np.shape(pair.weights):
        raise Unsuitable(f"paired values must have one shape [seeds, rows], not {arm.shape} and {other.shape}")
    if not (np.isfinite(arm).all() and np.isfinite(other).all()):
        raise Unsuitable("a value is not finite")
    return arm, other


def _variance(values: F64) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else np.nan


def half_width(p: float | F64, between: Source, rows: Source) -> F64:
    """[C] half-widths of intervals of confidence 1 − p. NaN where a source is unknown."""
    from scipy.special import stdtrit

    squares = [stdtrit(df, np.asarray(p) / 2) ** 2 * variance for variance, df in (between, rows)]
    return np.asarray(np.sqrt(squares[0] + squares[1]), np.float64)


def joint_p(d: F64, between: Source, rows: Source) -> F64:
    """[C] two-sided p-values: where the interval touches 0. 1 for no difference; NaN where a source is unknown."""
    low, high = np.full(len(d), SMALLEST), np.zeros(len(d))
    for _ in range(40):
        middle = (low + high) / 2
        wide = half_width(np.exp(middle), between, rows) >= np.abs(d)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.where(np.isnan(between[0] + rows[0]), np.nan, np.exp(high))


def holm(p: F64, first: NDArray[np.bool_]) -> F64:
    """[C] p-values → [C] adjusted for all of them (Holm 1979, §4: with weights). Those that are `first` share half of
    the level, the others the other half; where there is one kind only, it has all. NaN stays NaN and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    weight = 1.0 / np.maximum(1, np.where(first, first[known].sum(), (~first[known]).sum()))
    out, largest, left = np.full(len(p), np.nan), 0.0, float(weight[known].sum())
    for k in sorted(known.tolist(), key=lambda k: (p[k] / weight[k], k)):
        largest = max(largest, min(1.0, float(p[k] / weight[k]) * left))
        out[k], left = largest, left - float(weight[k])
    return out


def _claims(d: F64, half: F64, p: F64, adjusted: F64) -> list[Inference]:
    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return [
        Inference(known(at - width), known(at + width), known(a), known(b))
        for at, width, a, b in zip(d, half, p, adjusted, strict=True)
    ]


def _finding(pair: Pair, e: _Estimate, of_set: Inference, of_method: Inference, size: int, firsts: int) -> Finding:
    s, n = e.arm.shape
    noise = None if s < 2 else _variance(e.other @ e.share) ** 0.5
    verdict, claim = _verdict(pair, e, of_set, of_method)
    return Finding(
        difference=e.difference,
        this_set=of_set,
        method=of_method,
        wins=int(((e.arm - e.other) @ e.share < 0).sum()),
        seeds=s,
        rows=n,
        noise=noise,
        effect=e.difference / noise if noise else None,
        draw_sd=None if np.isnan(e.draws) else e.draws**0.5,
        comparisons=size,
        firsts=firsts,
        verdict=verdict,
        claim=claim,
    )


def _verdict(pair: Pair, e: _Estimate, of_set: Inference, of_method: Inference) -> tuple[Verdict, Claim]:
    s, n = e.arm.shape
    if s < 2:
        return "one seed", ""
    if n < MIN_ROWS:
        return "too few rows", ""
    lower = e.difference < 0
    if not (of_method.found or of_set.found):
        return "no evidence", ""
    if (pair.arm if lower else pair.other).diverged:
        return "diverged", ""
    if of_method.found:
        return ("better" if lower else "worse"), "method"
    return ("this set better" if lower else "this set worse"), "this set"
