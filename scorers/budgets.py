"""How many examples each group (cluster, source, subtask) may give.

    b_g ∝ w_g where no bound binds,   least_g ≤ b_g ≤ most_g,   Σ_g b_g = total

in whole numbers, with exact sums (but for `floors`), and deterministic. Legend: G groups.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

Counts = NDArray[np.int64]


def largest_remainder(weights: Sequence[float], total: int, capacity: Sequence[int]) -> Counts:
    """[G] budgets in proportion to the weights, none above its group's capacity, summing to `total` exactly.

    Hamilton's apportionment: floors first, then the largest remainders, ties to the earlier group. What a full group
    cannot take is apportioned again among the others. O(G² log G) at worst.
    Raises Unsuitable for a negative or non-finite weight, or when the groups with a weight cannot hold `total`.
    """
    share, room = np.asarray(weights, np.float64), np.asarray(capacity, np.int64)
    if not np.isfinite(share).all() or (share < 0).any():
        raise Unsuitable(f"group weights must be finite and not negative: {list(weights)}")
    if total > room[share > 0].sum():
        raise Unsuitable(f"{total} examples are asked of groups that hold {room[share > 0].sum()}")
    budgets = np.zeros(len(share), np.int64)
    while (left := total - int(budgets.sum())) > 0:
        open_ = (share > 0) & (budgets < room)
        wish = np.where(open_, share, 0.0)
        wish = wish / wish.sum() * left
        part = np.floor(wish).astype(np.int64)
        ranked = np.lexsort((np.arange(len(part)), -(wish - part)))
        part[[g for g in ranked if open_[g]][: left - int(part.sum())]] += 1
        budgets = np.minimum(budgets + part, room)
    return budgets


def floors(fraction: float | Fraction, capacity: Sequence[int]) -> Counts:
    """[G] budgets ⌊n·fraction⌋, as in TAGCOS's released code: their sum falls short of N·fraction, and a group of fewer
    than 1/fraction gives nothing. Of a float, the product is rounded as there; a `Fraction` is exact."""
    return np.array([int(int(n) * fraction) for n in capacity], np.int64)


def even(total: int, capacity: Sequence[int]) -> Counts:
    """[G] equal budgets, smallest group first, each ⌊left / groups left⌋; what a small group cannot give goes to the
    larger ones (CCS, S2L; Adapt-∞ rounds up)."""
    room = np.asarray(capacity, np.int64)
    budgets, left = np.zeros(len(room), np.int64), min(total, int(room.sum()))
    order = np.lexsort((np.arange(len(room)), room))
    for place, g in enumerate(order):
        budgets[g] = min(left // (len(order) - place), room[g])
        left -= int(budgets[g])
    return budgets


def bounded(weights: Sequence[float], total: int, least: Sequence[int], most: Sequence[int]) -> Counts:
    """[G] budgets in proportion to the weights, each between its bounds, summing to `total` exactly.

    Finds the factor λ with Σ clip(λ·w, least, most) = total (water-filling), then takes floors and largest remainders,
    ties to the earlier group. A group without weight gets its least. O(G log G).
    Raises Unsuitable for a bad weight, or naming the bound that cannot be kept.
    """
    share = np.asarray(weights, np.float64)
    low, high = np.asarray(least, np.int64), np.asarray(most, np.int64)
    if not np.isfinite(share).all() or (share < 0).any():
        raise Unsuitable(f"group weights must be finite and not negative: {list(weights)}")
    if (low > high).any():
        g = int(np.flatnonzero(low > high)[0])
        raise Unsuitable(f"group {g} is to give at least {low[g]} and has room for {high[g]}")
    reach = np.where(share > 0, high, low)
    if not low.sum() <= total <= reach.sum():
        raise Unsuitable(f"{total} cannot be shared out: the groups give between {low.sum()} and {reach.sum()}")
    if total == reach.sum():
        return reach  # λ·w may miss the last bound by a rounding
    wish = _water_filled(share, total, low, reach)
    budgets = np.floor(wish + 1e-9).astype(np.int64)
    ranked = np.lexsort((np.arange(len(wish)), -(wish - budgets)))
    left = total - int(budgets.sum())
    for g in [g for g in ranked if budgets[g] < reach[g]][:left]:
        budgets[g] += 1
    return budgets


def _water_filled(share: NDArray[np.float64], total: int, low: Counts, high: Counts) -> NDArray[np.float64]:
    weight = np.where(share > 0, share, 1.0)
    edges = np.unique(np.concatenate([low / weight, high / weight]))
    sums = [float(np.clip(edge * share, low, high).sum()) for edge in edges]
    k = int(np.searchsorted(sums, total))
    if k == 0 or sums[min(k, len(sums) - 1)] == total:
        return np.asarray(np.clip(edges[min(k, len(sums) - 1)] * share, low, high), np.float64)
    part = (total - sums[k - 1]) / (sums[k] - sums[k - 1])
    factor = edges[k - 1] + part * (edges[k] - edges[k - 1])
    return np.asarray(np.clip(factor * share, low, high), np.float64)


def temperature(sizes: Sequence[int], t: float) -> NDArray[np.float64]:
    """[G] weights n^(1/t), summing to one: t = 1 is by size, t = ∞ equal (as in multilingual BERT and T5)."""
    raised = np.asarray(sizes, np.float64) ** (1.0 / t)
    return np.asarray(raised / raised.sum(), np.float64)
