"""Q-Tuning (arXiv 2509.23873v2 §3, Alg. 1): keep two quadrants of the error–uncertainty plane.

An example stands at (PPL, Ent): PPL = exp(mean NLL), Ent = mean entropy in nats, both over its label tokens.

| | low entropy | high entropy |
|---|---|---|
| high PPL | **Q2** a valuable misconception: keep, prune tokens | Q1 harmful noise: drop |
| low PPL | Q3 redundant: drop | **Q4** calibration: keep whole |

With u, w the ranks of PPL and Ent in [0, 1], an example is in Q2 at α iff 1−u < α and w ≤ α, in Q4 iff u ≤ α and 1−w <
α. So it has a critical α, c = min(max(1−u, w), max(u, 1−w)), and the paper's bisection over α (α = β) becomes: keep
the K smallest c, K = ⌊ratio·N⌋ ≥ 1. That is exact and O(N log N), where bisection may overshoot or stop early. Where
fewer than K have c ≤ 0.49, the rest is added by |P̂PL − Ênt|, each scaled to [0, 1] by minimum and maximum
(`supplement="rank"`, ours: |u − w|, which one outlier cannot squash); of those, PPL̂ ≥ Ênt counts as Q2.

Tokens of Q2: s_i = (1−λ)·PPL_i + λ·(PPL_{i−1} + PPL_{i+1}), λ = ½, neighbours summed, zeros past the ends; the
**highest** s are dropped (§4.2, Fig. 2, and the withdrawn draft code; Alg. 1's "keep top-r" says the opposite and
loses in the paper's own ablation: `keep_highest`). ⌊ratio·T⌋ tokens stay, at least one. Pruned tokens leave the loss,
not the context.

Departures by name: `both_above_median` (a sentence of §3.2 that Alg. 1 omits; UNCONFIRMED): only tokens whose own PPL
and whose neighbours' mean both exceed the example's medians may go. `draft_tokens`: the draft code's budget over a
batch. Neighbours outside the label tokens count as 0 (the draft gives a prompt neighbour exp(0) = 1). Legend: N
examples of a group, T label tokens of an example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
CAP = 0.49  # the largest α: beyond it an example is in Q1 or Q3 about the medians


@dataclass(frozen=True)
class Quadrants:
    """[N] critical α; whether kept, kept with tokens to prune (as of Q2), and kept beyond the quadrants."""

    critical: F64
    keep: Bools
    prune: Bools
    added: Bools


def critical_alpha(ppl: F64, entropy: F64) -> tuple[F64, Bools]:
    """([N] critical α, [N] whether it is Q2's). Ties of a value go to the earlier example. Raises Unsuitable on NaN."""
    if not (np.isfinite(ppl).all() and np.isfinite(entropy).all()):
        raise Unsuitable("perplexity and entropy must be finite")
    u, w = _ranks(ppl), _ranks(entropy)
    misconception, calibration = np.maximum(1 - u, w), np.maximum(u, 1 - w)
    return np.minimum(misconception, calibration), misconception < calibration


def _ranks(values: F64) -> F64:
    places = values.argsort(kind="stable").argsort(kind="stable")
    return np.asarray(places / max(1, len(values) - 1), np.float64)


def quadrant(ppl: F64, entropy: F64) -> NDArray[np.int8]:
    """[N] quadrant 1 to 4 about the medians."""
    hard, unsure = _ranks(ppl) >= 0.5, _ranks(entropy) >= 0.5
    return np.select([hard & unsure, hard, ~hard & ~unsure], [1, 2, 3], 4).astype(np.int8)


def choose(
    ppl: F64, entropy: F64, ratio: float, supplement: Literal["minmax", "rank"] = "minmax", cap: float = CAP
) -> Quadrants:
    """Keep ⌊ratio·N⌋ (at least one) examples of a group. O(N log N)."""
    size = len(ppl)
    critical, is_q2 = critical_alpha(ppl, entropy)
    wanted = max(1, int(ratio * size))
    order = np.lexsort((np.arange(size), critical))
    inside = [i for i in order if critical[i] <= cap][:wanted]
    keep, added = np.zeros(size, bool), np.zeros(size, bool)
    keep[inside] = True
    if len(inside) < wanted:
        scaled = _unit if supplement == "minmax" else _ranks
        error, doubt = scaled(ppl), scaled(entropy)
        ranked = np.lexsort((np.arange(size), -np.abs(error - doubt)))
        more = [i for i in ranked if not keep[i]][: wanted - len(inside)]
        keep[more] = added[more] = True
        is_q2 = np.where(added, error >= doubt, is_q2)
    return Quadrants(critical, keep, keep & is_q2, added)


def _unit(values: F64) -> F64:
    width = values.max() - values.min()
    return np.asarray((values - values.min()) / width if width > 1e-12 else np.zeros(len(values)))


def token_scores(ppl: F64, smoothing: float = 0.5) -> F64:
    """[T] s_i of an example's label tokens, from their perplexities exp(NLL)."""
    around = np.zeros(len(ppl))
    around[1:] += ppl[:-1]
    around[:-1] += ppl[1:]
    return np.asarray((1 - smoothing) * ppl + smoothing * around)


def keep_tokens(
    nll: NDArray[np.floating],
    ratio: float,
    smoothing: float = 0.5,
    keep_highest: bool = False,
    both_above_median: bool = False,
) -> Bools:
    """[T] which label tokens keep their loss: ⌊ratio·T⌋ of them, at least one; ties keep the earlier token."""
    ppl = np.exp(np.asarray(nll, np.float64))
    size = len(ppl)
    scores = token_scores(ppl, smoothing) * (-1 if keep_highest else 1)
    keep = np.zeros(size, bool)
    keep[np.lexsort((np.arange(size), scores))[: max(1, int(ratio * size))]] = True
    if both_above_median and size:
        around = token_scores(ppl, 1.0) / 2
        keep |= ~((ppl > np.median(ppl)) & (around > np.median(around)))
    return keep


def draft_tokens(
    nll: Sequence[NDArray[np.floating]],
    attended: Sequence[int],
    quadrants: Quadrants,
    sample_ratio: float,
    token_ratio: float,
    smoothing: float = 0.5,
) -> list[Bools]:
    """The draft code's budget for a batch: round(attended·sample_ratio·token_ratio) tokens stay in all, prompts
    counted. The excess is taken from the Q2 examples' label tokens, highest s first over the batch, all of them if
    need be."""
    masks = [np.full(len(n), bool(k)) for n, k in zip(nll, quadrants.keep, strict=True)]
    if token_ratio == 1:
        return masks
    left = sum(int(a) for a, k in zip(attended, quadrants.keep, strict=True) if k)
    drop = max(0, left - round(sum(attended) * sample_ratio * token_ratio))
    pairs = [
        (-score, i, t)
        for i in np.flatnonzero(quadrants.prune).tolist()
        for t, score in enumerate(token_scores(np.exp(np.asarray(nll[i], np.float64)), smoothing))
    ]
    for _, i, t in sorted(pairs)[:drop]:
        masks[i][t] = False
    return masks
