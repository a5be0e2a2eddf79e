"""GIP, Greedy Information Projection (arXiv 2603.13790): rows in whose span the target's rows lie.

    max_{|S| ≤ k} ‖P_S Qᵀ‖²_F,     P_S the orthogonal projection onto span{g_i : i ∈ S}

one row at a time, the one that adds most. What a row adds is known in closed form: with r_n what the rows chosen so far
leave of g_n, and c_n = Q r_n,

    gain(n) = ‖c_n‖² / ‖r_n‖²

A chosen row j takes its direction out of all others. With α_n = ⟨g_n, r_j⟩/‖r_j‖, which is column |S| of the Cholesky
factor of the Gram matrix GGᵀ when its pivots are the chosen rows,

    ‖r_n‖² ← ‖r_n‖² − α_n²,     c_n ← c_n − α_n·c_j/‖r_j‖

So the greedy choice is exact, and neither a projection nor a residual row is ever formed. A row's length does not
matter, a query's does. Rows that lie in the span already (of ‖g_n‖² less than 1e-6 is left) add nothing. When nothing
is left to add (the target lies in the span, or D rows are chosen), a new round begins on the rows that are left, with
the whole target as goal again, as TAGCOS does; rows orthogonal to the target come last, in their order.

The paper's text was not at hand: that the pursuit takes the exact gain above and not ‖Q r_n‖² alone, that there is no
ridge, and what it does when the span is full are UNCONFIRMED.

Cost of k picks: O(k·N·(D + V + k)); products with the chosen rows come in batches of likely picks (`tagcos.Ahead`).
Memory: 8·N·V, 8·N, and 4·N·k of the factor where that is at most 512 MiB; else 8·k·D of orthonormal directions, and the
rows are read at each pick. Legend: N rows, V queries, D dims, k picks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers import tagcos
from gradsift.scorers.rows import Array, Rows, rows_of

F64 = NDArray[np.float64]
SPANNED = 1e-6  # of a row's square: less is float error of its products
NOTHING = 1e-10  # of the target's square


@dataclass(frozen=True)
class Covered:
    """[k] positions in the order of their choice, and [k] the share of the target's square that each added in its
    round."""

    order: NDArray[np.int64]
    gains: F64


def gip(rows: Array | Rows, queries: Array, size: int) -> Covered:
    """[N, D] rows and [V, D] queries → at most `size` positions by greedy coverage, ties to the earlier row."""
    atoms, goal = rows_of(rows), np.asarray(queries, np.float64)
    whole = float((goal * goal).sum())
    chosen = np.zeros(len(atoms), bool)
    squares = np.concatenate([(part.astype(np.float64) ** 2).sum(axis=1) for _, part in atoms.blocks()])
    order, gains = list[int](), list[float]()
    size = min(size, len(atoms))
    while len(order) < size:
        before = len(order)
        for j, gain in _round(atoms, goal, whole, squares, chosen, size - before):
            order.append(j)
            gains.append(gain / whole)
        if len(order) == before:
            rest = np.flatnonzero(~chosen)[: size - before].tolist()
            order += rest
            gains += [0.0] * len(rest)
    return Covered(np.array(order, np.int64), np.array(gains))


def _round(
    atoms: Rows, goal: F64, whole: float, squares: F64, chosen: NDArray[np.bool_], most: int
) -> list[tuple[int, float]]:
    """[(position, gain)] of one pursuit of at most `most` rows that are not `chosen`; marks those it takes."""
    along = atoms.products(goal).astype(np.float64)
    left, picks = squares.copy(), list[tuple[int, float]]()
    most = min(most, atoms.shape[1])
    factor = (_Factor if most * len(atoms) * 4 <= tagcos.PRODUCTS_BYTES else _Directions)(atoms, most)
    while len(picks) < most:
        open_ = ~chosen & (left > SPANNED * squares)
        gain = np.where(open_, np.einsum("nv,nv->n", along, along) / np.where(open_, left, 1.0), -np.inf)
        j = int(gain.argmax())
        if not gain[j] > NOTHING * whole:
            break
        chosen[j] = True
        length = float(np.sqrt(left[j]))
        column = factor.column(j, length, gain, chosen)
        left -= column * column
        along -= np.outer(column, along[j] / length)
        picks.append((j, float(gain[j])))
    return picks


class _Factor:
    """Columns of the Cholesky factor, [k, N]."""

    def __init__(self, atoms: Rows, most: int) -> None:
        self.ahead, self.columns, self.count = tagcos.Ahead(atoms), np.empty((most, len(atoms)), np.float32), 0

    def column(self, j: int, length: float, gain: F64, chosen: NDArray[np.bool_]) -> F64:
        """[N] products of every row with the unit direction that row j adds."""
        known = self.columns[: self.count]
        products = self.ahead.of(j, gain, chosen).astype(np.float64)
        column = (products - known[:, j].astype(np.float64) @ known) / length
        self.columns[self.count] = column
        self.count += 1
        return np.asarray(column)


class _Directions:
    """The same from the directions alone, [k, D]: every row is read at each pick."""

    def __init__(self, atoms: Rows, most: int) -> None:
        self.atoms, self.units, self.count = atoms, np.empty((most, atoms.shape[1])), 0

    def column(self, j: int, _length: float, _gain: F64, _chosen: NDArray[np.bool_]) -> F64:
        known = self.units[: self.count]
        left = self.atoms.read(np.array([j]))[0].astype(np.float64)
        for _ in range(2):  # once more: what rounding left of the known directions
            left -= (known @ left) @ known
        unit = left / np.linalg.norm(left)
        self.units[self.count] = unit
        self.count += 1
        return self.atoms.products(unit[None])[:, 0].astype(np.float64)
