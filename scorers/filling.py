"""Filling a budget from a ranking: how often each example is taken.

    examples:  copies_i = ⌊B/N⌋ + [i < B mod N]
    tokens:    Σ_i copies_i·length_i ≤ B,   as near to B as the window allows

Examples: whole copies of all while they fit, then the best once more (TIVE's rule, `RUCAIBox/TIVE`). Tokens: the same,
and since examples cannot be cut, the last gap is closed by the subset of the next examples whose lengths sum to it
exactly, or come nearest from below. Legend: N examples in rank order, budget B.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
WINDOW = 512  # examples among which the last gap is closed
CLOSE = 4  # the gap begins at this many mean lengths


def copies_for_examples(n: int, budget: int) -> Counts:
    """[N] copies that sum to the budget: ⌊budget/N⌋ of each, one more of the best."""
    copies = np.full(n, budget // max(1, n), np.int64)
    copies[: budget - int(copies.sum())] += 1
    return copies


def copies_for_tokens(tokens: Sequence[int], budget: int, repeat: int = 1) -> Counts:
    """[N] copies, at most `repeat`, whose tokens sum to the budget or as little below it as the window allows."""
    lengths = np.asarray(tokens, np.int64)
    whole = min(repeat, budget // max(1, int(lengths.sum())))
    copies = np.full(len(lengths), whole, np.int64)
    if whole < repeat:
        copies[fill_tokens(lengths, budget - whole * int(lengths.sum()))] += 1
    return copies


def fill_tokens(lengths: Counts, budget: int) -> Counts:
    """Positions, ascending, of examples whose lengths sum to the budget exactly where the window allows it.

    Takes examples in rank order until about four mean lengths are left (one that is longer than what is left is passed
    over), and fills those by a subset sum over the next 512 that fit. O(N + window·gap) time.
    """
    total = np.cumsum(lengths)
    taken = np.zeros(len(lengths), bool)
    gap = int(CLOSE * lengths.mean()) if len(lengths) else 0
    left, at = budget, 0
    while at < len(lengths) and left > gap:
        base = int(total[at - 1]) if at else 0
        stop = int(np.searchsorted(total, base + left - gap, side="right"))
        taken[at:stop] = True
        left -= (int(total[stop - 1]) if stop else 0) - base
        if stop >= len(lengths) or lengths[stop] <= left:
            break
        at = stop + 1
    rest = np.flatnonzero(~taken & (lengths > 0) & (lengths <= left))[:WINDOW]
    taken[rest[subset_sum(lengths[rest].tolist(), left)]] = True
    return np.flatnonzero(taken)


def subset_sum(lengths: Sequence[int], goal: int) -> list[int]:
    """Positions whose lengths sum to the goal, or to the largest sum below it; earlier ones first. O(N·goal)."""
    reached = np.zeros(goal + 1, bool)
    reached[0] = True
    last = np.full(goal + 1, -1, np.int64)
    for k, length in enumerate(lengths):
        if reached[goal]:
            break
        if 0 < length <= goal:
            new = np.zeros(goal + 1, bool)
            new[length:] = reached[: goal + 1 - length] & ~reached[length:]
            last[new] = k
            reached |= new
    rest, positions = int(np.flatnonzero(reached)[-1]), []
    while rest:
        positions.append(int(last[rest]))
        rest -= lengths[positions[-1]]
    return positions[::-1]
