"""GIO (Everaert & Potts, ICLR 2024, arXiv 2306.11670): add the points that bring a set W nearest to a target X in KL.

The released estimator (`grad-info-opt` 0.1.2, `_kl_divergence_knn`) averages over all of W where a k-NN estimator would
take one neighbour:

    KL(X, W) = mean_{w∈W} φ(w) − (d/n) Σ_i log ρ_k(x_i) + c(m),        φ(w) = (d/n) Σ_i log‖x_i − w‖
    c(m) = mean_{j=1..m} log(k·m / (j·(n−1))),     ρ_k(x) = distance of x to its k-th other target point

So the objective separates: what a point adds does not depend on what is chosen already, ∇_v KL(X, W∪{v}) = ∇φ(v)/(m+1),
and there is **no pressure to cover**: of a target with two modes the larger one is served first. On unit rows φ orders
points as their mean cosine to X does (rank correlation above 0.999 from 1,000 dims on).

| mode | what it does |
|---|---|
| `released` | the released loop: descend along ∇φ from the mean (or a target point, `jump`), take the nearest point |
| `exact` | sort the pool by φ once: what the loop approximates; never a higher KL at equal length |
| `knn` | **departure**: (d/n) Σ_i log ν_k(x_i, W)/ρ_k(x_i), one neighbour for each target point: real coverage |

All are in closed form: φ of the pool is one GEMM, a KL is O(1) after it. Cost O(n·(n + N)·d), then for each pick
O(steps·n² + n·N) of `released` and O(n·N) of `knn`; memory 8·n·N bytes of products or distances and a block, for
`exact` the block alone.

Differences from the release, all in stop rules: `sequential` (its `sequential_increase_tolerance`) counts increases in
a row and stops above `max_increases`, and `max_resets` ends the resets; as released neither can ever fire.
The caller quantises pool and target (k-means, 1,500 centres in the paper) and calls `explode` on the picks.
Legend: N pool points, n target points, m points of W, d dims.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.rows import Array as Points
from gradsift.scorers.rows import Rows, rows_of

F64 = NDArray[np.float64]
EPS, NEAREST, FARTHEST = 1e-8, 1e-10, 1e20  # the release's: added in the log, and bounds of a squared distance
BLOCK = 1 << 22  # distances at a time


@dataclass(frozen=True)
class Stop:
    """When to end. `none`: at the size or the end of the pool; the others as released (see the module)."""

    rule: Literal["none", "increase", "min_difference", "min_kl", "data_size", "sequential"] = "increase"
    min_difference: float = 0.0
    min_kl: float = 0.0
    data_size: float = 1.0  # share of the pool
    max_increases: int = 3


@dataclass(frozen=True)
class Trace:
    """Picks in order (positions in the pool), the KL after each, the KL at the start, and why the run ended."""

    picks: list[int]
    kl: list[float]
    start: float
    ended: str


def distances(a: Points, b: Points) -> F64:
    """[n, d], [m, d] → [n, m] Euclidean distances, clipped as released."""
    x, y = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return np.asarray(np.sqrt(np.clip(squared, NEAREST, FARTHEST)))


def phi(target: Points, points: Points | Rows) -> F64:
    """[N] φ of each point, in blocks. O(n·N·d)."""
    source, dims, x = rows_of(points), target.shape[1], target.astype(np.float64, copy=False)
    step, values = max(1, BLOCK // len(target)), np.zeros(len(source))
    for part, block in source.blocks():
        for s in range(0, len(block), step):
            apart = distances(x, block[s : s + step])
            values[part.start + s : part.start + s + apart.shape[1]] = dims * np.log(apart + EPS).mean(axis=0)
    return values


def _log_mean(squared: F64, dims: int) -> F64:
    """[N, n] squared distances → [N] dims · mean log of the distances, clipped as released."""
    return np.asarray(dims * np.log(np.sqrt(np.clip(squared, NEAREST, FARTHEST)) + EPS).mean(axis=1))


def _products(pool: Points | Rows, x: F64) -> tuple[F64, F64, F64]:
    """([N, n] products of the pool with the target, [N] squared lengths, [N] φ), all but the result in blocks."""
    source, squares = rows_of(pool), (x * x).sum(axis=1)
    products, lengths, values = np.empty((len(source), len(x))), np.empty(len(source)), np.empty(len(source))
    for part, block in source.blocks():
        rows = block.astype(np.float64)
        np.matmul(rows, x.T, out=products[part])
        lengths[part] = (rows**2).sum(axis=1)
        values[part] = _log_mean(lengths[part, None] + squares - 2 * products[part], x.shape[1])
    return products, lengths, values


def _pull(squared: F64) -> F64:
    """[n] squared distances → the weights 1/(r·(r + ε)) of the gradient; 0 for a point at the same place."""
    if squared.min() > NEAREST:
        return np.asarray(1 / (squared + EPS * np.sqrt(squared)))
    near = squared <= NEAREST
    safe = np.where(near, 1.0, squared)
    return np.where(near, 0.0, 1 / (safe + EPS * np.sqrt(safe)))


class _Divergence:
    """KL(X, W) of a W that grows: O(1) for each point."""

    def __init__(self, target: Points, start: Points, k: int) -> None:
        size, dims = target.shape
        if size <= k or k < 1:
            raise Unsuitable(f"GIO with k={k} needs more than {max(k, 1)} target points, not {size}")
        spread = np.sort(distances(target, target), axis=1)[:, k]  # column 0 is the point itself
        self.k, self.others = k, size - 1
        self.constant = -float(dims * np.log(spread + EPS).mean())
        self.sum, self.count = float(phi(target, start).sum()), len(start)
        self.log_factorials = float(np.log(np.arange(1, len(start) + 1)).sum())

    def with_point(self, value: float) -> float:
        """The divergence after one more point, with this φ."""
        m = self.count + 1
        order = np.log(self.k * m / self.others) - (self.log_factorials + np.log(m)) / m
        return float((self.sum + value) / m + self.constant + order)

    def now(self) -> float:
        if not self.count:
            return float("inf")
        order = np.log(self.k * self.count / self.others) - self.log_factorials / self.count
        return float(self.sum / self.count + self.constant + order)

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.log_factorials += float(np.log(self.count))


class _Stopping:
    """Applies a stop rule to the series of divergences."""

    def __init__(self, stop: Stop, first: float, pool: int) -> None:
        self.stop, self.last, self.pool, self.increases, self.taken = stop, first, pool, 0, 0

    def reached(self, new: float) -> bool:
        """Whether the loop ends before the point that would bring this divergence."""
        rule, before = self.stop.rule, self.last
        self.increases = self.increases + 1 if new > before else 0
        return (
            (rule == "increase" and new > before)
            or (rule == "min_difference" and before - new < self.stop.min_difference)
            or (rule == "min_kl" and new < self.stop.min_kl)
            or (rule == "data_size" and self.taken + 1 > self.stop.data_size * self.pool)
            or (rule == "sequential" and self.increases > self.stop.max_increases)
        )

    def accept(self, new: float) -> None:
        self.last, self.taken = new, self.taken + 1


def uniform_start(dims: int, seed: int, size: int = 20) -> F64:
    """[size, d] the release's start when there is no data to add to: uniform points of length one."""
    points = np.random.default_rng(seed).uniform(-1, 1, (size, dims))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def gio_exact(pool: Points | Rows, target: Points, start: Points, size: int, stop: Stop = Stop(), k: int = 5) -> Trace:
    """The pool sorted by φ, cut by the stop rule. Ties to the earlier point."""
    values = phi(target, pool)
    total = _Divergence(target, start, k)
    first, picks, series = total.now(), list[int](), list[float]()
    stopping = _Stopping(stop, first, len(pool))
    for j in np.argsort(values, kind="stable")[:size]:
        new = total.with_point(values[j])
        if stopping.reached(new):
            return Trace(picks, series, first, stop.rule)
        stopping.accept(new)
        total.add(values[j])
        picks.append(int(j))
        series.append(new)
    return Trace(picks, series, first, "size")


