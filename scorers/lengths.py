"""Scores without what the length of an answer explains, within quantiles of length (our own; no paper).

Scores by gradients follow length: short answers have long, noisy gradients, and long ones point to the common
direction. One line through all lengths would take out more than that, for lengths differ between sources. So examples
are divided into quantiles b of log length x = log(1 + label tokens), and in each a line is fitted by least squares,

    s_n ≈ a_b + β_b·(x_n − x̄_b)

| form | what is left | meaning |
|---|---|---|
| `full` | s_n − a_b − β_b·(x_n − x̄_b) | no length is better than another, in the whole or within a quantile |
| `mild` | s_n − β_b·(x_n − x̄_b) | among answers about as long, length does not matter; between quantiles it does |

Examples of one length are in one quantile. Cost O(N log N + N·J). Legend: N examples, J columns.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Form = Literal["mild", "full"]
QUANTILES = 10


def without_length(
    scores: F64, tokens: NDArray[np.integer[Any]], form: Form = "mild", quantiles: int = QUANTILES
) -> F64:
    """[N] or [N, J] scores and [N] label tokens → what is left of the scores, column by column."""
    lengths = np.log1p(tokens.astype(np.float64))
    edges = np.quantile(lengths, np.arange(1, quantiles) / quantiles)
    group = np.searchsorted(edges, lengths, side="right")
    left = np.array(scores, np.float64)
    for b in np.unique(group):
        part = np.flatnonzero(group == b)
        x = lengths[part] - lengths[part].mean()
        own = left[part]
        middle = own.mean(axis=0)
        spread = float(x @ x)
        slope = x @ (own - middle) / spread if spread > 0 else np.zeros_like(middle)
        left[part] = own - np.multiply.outer(x, slope) - (middle if form == "full" else 0.0)
    return left
