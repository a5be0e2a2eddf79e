"""Data value embeddings (DVEmb; Wang et al., ICLR 2025, arXiv 2412.09538): what an example's step leaves in the final
model, after all later steps.

A step on example z at step t of T moves the target's final loss by

    −η_t·⟨∏_{k>t}(I − η_k C_k) a_t(z), q⟩,      C_k = mean over examples of a_k(z') g_k(z')ᵀ

with q the target's gradient at the end, g an example's gradient and a the direction in which the optimizer moves for it
(g itself for SGD). Later steps undo a part of what an earlier one did, the more the more examples share its direction.
As the authors' recursion has it, from the last step to the first,

    e_t(z) = η_t·(a_t(z) − M a_t(z)),     M ← M + Σ_{z'} e_t(z') g_t(z')ᵀ,     score = ⟨e, q⟩

Here the product is carried on the side of the target, which is J vectors instead of a matrix: w ← w − η_k·C_kᵀw.

Departures, for a store has a row for each example at each checkpoint and none of single steps:
- an interval between two checkpoints is T_c equal steps on the whole pool, at its mean learning rate, with the rows of
  the checkpoint that ends it; an example is in one of them, each as likely, so that its score there is the mean;
- every example of the pool has a value, also one that the warm-up never saw: what it would leave if it were trained on;
- all is done in the projected space.

Memory 16·D² for C. Cost: one pass over the rows for C, O(N·D²), and O(T·J·D²). Legend: N examples, J target vectors, D
dims, T steps.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
Array = NDArray[np.floating[Any]]


def curvature(blocks: Iterable[tuple[Array, Array]]) -> F64:
    """C [D, D] from blocks of directions a and gradients g, [n, D] each."""
    total: F64 | None = None
    count = 0
    for directions, gradients in blocks:
        part = np.asarray(directions.T @ gradients, np.float64)
        total = part if total is None else np.add(total, part, out=total)
        count += len(gradients)
    if total is None:
        raise ValueError("no rows to take a curvature of")
    return np.divide(total, count, out=total)


def carry(target: F64, curved: F64, rate: float, steps: int) -> tuple[F64, F64]:
    """[J, D] target vectors after an interval → (their mean as its steps see them, what the interval before it sees).

    Raises Unsuitable where they grow without bound: such steps are too long for these gradients.
    """
    seen, after = np.zeros_like(target), target
    for _ in range(steps):
        seen += after
        after = after - rate * (after @ curved)
    if not np.linalg.norm(after) <= 10 * max(float(np.linalg.norm(target)), 1e-300):
        raise Unsuitable(f"{steps} steps at a learning rate of {rate:g} diverge on these rows; take a lower `rate`")
    return seen / max(1, steps), after