def gio_released(
    pool: Points | Rows,
    target: Points,
    start: Points,
    size: int,
    stop: Stop = Stop(),
    k: int = 5,
    v_init: Literal["mean", "jump", "prev_opt"] = "mean",
    steps: int = 50,
    rate: float = 0.01,
    max_resets: int = 0,
    seed: int = 0,
) -> Trace:
    """The released loop: `steps` of gradient descent (three times as many at first and after a reset), then the nearest
    pool point. The first `max_resets` stops do not end it: the whole pool is open again, so points may come twice."""
    x = target.astype(np.float64)
    total, rng = _Divergence(target, start, k), np.random.default_rng(seed)
    first, picks, series = total.now(), list[int](), list[float]()
    stopping, alive, resets, longer = _Stopping(stop, first, len(pool)), np.ones(len(pool), bool), 0, True
    # The point never leaves the span of the target, v = αX: with the products of the target with itself and the pool, a
    # step costs O(n²), whatever the dims.
    gram, count = x @ x.T, len(x)
    pool_x, pool_squares, values = _products(pool, x)
    squares, factor = np.diagonal(gram), x.shape[1] / count

    def begin() -> tuple[F64, F64]:
        """α and Gα of the start of a descent."""
        alpha = np.full(count, 1 / count)
        if v_init == "jump":
            alpha = np.zeros(count)
            alpha[rng.integers(count)] = 1.0
        return alpha, np.asarray(gram @ alpha)

    def slope(alpha: F64, along: F64) -> F64:
        """The gradient of φ at αX, as coefficients of X."""
        weight = _pull(squares - 2 * along + alpha @ along)
        return np.asarray(factor * (weight.sum() * alpha - weight), np.float64)

    alpha, along = begin()
    beta = slope(alpha, along)
    steep = max(float(beta @ gram @ beta), 0.0) ** 0.5 / (total.count + 1)
    scale = max(float(alpha @ along), 0.0) ** 0.5 / steep if steep > 0 else 0.0  # the release divides by zero here
    while len(picks) < size and alive.any():
        step = rate * scale / (total.count + 1)
        for _ in range(3 * steps if longer else steps):
            beta = slope(alpha, along)
            alpha, along = alpha - step * beta, along - step * (gram @ beta)
        longer = False
        j = int(np.where(alive, pool_squares - 2 * (pool_x @ alpha), np.inf).argmin())
        alive[j] = False
        new = total.with_point(values[j])
        if v_init != "prev_opt":
            alpha, along = begin()
        if stopping.reached(new):
            if resets == max_resets:
                return Trace(picks, series, first, stop.rule)
            resets, longer, alive[:], stopping.increases = resets + 1, True, True, 0
            continue
        stopping.accept(new)
        total.add(values[j])
        picks.append(j)
        series.append(new)
    return Trace(picks, series, first, "size")


