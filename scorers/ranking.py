"""Selection rules: from scores to ordered examples. Deterministic given scores and seed; ties go to the smaller id.

Random rules draw in the order of the ids, so the order in which examples are handed over does not matter as long as
ids are sorted (as stores give them). Rules that need rows, not scores: `coverage`, `tagcos`, `gio`, `transport`.
Legend: N examples, J subtasks (or queries), G groups.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
Order = NDArray[np.int64]
Array = NDArray[np.floating[Any]]


def by_score(scores: Array, ids: Sequence[str]) -> Order:
    """[N] scores → positions from best to worst. Raises Unsuitable on NaN. O(N log N)."""
    if np.isnan(scores).any():
        raise Unsuitable("scores contain NaN")
    return np.lexsort((np.asarray(ids), -scores)).astype(np.int64)


def top_k(scores: Array, ids: Sequence[str], k: int) -> Order:
    """Positions of the k highest scores, best first. O(N + k log k), ties aside."""
    if not 0 < k < len(scores) or np.isnan(scores).any():
        return by_score(scores, ids)[:k]
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    among = np.flatnonzero(scores >= least)
    return among[by_score(scores[among], [ids[j] for j in among.tolist()])[:k]]


def round_robin(matrix: Array, ids: Sequence[str], k: int) -> Order:
    """[N, J] scores: the columns take turns, each taking its best example not yet taken, until k are chosen."""
    columns = _columns(matrix, ids, k)
    return np.array([next(columns[n % len(columns)]) for n in range(min(k, len(ids)))], np.int64)


def _columns(matrix: Array, ids: Sequence[str], k: int) -> list[Iterator[int]]:
    """One iterator for each of J columns: its best example that none of them has taken yet, which is then taken. They
    last for k examples together."""
    taken = np.zeros(len(ids), bool)

    def best_left(order: Order) -> Iterator[int]:
        for k in order:  # not tolist(): J lists of N integers would be large
            if not taken[k]:
                taken[k] = True
                yield int(k)

    return [best_left(top_k(scores, ids, k)) for scores in matrix.T]


def bids(matrix: Array, ids: Sequence[str], k: int) -> Order:
    """[N, J] scores: the column with the smallest sum so far takes its best example left (BIDS, arXiv 2501.12147).

    Columns are standardised over the examples first, and a chosen example adds to every column's sum. The paper's
    utility is UNCONFIRMED; this is argmin task → argmax candidate. O(J·N log N + k·J).
    """
    spread = matrix.std(axis=0)
    scaled = (matrix - matrix.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    columns, sums = _columns(scaled, ids, k), np.zeros(matrix.shape[1])
    chosen: list[int] = []
    for _ in range(min(k, len(ids))):
        chosen.append(next(columns[int(sums.argmin())]))
        sums += scaled[chosen[-1]]
    return np.array(chosen, np.int64)


def quota(scores: Array, ids: Sequence[str], groups: Sequence[Any], budgets: dict[Any, int]) -> Order:
    """The best of each group up to its budget; all of them from best to worst."""
    left = dict(budgets)
    chosen = []
    for k in by_score(scores, ids):
        if left.get(groups[k], 0) > 0:
            left[groups[k]] -= 1
            chosen.append(int(k))
    return np.array(chosen, np.int64)


def softmax_sample(scores: Array, ids: Sequence[str], k: int, temperature: float, seed: int) -> Order:
    """Draws k, one after the other without replacement, with probability ∝ exp(score/temperature) among those left.
    Temperature 0 is `top_k`."""
    return top_k(with_noise(scores, temperature, seed), ids, k)


def with_noise(scores: Array, temperature: float, seed: int) -> Array:
    """[N] score/temperature + Gumbel noise: the largest k of any group are k draws from it by softmax, without
    replacement (the Gumbel trick). Temperature 0: the scores."""
    if temperature == 0:
        return scores
    return np.asarray(scores / temperature + np.random.default_rng(seed).gumbel(size=len(scores)))


def window(scores: Array, ids: Sequence[str], low: float, high: float, k: int) -> Order:
    """The k ranks nearest the middle of the window from quantile `low` to `high` of the scores (0 the lowest), best
    first: `low = high = 0.5` takes the k around the median."""
    order = by_score(scores, ids)
    size = len(order)
    start = int(np.clip(round((1 - (low + high) / 2) * size - k / 2), 0, size - min(k, size)))
    return order[start : start + k]


def within_tokens(order: Order, tokens: Sequence[int], budget: int, least: int = 1) -> Order:
    """The start of an order whose label tokens stay within the budget, or its first `least` examples where those have
    more."""
    total = np.cumsum(np.asarray(tokens, np.int64)[order])
    return order[: max(least, int(np.searchsorted(total, budget, side="right")))]


def random_k(n: int, k: int, seed: int) -> Order:
    """Draws k of n positions, in seeded random order."""
    return np.random.default_rng(seed).permutation(n)[:k].astype(np.int64)


def random_tokens(tokens: Sequence[int], budget: int, seed: int) -> Order:
    """The start of a seeded random order whose label tokens come nearest to the budget (at least one position)."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    total = np.cumsum(np.asarray(tokens, np.int64)[order])
    count = int(np.abs(total - budget).argmin()) + 1
    return order[:count].astype(np.int64)


def random_lengths(tokens: Sequence[int], like: Sequence[int], seed: int) -> Order:
    """As many positions as `like` has, matched to its lengths: for each of its label-token counts, in random order, the
    nearest unused one of a seeded shuffle. O(n·k)."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(tokens))
    have = np.asarray(tokens, np.float64)[shuffled]
    chosen = []
    for wanted in rng.permutation(np.asarray(like))[: len(tokens)]:
        place = int(np.abs(have - wanted).argmin())
        chosen.append(int(shuffled[place]))
        have[place] = np.inf
    return np.array(chosen, np.int64)
