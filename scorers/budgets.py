"""How many examples each group (cluster, source, subtask) may give. Exact sums, deterministic.

Legend: G groups.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def largest_remainder(weights: Sequence[float], total: int, capacity: Sequence[int]) -> Counts:
    """[G] budgets in proportion to the weights, none above its group's capacity, summing to `total` exactly.

    Hamilton's apportionment: floors first, then the largest remainders, ties to the earlier group. What a full group
    cannot take is apportioned again among the others. O(G² log G) at worst.
    Raises ValueError for a negative or non-finite weight, or when the groups with a weight cannot hold `total`.
    """
    share, room = np.asarray(weights, np.float64), np.asarray(capacity, np.int64)
    if not np.isfinite(share).all() or (share < 0).any():
        raise ValueError(f"group weights must be finite and not negative: {list(weights)}")
    if total > room[share > 0].sum():
        raise ValueError(f"{total} examples are asked of groups that hold {room[share > 0].sum()}")
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


def floors(fraction: float, capacity: Sequence[int]) -> Counts:
    """[G] budgets ⌊n·fraction⌋, as TAGCOS's released code takes them: their sum falls short of N·fraction, and a group
    of fewer than 1/fraction gives nothing."""
    return np.array([int(int(n) * fraction) for n in capacity], np.int64)


def even(total: int, capacity: Sequence[int]) -> Counts:
    """[G] equal budgets, smallest group first; what a small group cannot give goes to the larger ones (Adapt-∞)."""
    room = np.asarray(capacity, np.int64)
    budgets, left = np.zeros(len(room), np.int64), min(total, int(room.sum()))
    order = np.lexsort((np.arange(len(room)), room))
    for place, g in enumerate(order):
        budgets[g] = min(left // (len(order) - place), room[g])
        left -= int(budgets[g])
    return budgets


def tive(values: Sequence[float], total: int) -> Counts:
    """[G] budgets ⌊total·v/Σv⌋ of TIVE (`RUCAIBox/TIVE`); may exceed a group's size, which then repeats examples."""
    share = np.asarray(values, np.float64)
    budgets: Counts = np.floor(total * share / share.sum()).astype(np.int64)
    return budgets
