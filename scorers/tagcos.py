"""TAGCOS (Zhang et al., Findings of NAACL 2025, arXiv 2407.15235): in each cluster of gradients, the rows whose
non-negative combination reproduces the cluster's mean.

    min_{S, x ≥ 0}  ‖Σ_{i∈S} x_i φ_i − b‖² + λ‖x‖²,   |S| ≤ budget,    φ_i = Σ_c w̃_c ĝ_{i,c},   b = mean φ

by orthogonal matching pursuit, as the released code does it (CORDS' `OrthogonalMP_REG_Parallel`, λ = 1, 100 clusters):
take the atom with the largest ⟨φ, residual⟩, solve the ridge problem on the support, drop atoms with negative weight,
stop when the best atom is already in. A pursuit that stops early is restarted on the atoms that are left, with the
full mean as target again, until the budget is met. φ is not normalised again: where checkpoints disagree it is short,
λ = 1 then keeps the residual near b, and the method tends to the plain ranking by ⟨φ, b⟩. The weights x are not used.

Options that depart from the released code, off unless named:
- `continue_residual`: a restart aims at what the rows chosen so far leave of b, not at b again.
- budgets by largest remainder (`scorers.budgets`) where the code takes ⌊0.05·n⌋, which is `floor`.
Never as released: rows with NaN or of zero length, a zero mean, and atoms that all point away from b. There the code
loops for ever, divides by zero or takes a negative weight; here the pursuit ends, and the cluster's budget is filled by
⟨φ, b⟩, ties to the earlier row.

Cost of a pursuit of k atoms: O(k·n·d + k²·d + k³/3) by growing a Cholesky factor, one product of the atoms with the
residual for each pick; rebuilding and solving each time costs O(k³·d + k⁴). Memory k·d + k².
Legend: n atoms, d dims, k picks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from scorers.kmeans import Clusters

Rows = NDArray[np.floating[Any]]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Pursuit:
    """Chosen atoms in the order of their choice, their weights [k], and ‖residual‖/‖b‖ at the end."""

    atoms: list[int]
    weights: F64
    residual: float


def omp(atoms: Rows, target: Rows, size: int, ridge: float = 1.0, tol: float = 1e-4) -> Pursuit:
    """Non-negative ridge matching pursuit of [d] `target` by at most `size` rows of [n, d] `atoms`.

    Atoms must be finite; correlations are taken in the dtype of the atoms, everything else in f64. The first atom's
    weight has no ridge, as in the released code. Ends early at ‖residual‖ < tol·‖target‖, when the best atom is already
    chosen, or when no atom points along the residual.
    """
    goal = np.asarray(target, np.float64)
    length = float(np.linalg.norm(goal))
    support: list[int] = []
    chosen = np.zeros(len(atoms), bool)
    picked = np.zeros((min(size, len(atoms)), atoms.shape[1]), atoms.dtype)
    factor = np.zeros((len(picked), len(picked)))  # lower Cholesky factor of A_S A_Sᵀ + λI
    along = np.zeros(len(picked))  # A_S b
    x: F64 = np.zeros(0)
    residual = goal
    for _ in range(len(picked)):
        if length == 0 or np.linalg.norm(residual) < tol * length:
            break
        fit = atoms @ residual.astype(atoms.dtype)
        j = int(fit.argmax())
        if chosen[j] or not fit[j] > 0:
            break
        k = len(support)
        support.append(j)
        chosen[j] = True
        picked[k] = atoms[j]
        gram = picked[: k + 1].astype(np.float64, copy=False) @ picked[k].astype(np.float64)
        along[k] = picked[k].astype(np.float64) @ goal
        if k:
            factor[k, :k] = scipy.linalg.solve_triangular(factor[:k, :k], gram[:k], lower=True, check_finite=False)
        factor[k, k] = np.sqrt(max(gram[k] + ridge - factor[k, :k] @ factor[k, :k], 1e-30))
        x = np.array([along[0] / gram[0]]) if k == 0 else _solve(factor[: k + 1, : k + 1], along[: k + 1])
        while len(x) and x.min() < 0:
            worst = int(x.argmin())
            chosen[support.pop(worst)] = False
            m = len(support)
            picked[worst:m], along[worst:m] = picked[worst + 1 : m + 1].copy(), along[worst + 1 : m + 1].copy()
            if worst == m:  # the newest atom: the released code ends the pursuit here
                x = _solve(factor[:m, :m], along[:m]) if m else np.zeros(0)
                return Pursuit(support, x, float(np.linalg.norm(goal - x @ picked[:m])) / length)
            part = picked[:m].astype(np.float64)
            factor[:m, :m] = np.linalg.cholesky(part @ part.T + ridge * np.eye(m))
            x = _solve(factor[:m, :m], along[:m])
        residual = goal - x @ picked[: len(support)]
    return Pursuit(support, x, float(np.linalg.norm(residual)) / length if length else 0.0)


def _solve(factor: F64, right: F64) -> F64:
    return np.asarray(scipy.linalg.cho_solve((factor, True), right, check_finite=False), np.float64)


def pursue(
    atoms: Rows, target: Rows, size: int, ridge: float = 1.0, tol: float = 1e-4, continue_residual: bool = False
) -> list[Pursuit]:
    """Rounds of matching pursuit until `size` atoms are chosen, each on the atoms that are left; positions are those in
    `atoms`. The last round is the filling by ⟨φ, b⟩ where a pursuit finds nothing (weights 0)."""
    left = np.flatnonzero(np.isfinite(atoms).all(axis=1) & (atoms != 0).any(axis=1))
    goal = np.asarray(target, np.float64)
    if not np.isfinite(goal).all():
        raise ValueError("the target of a pursuit must be finite")
    aim, rounds, open_ = goal, list[Pursuit](), size
    while open_ > 0 and len(left):
        found = omp(atoms[left], aim, open_, ridge, tol)
        if not found.atoms:
            break
        ids = left[found.atoms]
        rounds.append(Pursuit([int(i) for i in ids], found.weights, found.residual))
        if continue_residual:
            aim = aim - found.weights @ atoms[ids]
        left = np.delete(left, found.atoms)
        open_ -= len(ids)
    if open_ > 0 and len(left):
        fit = atoms[left] @ goal
        best = left[np.lexsort((left, -fit))[:open_]]
        rounds.append(Pursuit([int(i) for i in best], np.zeros(len(best)), rounds[-1].residual if rounds else 1.0))
    return rounds


def tagcos(
    rows: Rows,
    clusters: Clusters,
    budgets: Sequence[int],
    ridge: float = 1.0,
    tol: float = 1e-4,
    continue_residual: bool = False,
) -> NDArray[np.int64]:
    """[N, D] rows φ → chosen positions, cluster by cluster, each in the order of its pursuit."""
    chosen: list[int] = []
    for members, center, size in zip(clusters.members(), clusters.centers, budgets, strict=True):
        for found in pursue(rows[members], center, int(size), ridge, tol, continue_residual):
            chosen += members[found.atoms].tolist()
    return np.array(chosen, np.int64)
