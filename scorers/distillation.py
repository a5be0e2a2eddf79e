"""Influence Distillation's weights (Nikdan et al., NeurIPS 2025, arXiv 2505.19051), first order.

    max_w  ⟨p, w⟩ − λ/2·‖w‖²,    w ≥ 0,  Σw = N        p_n: influence of example n on the target

The penalty is what makes the weights robust: without it all weight is on one example. The optimum is the projection of
p/λ onto a simplex,

    w_n = max(0, (p_n − τ)/λ),    τ such that Σw = N

The larger λ, the more examples have weight. A budget of k decides it: the largest λ with which no more than the k most
influential have weight, λ = Σ_{n ≤ k}(p_n − p_{k+1})/N, τ = p_{k+1}, in the order of p.

The whole objective has a second-order term ½ wᵀQw of the target's Hessian, which is left out here as in the released
code (`pick_first_order`, which gives no weights either). That Σw = N and that λ is chosen by the budget are
UNCONFIRMED. Cost O(N log N). Legend: N examples.
"""

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]


def weights(influence: F64, penalty: float) -> F64:
    """[N] influences → [N] weights of sum N under a penalty λ. Raises Unsuitable unless λ > 0."""
    if not penalty > 0:
        raise Unsuitable(f"a penalty is a number above 0, not {penalty}")
    falling = -np.sort(-influence)
    counts = np.arange(1, len(falling) + 1)
    # τ if so many examples have weight; it is the one below the last of them
    levels = (np.cumsum(falling) - penalty * len(falling)) / counts
    level = levels[np.flatnonzero(falling > levels)[-1]]
    return np.asarray(np.maximum(influence - level, 0.0) / penalty)


def penalty_of(influence: F64, size: int) -> float:
    """The largest λ with which at most `size` examples have weight; inf where all may, 0 where the best are equal."""
    if size >= len(influence):
        return np.inf
    falling = -np.sort(-influence)
    return float((falling[:size] - falling[size]).sum() / len(falling))


def for_budget(influence: F64, size: int) -> F64:
    """[N] weights of sum N, of at most `size` examples: equal ones where all have the same influence, and where
    `size` is all."""
    penalty = penalty_of(influence, size)
    if np.isinf(penalty):
        return np.ones(len(influence))
    if penalty > 0:
        return weights(influence, penalty)
    best = np.lexsort((np.arange(len(influence)), -influence))[:size]
    equal = np.zeros(len(influence))
    equal[best] = len(influence) / size
    return equal
