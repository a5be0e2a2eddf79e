"""Scores of one example alone, from what its pass kept: no target, no rows.

| score | formula | source |
|---|---|---|
| `grand` | ‖∇ℓ‖, of the mean loss over label tokens | Data Diet, arXiv 2107.07075 |
| `el2n` | mean over label tokens of ‖softmax(z) − onehot(y)‖ ∈ [0, √2] | the same |
| `perplexity` | exp(mean NLL) | |
| `entropy` | mean over label tokens of H(p), nats | |
| `ifd` | NLL(answer | prompt) / NLL(answer); ≥ 1 is misaligned and goes last | Cherry LLM, arXiv 2308.12032 |
| `loss_drop` | (before − after)/before of training on the target alone | arXiv 2605.09404; normaliser UNCONFIRMED |
| `residual` | a score without what log length explains, by least squares | ours, for GraNd's bias to short answers |

Papers prune the highest GraNd and EL2N first (noise), so "highest first" is a choice, not the papers' advice.
Legend: N examples, C checkpoints.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Array = NDArray[np.floating[Any]]


def perplexity(loss: Array) -> F64:
    """[N] mean NLL in nats → perplexity."""
    return np.asarray(np.exp(loss.astype(np.float64)))


def ifd(loss: Array, answer_loss: Array) -> F64:
    """[N] loss with and without the prompt → IFD, −IFD where it is 1 or more (so such examples come last)."""
    ratio = loss.astype(np.float64) / np.maximum(answer_loss.astype(np.float64), 1e-12)
    return np.where(ratio < 1, ratio, -ratio)


def loss_drop(before: Array, after: Array) -> F64:
    """[N] relative fall of the loss."""
    first = before.astype(np.float64)
    return np.asarray((first - after) / np.maximum(first, 1e-12))


def residual(score: Array, tokens: NDArray[np.integer[Any]]) -> F64:
    """[N] score minus its least-squares line in log(1 + label tokens)."""
    design = np.stack([np.ones(len(tokens)), np.log1p(tokens)], axis=1)
    line, *_ = np.linalg.lstsq(design, score.astype(np.float64), rcond=None)
    return np.asarray(score - design @ line)
