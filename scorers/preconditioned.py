"""Influence with curvature: queries are multiplied by an inverse Hessian before the product with the rows.

    score(z) = ⟨g_z, H⁻¹ q⟩,   from dL_V/dw_z = −g_zᵀ H⁻¹ ∇L_V     (implicit differentiation; Lorraine et al. 2020)

| preconditioner | H⁻¹ q | source |
|---|---|---|
| `gram` | (GᵀG/N + λI)⁻¹ q, λ = ridge·mean eigenvalue | TRAK's whitening (`traker` multiplies by (GᵀG)⁻¹, ridge 0) |
| `none` | q | TracIn's checkpoints (Pruthi et al. 2020); no H |
| `datainf` | 1/(Nλ)·Σ_i [q − ⟨q, g_i⟩/(λ + ‖g_i‖²)·g_i], λ = mean g²/10, layer by layer | DataInf, `influence.py` |
| `gist` | P Pᵀ-cosines, P = G_Vᵀ U S⁻¹ of the k largest singular values of the **query** rows | GIST, 2602.18584 |

All take plain gradients with their length on both sides: projected, unit row times norm. Departures:

- TRAK's rows are gradients of the model's output, and the loss's slope (1 − p) enters after the inverse; ours are
  gradients of the loss on both sides. TRAK averages over models, we weight checkpoints by their learning rates.
- DataInf sums over layers, each with its own λ. Where rows are by module (`features.projector.per_module`) so do we, λ
  from the number of weights of each layer; else the sketch of all layers counts as one (a departure).

Rows are streamed: one pass for H (datainf two), one for the scores. Cost: gram O(N·D² + D³), datainf O(N·J·D), gist
O(V²·D + N·D·k). Legend: N rows, V queries, J subtasks, D dims, P weights of a layer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
Array = NDArray[np.floating[Any]]


def gram(blocks: Iterable[Array]) -> tuple[F64, int]:
    """(GᵀG [D, D], N) over blocks of rows [n, D]."""
    total: F64 | None = None
    count = 0
    for block in blocks:
        part = np.asarray(block.T @ block, np.float64)
        total = part if total is None else total + part
        count += len(block)
    if total is None:
        raise ValueError("no rows to take a Gram matrix of")
    return total, count


def whiten(queries: Array, moments: F64, count: int, ridge: float = 0.1) -> F64:
    """[J, D] queries → [J, D] (GᵀG/N + λI)⁻¹ q with λ = ridge·trace/D. Raises Unsuitable when H is singular."""
    hessian = moments / count
    hessian[np.diag_indices_from(hessian)] += ridge * float(np.trace(hessian)) / len(hessian)
    try:
        factor = scipy.linalg.cho_factor(hessian, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError:
        raise Unsuitable("the Gram matrix is singular: fewer rows than dims need a ridge above 0") from None
    return np.asarray(scipy.linalg.cho_solve(factor, queries.T.astype(np.float64)).T)


@dataclass(frozen=True)
class Layer:
    """Dims of a row that belong to one layer, and the number of weights that they sketch."""

    dims: slice
    weights: int


def equal_layers(dims: int, weights: Sequence[int]) -> list[Layer]:
    """Layers side by side, as many dims each; without `weights` one layer of all dims, as if these were its weights."""
    if not weights:
        return [Layer(slice(0, dims), dims)]
    width = dims // len(weights)
    return [Layer(slice(k * width, (k + 1) * width), size) for k, size in enumerate(weights)]


def datainf(queries: Array, blocks: Callable[[], Iterable[Array]], layers: Sequence[Layer]) -> F64:
    """[J, D] queries → [J, D] DataInf's H⁻¹ q. `blocks()` gives the rows, [n, D] at a time; called twice. The inner
    products of a layer's dims estimate those of its weights, hence the mean of its g² is ‖row‖² over its weights.

    Raises Unsuitable when all rows of a layer that a query touches are zero.
    """
    squares, count = np.zeros(len(layers)), 0
    for block in blocks():
        squares += [float(np.square(block[:, layer.dims], dtype=np.float64).sum()) for layer in layers]
        count += len(block)
    damping = [total / max(1, count) / layer.weights / 10 for total, layer in zip(squares, layers, strict=True)]
    q = queries.astype(np.float64)
    dead = [layer for layer, value in zip(layers, damping, strict=True) if not value > 0]
    if len(dead) == len(layers) or any(q[:, layer.dims].any() for layer in dead):
        raise Unsuitable("DataInf needs rows that are not all zero")
    live = [(layer.dims, value) for layer, value in zip(layers, damping, strict=True) if value > 0]
    total = count * q
    for block in blocks():
        for dims, value in live:
            rows = block[:, dims].astype(np.float64)
            total[:, dims] -= ((rows @ q[:, dims].T) / (value + (rows * rows).sum(axis=1))[:, None]).T @ rows
    for dims, value in live:
        total[:, dims] /= count * value
    return np.asarray(total)


def gist_basis(queries: Array, rank: int = 150) -> F64:
    """[V, D] query rows → [D, k] orthonormal P = G_Vᵀ U S⁻¹, k = min(rank, numerical rank)."""
    values, left = np.linalg.eigh(queries.astype(np.float64) @ queries.T.astype(np.float64))
    order = np.argsort(-values)[:rank]
    order = order[values[order] > 1e-10 * values.max()]
    basis = queries.T.astype(np.float64) @ (left[:, order] / np.sqrt(values[order]))
    return np.asarray(np.linalg.qr(basis)[0] if len(order) else basis)


def cosines(rows: Array, means: Array) -> F64:
    """[N, k] × [J, k] → [N, J] cosines; a zero row has 0."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True) * np.linalg.norm(means, axis=1)
    return np.asarray((rows @ means.T) / np.where(lengths > 0, lengths, 1.0))
