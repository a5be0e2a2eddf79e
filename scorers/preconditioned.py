"""Influence with curvature: queries are multiplied by an inverse Hessian before the product with the rows.

    score(z) = ⟨g_z, H⁻¹ q⟩,   from dL_V/dw_z = −g_zᵀ H⁻¹ ∇L_V     (implicit differentiation; Lorraine et al. 2020)

| preconditioner | H⁻¹ q | source |
|---|---|---|
| `gram` | (GᵀG/N + λI)⁻¹ q, λ = ridge·mean eigenvalue | TRAK's whitening (`traker` multiplies by (GᵀG)⁻¹, ridge 0) |
| `datainf` | 1/(Nλ)·Σ_i [q − ⟨q, g_i⟩/(λ + ‖g_i‖²)·g_i], λ = mean g²/10 | DataInf, `influence.py` |
| `gist` | P Pᵀ-cosines, P = G_Vᵀ U S⁻¹ of the k largest singular values of the **query** rows | GIST, 2602.18584 |

DataInf sums over layers, each with its own λ; here the projected row counts as one layer (a departure, unless rows are
taken by module). Rows are raw projected gradients: unit row times norm. Rows are streamed: one pass for H, one for the
scores. Cost: gram O(N·D² + D³), datainf O(N·J·D), gist O(V²·D + N·D·k). Legend: N rows, V queries, J subtasks, D dims.
"""

from collections.abc import Iterable
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


def datainf(queries: Array, blocks: Iterable[Array], mean_square: float, count: int) -> F64:
    """[J, D] queries → [J, D] DataInf's H⁻¹ q. `mean_square` is the mean of g² over all rows and dims."""
    damping = mean_square / 10
    if not damping > 0:
        raise Unsuitable("DataInf needs rows that are not all zero")
    q = queries.astype(np.float64)
    total = count * q
    for block in blocks:
        rows = block.astype(np.float64)
        total = total - ((rows @ q.T) / (damping + (rows * rows).sum(axis=1))[:, None]).T @ rows
    return np.asarray(total / (count * damping))


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
