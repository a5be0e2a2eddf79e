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
⟨φ, b⟩, ties to the earlier row. And a pursuit ends at 4,096 atoms, after which the next begins.

Cost of a pursuit of k atoms: O(k·n·d + k²·n + k³): products of the atoms in batches of likely picks, correlations from
those, a growing Cholesky factor. Rebuilding and solving each time costs O(k·n·d + k³·d + k⁴) and reads the atoms at
each pick. Memory: the atoms where they take no more than 512 MiB, else a block of them; n·k products where those take
no more than 512 MiB, else none, and the atoms are read at each pick; and k². Legend: n atoms, d dims, k picks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.kmeans import Clusters
from gradsift.scorers.rows import Array, Rows, rows_of

F64 = NDArray[np.float64]
AHEAD = 48  # products computed at a time
MOST = 4096  # atoms of a pursuit: a factor of 128 MiB
ATOMS_BYTES = 512 << 20  # of a cluster's atoms; larger ones are read by blocks
PRODUCTS_BYTES = 512 << 20  # of the products of chosen atoms with all


@dataclass(frozen=True)
class Pursuit:
    """Chosen atoms in the order of their choice, their weights [k], and ‖residual‖/‖b‖ at the end."""

    atoms: list[int]
    weights: F64
    residual: float


def omp(
    atoms: Array | Rows,
    target: Array,
    size: int,
    ridge: float = 1.0,
    tol: float = 1e-4,
    open_: NDArray[np.bool_] | None = None,
) -> Pursuit:
    """Non-negative ridge matching pursuit of [d] `target` by at most `size` rows of [n, d] `atoms`, of those that are
    `open_`, where that is given.

    Atoms must be finite; products are taken in the dtype of the atoms, the rest in f64. The first atom's weight has no
    ridge, as in the released code. Ends early at ‖residual‖ < tol·‖target‖, when the best atom is already chosen, or
    when no atom points along the residual. Raises Unsuitable where the ridge is too small for atoms that repeat others.
    """
    atoms, goal = rows_of(atoms), np.asarray(target, np.float64)
    square = float(goal @ goal)
    start = _closed(atoms.products(goal[None])[:, 0], open_)  # ⟨a, b⟩ of every atom
    fit, left = start, square
    most = min(size, MOST, len(atoms) if open_ is None else int(open_.sum()))
    support: list[int] = []
    chosen = np.zeros(len(atoms), bool)
    kept = (_Products if most * len(atoms) * atoms.dtype.itemsize <= PRODUCTS_BYTES else _Chosen)(atoms, most)
    factor = np.zeros((most, most))  # lower Cholesky factor of G_SS + λI
    x: F64 = np.zeros(0)
    for _ in range(most):
        if square == 0 or left < tol * tol * square:
            break
        j = int(fit.argmax())
        if chosen[j] or not fit[j] > 0:
            break
        k = len(support)
        support.append(j)
        chosen[j] = True
        row = kept.add(support, fit, chosen).astype(np.float64)
        if k:
            factor[k, :k] = scipy.linalg.solve_triangular(factor[:k, :k], row[:k], lower=True, check_finite=False)
        factor[k, k] = np.sqrt(max(row[k] + ridge - factor[k, :k] @ factor[k, :k], 1e-30))
        along = start[support].astype(np.float64)
        x = np.asarray(along / row) if k == 0 else _solve(factor[: k + 1, : k + 1], along)
        while len(x) and x.min() < 0:
            worst = int(x.argmin())
            chosen[support.pop(worst)] = False
            m = len(support)
            kept.drop(worst, m)
            along = start[support].astype(np.float64)
            if worst < m:
                inside = kept.among(support).astype(np.float64)
                try:
                    factor[:m, :m] = np.linalg.cholesky(inside + ridge * np.eye(m))
                except np.linalg.LinAlgError:
                    raise Unsuitable("rows repeat each other in a pursuit: it needs a larger ridge") from None
            x = _solve(factor[:m, :m], along) if m else np.zeros(0)
            if worst == m:  # the newest atom: the released code ends the pursuit here
                return Pursuit(support, x, _relative(square - float(x @ along + ridge * (x @ x)), square))
        fit = start - kept.along(x.astype(atoms.dtype))
        # (G + λI)x = A_S b, so ‖b − xA_S‖² = ‖b‖² − xᵀA_S b − λ‖x‖²; the first atom is taken without λ
        left = max(square - float(x @ along) - (ridge * float(x @ x) if len(x) > 1 else 0.0), 0.0)
    return Pursuit(support, x, _relative(left, square))


def _closed(values: Array, open_: NDArray[np.bool_] | None) -> Array:
    return values if open_ is None else np.where(open_, values, -np.inf)


class Ahead:
    """Products of an atom with every atom, [n], each asked for once. Those of the atoms that fit next best are computed
    with it: most of the next picks are among them, and one GEMM reads the atoms once where each pick would read them
    again."""

    def __init__(self, atoms: Rows) -> None:
        self.atoms, self.known = atoms, dict[int, Array]()

    def of(self, j: int, fit: Array, chosen: NDArray[np.bool_], most: int = AHEAD) -> Array:
        """Products of atom j. `fit` says what may be next, of those that are not `chosen`; at most `most` at a time."""
        if j not in self.known:
            if len(self.known) > 4 * AHEAD:
                self.known = {}
            promise = np.where(chosen, -np.inf, fit)
            promise[[*self.known]] = -np.inf
            promise[j] = np.inf
            count = min(AHEAD, most, int((promise > -np.inf).sum()))
            best = np.argpartition(-promise, count - 1)[:count]
            products = self.atoms.products(self.atoms.read(best)).T
            self.known |= dict(zip(best.tolist(), np.ascontiguousarray(products), strict=True))
        return self.known.pop(j)


