"""The third axis of a method: rules that choose from scores alone. Those that look at rows are in `row_rules`.

A rule takes the evidence, the scores ([N] or [N, J]), a size and its options (keyword arguments, checked against their
annotations) and gives positions in order. The mathematics is in `scorers`. Legend: N pool examples, J columns.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.pipelines.methods import memory
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import Choice, rule
from gradsift.scorers import budgets, distillation, ranking, strata
from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]


def best(scores: F64, lowest: bool = False) -> F64:
    """[N] the best column of each example, or the one column there is."""
    one = scores if scores.ndim == 1 else scores.max(axis=1)
    return -one if lowest else one


@rule("top_k", prefix=True, memory=memory.ORDER)
def top_k(
    e: Evidence, scores: F64, size: int, *, reduce: Literal["max", "mean"] = "max", lowest: bool = False
) -> Choice:
    """The highest scores (`lowest`: the lowest), the best or mean over columns."""
    one = scores.mean(axis=1) if reduce == "mean" and scores.ndim == 2 else scores
    return Choice(ranking.top_k(best(one, lowest), e.ids, size))


@rule("round_robin", prefix=True, memory=memory.TURNS)
def round_robin(e: Evidence, scores: F64, size: int) -> Choice:
    """Columns take turns."""
    return Choice(ranking.round_robin(matrix(scores), e.ids, size))


@rule("bids", prefix=True, memory=memory.BIDS)
def bids(e: Evidence, scores: F64, size: int) -> Choice:
    """The poorest column takes its best."""
    return Choice(ranking.bids(matrix(scores), e.ids, size))


@rule("quota", memory=memory.RANKED)
def quota(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    by: Literal["subtask", "source"] = "subtask",
    shares: Literal["even", "proportional"] = "even",
) -> Choice:
    """A share of the budget for each subtask (of the column an example is best for) or source; the best in each."""
    groups: list[Any] = e.sources() if by == "source" else matrix(scores).argmax(axis=1).tolist()
    names = sorted(set(groups))
    sizes = [groups.count(name) for name in names]
    amounts = budgets.even(size, sizes) if shares == "even" else budgets.largest_remainder(sizes, size, sizes)
    return Choice(ranking.quota(best(scores), e.ids, groups, dict(zip(names, amounts.tolist(), strict=True))))


@rule("softmax", prefix=True, memory=memory.ORDER)
def softmax(e: Evidence, scores: F64, size: int, *, temperature: float = 1.0) -> Choice:
    """Sampling without replacement, weights exp(score/temperature)."""
    return Choice(ranking.softmax_sample(best(scores), e.ids, size, temperature, e.seed))


@rule("distillation", memory=memory.RANKED)
def distillation_rule(e: Evidence, scores: F64, size: int, *, penalty: float = 0.0) -> Choice:
    """The highest scores, each with Influence Distillation's weight. `penalty: 0` takes the largest with which none
    beyond the budget has weight. Weights are told with the selection; training takes no account of them."""
    influence = best(scores)
    given = distillation.weights(influence, penalty) if penalty else distillation.for_budget(influence, size)
    return Choice(ranking.top_k(influence, e.ids, size), {"weight": given})


@rule("window", memory=memory.RANKED)
def window(e: Evidence, scores: F64, size: int, *, low: float = 0.5, high: float = 0.5) -> Choice:
    """The ranks nearest the middle of a window of quantiles: 0 and 0 the lowest, 0.5 and 0.5 the median."""
    return Choice(ranking.window(best(scores), e.ids, low, high, size))


@rule("stratified", memory=memory.STRATA)
def stratified(e: Evidence, scores: F64, size: int, *, bins: int = 50, low: float = 5.0, high: float = 95.0) -> Choice:
    """Adapt-∞'s CCS: bins of equal width between two percentiles, from high to low, at random inside."""
    return Choice(strata.descending(best(scores), e.ids, size, e.seed, bins, (low, high)))


@rule("ccs", memory=memory.STRATA)
def ccs(e: Evidence, scores: F64, size: int, *, bins: int = 50, hard: float = 0.3) -> Choice:
    """CCS as released: the share `hard` of the highest scores is cut, then bins of equal width, those with fewest
    members first, at random inside."""
    return Choice(strata.ccs(best(scores), e.ids, size, e.seed, bins, hard))


@rule("random", prefix=True, memory=memory.ORDER)
def random(e: Evidence, scores: F64, size: int) -> Choice:
    """Seeded random order."""
    return Choice(ranking.random_k(len(e.ids), size, e.seed))


@rule("tive", ("plain", "signals"), memory=memory.TIVE)
def tive(
    e: Evidence, scores: F64, size: int, *, temperature: float = 1.0, legacy_tive_q: float | None = None
) -> Choice:
    """TIVE: budgets of sources ∝ mean gradient norm, inside softmax(cosine to the source's mean / temperature); norms
    and rows of plain gradients, rows averaged over checkpoints, norms of the last.

    The release multiplies by q = 0.001 where the paper may divide (UNCONFIRMED); `legacy_tive_q` does that. Budgets
    above a source's size go to the others here, where the release repeats examples.
    """
    if legacy_tive_q == 0:
        raise Unsuitable("`legacy_tive_q` multiplies the cosines: give a number above 0")
    sources, rows, norms = e.sources(), e.rows("plain", unit=True), e.signal("grad_norm")
    names = sorted(set(sources))
    members = [np.flatnonzero(np.array(sources) == name) for name in names]
    shares = budgets.largest_remainder([norms[part].mean() for part in members], size, [len(part) for part in members])
    chosen: list[int] = []
    for part, share in zip(members, shares.tolist(), strict=True):
        own = rows.part(part)
        total = sum((block.sum(axis=0, dtype=np.float64) for _, block in own.blocks()), np.zeros(rows.shape[1]))
        cosines = own.products((total / len(part)).astype(np.float32)[None])[:, 0]
        heat = temperature if legacy_tive_q is None else 1 / legacy_tive_q
        picks = ranking.softmax_sample(cosines.astype(np.float64), [e.ids[k] for k in part], share, heat, e.seed)
        chosen += part[picks].tolist()
    return Choice(np.array(chosen, np.int64))


def matrix(scores: F64) -> F64:
    """[N, J] with J = 1 for plain scores."""
    return scores[:, None] if scores.ndim == 1 else scores