def gio_knn(pool: Points | Rows, target: Points, size: int, k: int = 1) -> Trace:
    """Greedy descent of (d/n) Σ_i log ν_k(x_i, W)/ρ_k(x_i) + log(m/(n−1)), ν_k the distance to the k-th nearest of W.

    While W has fewer than k points, a missing neighbour counts as twice the largest distance. Stops at `size` only: the
    last term rises with each pick and says nothing about the order. Raises Unsuitable without a neighbour. For k = 1
    this is facility location with the similarity −log distance. O(n·N·d) once and O(n·N) for each pick; memory [n, N].
    """
    if k < 1:
        raise Unsuitable(f"GIO looks at one neighbour or more, not at {k}")
    source, x = rows_of(pool), target.astype(np.float64, copy=False)
    apart = np.empty((len(target), len(source)))  # [n, N] logs of distances
    for part, block in source.blocks():
        apart[:, part] = np.log(distances(x, block) + EPS)
    far = float(apart.max() + np.log(2))
    near = np.full((len(target), k), far)  # the k smallest, ascending
    spread = np.log(np.sort(distances(target, target), axis=1)[:, min(k, len(target) - 1)] + EPS)
    dims = target.shape[1]

    def now(m: int) -> float:
        return float(dims * (near[:, -1] - spread).mean() + np.log(max(m, 1) / max(1, len(target) - 1)))

    alive, picks, series, at_start = np.ones(len(source), bool), list[int](), list[float](), now(0)
    step = max(1, BLOCK // len(target))
    for _ in range(min(size, len(source))):
        second = near[:, -2] if k > 1 else np.full(len(target), -np.inf)
        then = np.concatenate([
            np.minimum(near[:, -1:], np.maximum(apart[:, s : s + step], second[:, None])).sum(axis=0)
            for s in range(0, len(source), step)
        ])  # fmt: skip
        j = int(np.where(alive, then, np.inf).argmin())
        alive[j] = False
        near = np.sort(np.concatenate([near, apart[:, j : j + 1]], axis=1), axis=1)[:, :k]
        picks.append(j)
        series.append(now(len(picks)))
    return Trace(picks, series, at_start, "size")


def explode(
    picks: Sequence[int], members: Sequence[NDArray[np.int64]], rows: Points | Rows, centers: Points, size: int
) -> NDArray[np.int64]:
    """Picked centres → `size` of their rows, pick by pick; the last centre gives its nearest rows. A centre that was
    picked twice (after a reset) counts once."""
    source = rows_of(rows)
    chosen: list[int] = []
    for pick in dict.fromkeys(picks):
        part, left = members[pick], size - len(chosen)
        if len(part) > left:
            blocks = source.part(part).blocks()
            apart = np.concatenate([((block - centers[pick]) ** 2).sum(axis=1) for _, block in blocks])
            part = part[np.lexsort((part, apart))[:left]]
        chosen += part.tolist()
        if len(chosen) >= size:
            break
    return np.array(chosen, np.int64)