class _Products:
    """The products ⟨a_i, a⟩ of the chosen atoms with every atom: [k, n]."""

    def __init__(self, atoms: Rows, most: int) -> None:
        self.most, self.ahead = most, Ahead(atoms)
        self.gram = np.empty((most, len(atoms)), atoms.dtype)

    def add(self, support: list[int], fit: Array, chosen: NDArray[np.bool_]) -> Array:
        """[k] products of the newest atom of the support with all of it."""
        k = len(support) - 1
        self.gram[k] = self.ahead.of(support[-1], fit, chosen, self.most - k)
        return self.gram[k, support]

    def drop(self, place: int, left: int) -> None:
        """Forget the atom at a place of the support; so many are left."""
        self.gram[place:left] = self.gram[place + 1 : left + 1].copy()

    def among(self, support: list[int]) -> Array:
        """[k, k] products of the support with itself."""
        return self.gram[: len(support)][:, support]

    def along(self, x: Array) -> Array:
        """[n] products of every atom with the sum of the support, weighted by [k] x."""
        return np.asarray(x @ self.gram[: len(x)])


class _Chosen:
    """The same from the chosen atoms alone, [k, d]: every atom is read at each pick."""

    def __init__(self, atoms: Rows, most: int) -> None:
        self.atoms, self.rows = atoms, np.empty((most, atoms.shape[1]), atoms.dtype)

    def add(self, support: list[int], _fit: Array, _chosen: NDArray[np.bool_]) -> Array:
        k = len(support)
        self.rows[k - 1] = self.atoms.read(np.array(support[-1:]))[0]
        return np.asarray(self.rows[:k] @ self.rows[k - 1])

    def drop(self, place: int, left: int) -> None:
        self.rows[place:left] = self.rows[place + 1 : left + 1].copy()

    def among(self, support: list[int]) -> Array:
        rows = self.rows[: len(support)]
        return np.asarray(rows @ rows.T)

    def along(self, x: Array) -> Array:
        return self.atoms.products((x @ self.rows[: len(x)])[None])[:, 0]


def _relative(left: float, square: float) -> float:
    return float(np.sqrt(max(left, 0.0) / square)) if square else 0.0


def _solve(factor: F64, right: F64) -> F64:
    return np.asarray(scipy.linalg.cho_solve((factor, True), right, check_finite=False), np.float64)


def pursue(
    atoms: Array | Rows,
    target: Array,
    size: int,
    ridge: float = 1.0,
    tol: float = 1e-4,
    continue_residual: bool = False,
) -> list[Pursuit]:
    """Rounds of matching pursuit until `size` atoms are chosen, each on the atoms that are left; positions are those in
    `atoms`. The last round is the filling by ⟨φ, b⟩ where a pursuit finds nothing (weights 0)."""
    goal = np.asarray(target, np.float64)
    if not np.isfinite(goal).all():
        raise ValueError("the target of a pursuit must be finite")
    given = rows_of(atoms)
    usable = np.concatenate([np.isfinite(part).all(axis=1) & (part != 0).any(axis=1) for _, part in given.blocks()])
    place = np.flatnonzero(usable)
    source = given if len(place) == len(given) else given.part(place)
    open_ = np.ones(len(source), bool)
    aim, rounds, missing = goal, list[Pursuit](), size
    while missing > 0 and open_.any():
        pursuit = omp(source, aim, missing, ridge, tol, open_)
        if not pursuit.atoms:
            break
        rounds.append(Pursuit([int(i) for i in place[pursuit.atoms]], pursuit.weights, pursuit.residual))
        if continue_residual:
            aim = aim - pursuit.weights @ source.read(np.array(pursuit.atoms))
        open_[pursuit.atoms] = False
        missing -= len(pursuit.atoms)
    if missing > 0 and open_.any():
        left = np.flatnonzero(open_)
        fit = source.products(goal[None])[left, 0]
        best = left[np.lexsort((left, -fit))[:missing]]
        residual = rounds[-1].residual if rounds else 1.0
        rounds.append(Pursuit([int(i) for i in place[best]], np.zeros(len(best)), residual))
    return rounds


def tagcos(
    rows: Array | Rows,
    clusters: Clusters,
    budgets: Sequence[int],
    ridge: float = 1.0,
    tol: float = 1e-4,
    continue_residual: bool = False,
) -> NDArray[np.int64]:
    """[N, D] rows φ → chosen positions, cluster by cluster, each in the order of its pursuit."""
    source = rows_of(rows)
    chosen: list[int] = []
    for members, center, size in zip(clusters.members(), clusters.centers, budgets, strict=True):
        if not size:
            continue
        atoms = source.part(members).within(ATOMS_BYTES)
        for pursuit in pursue(atoms, center, int(size), ridge, tol, continue_residual):
            chosen += members[pursuit.atoms].tolist()
    return np.array(chosen, np.int64)
