"""TAGCOS (Zhang et al., Findings of NAACL 2025, arXiv 2407.15235): in each cluster of gradients, the rows whose
non-negative combination reproduces the cluster's mean.

    min_{S, x ≥ 0}  ‖Σ_{i∈S} x_i φ_i − b‖² + λ‖x‖²,   |S| ≤ budget,    φ_i = Σ_c w̃_c ĝ_{i,c},   b = mean φ

by orthogonal matching pursuit, as the released code does it (CORDS' `OrthogonalMP_REG_Parallel`, λ = 1, 100 clusters):
take the atom with the largest ⟨φ, residual⟩, solve the ridge problem on the support, drop atoms with negative weight,
stop when the best atom is already chosen. A pursuit that stops early is restarted on the atoms that are left, with the
full mean as target again, until the budget is met. φ is not normalised again, so it is short where checkpoints
disagree; λ = 1 then keeps the residual near b, and the method tends to the plain ranking by ⟨φ, b⟩. The weights x are
not used.

Options that depart from the released code, off unless named:
- `continue_residual`: a restart aims at what the rows chosen so far leave of b, not at b again.
- budgets by largest remainder (`scorers.budgets`) where the code takes ⌊0.05·n⌋ of each cluster, which is `floor`.
Never as released: k-means begins at random rows and is seeded (FAISS), where the code has scikit-learn's k-means++
without a seed. And rows with NaN or of zero length, a zero mean, and atoms that all point away from b: there the code
loops for ever, divides by zero or takes a negative weight; here the pursuit ends, and the cluster's budget is filled by
⟨φ, b⟩, ties to the earlier row.

Cost of a pursuit of k atoms: O(k·n·d + k²·n + k³): products of the atoms in batches of likely picks, correlations from
those, a growing Cholesky factor. Rebuilding and solving each time costs O(k·n·d + k³·d + k⁴) and reads the atoms at
each pick. Memory n·k + k². Legend: n atoms, d dims, k picks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.kmeans import Clusters

Rows = NDArray[np.floating[Any]]
F64 = NDArray[np.float64]
AHEAD = 48  # products computed at a time


@dataclass(frozen=True)
class Pursuit:
    """Chosen atoms in the order of their choice, their weights [k], and ‖residual‖/‖b‖ at the end."""

    atoms: list[int]
    weights: F64
    residual: float


def omp(atoms: Rows, target: Rows, size: int, ridge: float = 1.0, tol: float = 1e-4) -> Pursuit:
    """Non-negative ridge matching pursuit of [d] `target` by at most `size` rows of [n, d] `atoms`.

    Atoms must be finite; products are taken in the dtype of the atoms, the rest in f64. The first atom's weight has no
    ridge, as in the released code. Ends early at ‖residual‖ < tol·‖target‖, when the best atom is already chosen, or
    when no atom points along the residual. Raises Unsuitable where the ridge is too small for atoms that repeat others.
    """
    goal = np.asarray(target, np.float64)
    square = float(goal @ goal)
    start = atoms @ goal.astype(atoms.dtype)  # ⟨a, b⟩ of every atom
    fit, left = start, square
    most = min(size, len(atoms))
    support: list[int] = []
    chosen = np.zeros(len(atoms), bool)
    gram = np.empty((most, len(atoms)), atoms.dtype)  # ⟨a_i, a⟩ of the chosen atoms with every atom
    factor = np.zeros((most, most))  # lower Cholesky factor of G_SS + λI
    x: F64 = np.zeros(0)
    ahead: dict[int, Rows] = {}
    for _ in range(most):
        if square == 0 or left < tol * tol * square:
            break
        j = int(fit.argmax())
        if chosen[j] or not fit[j] > 0:
            break
        if j not in ahead:
            if len(ahead) > 4 * AHEAD:
                ahead = {}
            ahead |= _products_ahead(atoms, fit, chosen, j, [*ahead], most - len(support))
        k = len(support)
        support.append(j)
        chosen[j] = True
        gram[k] = ahead.pop(j)
        row = gram[k, support].astype(np.float64)
        if k:
            factor[k, :k] = scipy.linalg.solve_triangular(factor[:k, :k], row[:k], lower=True, check_finite=False)
        factor[k, k] = np.sqrt(max(row[k] + ridge - factor[k, :k] @ factor[k, :k], 1e-30))
        along = start[support].astype(np.float64)
        x = np.asarray(along / row) if k == 0 else _solve(factor[: k + 1, : k + 1], along)
        while len(x) and x.min() < 0:
            worst = int(x.argmin())
            chosen[support.pop(worst)] = False
            m = len(support)
            gram[worst:m] = gram[worst + 1 : m + 1].copy()
            along = start[support].astype(np.float64)
            if worst < m:
                inside = gram[:m][:, support].astype(np.float64)
                try:
                    factor[:m, :m] = np.linalg.cholesky(inside + ridge * np.eye(m))
                except np.linalg.LinAlgError:
                    raise Unsuitable("rows repeat each other in a pursuit: it needs a larger ridge") from None
            x = _solve(factor[:m, :m], along) if m else np.zeros(0)
            if worst == m:  # the newest atom: the released code ends the pursuit here
                return Pursuit(support, x, _relative(square - float(x @ along + ridge * (x @ x)), square))
        fit = start - x.astype(atoms.dtype) @ gram[: len(support)]
        # (G + λI)x = A_S b, so ‖b − xA_S‖² = ‖b‖² − xᵀA_S b − λ‖x‖²; the first atom is taken without λ
        left = max(square - float(x @ along) - (ridge * float(x @ x) if len(x) > 1 else 0.0), 0.0)
    return Pursuit(support, x, _relative(left, square))


def _products_ahead(
    atoms: Rows, fit: Rows, chosen: NDArray[np.bool_], j: int, known: list[int], left: int
) -> dict[int, Rows]:
    """{atom: its product with every atom} of atom j and of those that fit next best. Most of the next picks are
    among them, and one GEMM reads the atoms once where each pick would read them again."""
    promise = np.where(chosen, -np.inf, fit)
    promise[known] = -np.inf
    promise[j] = np.inf
    count = min(AHEAD, left, int((promise > -np.inf).sum()))
    best = np.argpartition(-promise, count - 1)[:count]
    return dict(zip(best.tolist(), np.ascontiguousarray((atoms @ atoms[best].T).T), strict=True))


def _relative(left: float, square: float) -> float:
    return float(np.sqrt(max(left, 0.0) / square)) if square else 0.0


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
    aim, rounds, missing = goal, list[Pursuit](), size
    while missing > 0 and len(left):
        pursuit = omp(atoms[left], aim, missing, ridge, tol)
        if not pursuit.atoms:
            break
        ids = left[pursuit.atoms]
        rounds.append(Pursuit([int(i) for i in ids], pursuit.weights, pursuit.residual))
        if continue_residual:
            aim = aim - pursuit.weights @ atoms[ids]
        left = np.delete(left, pursuit.atoms)
        missing -= len(ids)
    if missing > 0 and len(left):
        fit = atoms[left] @ goal
        best = left[np.lexsort((left, -fit))[:missing]]
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
        for pursuit in pursue(rows[members], center, int(size), ridge, tol, continue_residual):
            chosen += members[pursuit.atoms].tolist()
    return np.array(chosen, np.int64)
