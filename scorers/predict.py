"""Scores predicted from cheap features, with the chance that each is above a limit: kernel ridge with honest errors.

    f(x) = a + φ(x)ᵀ (ΦᵀΦ + λI)⁻¹ Φᵀ (y − a),    φ(x) = L⁻¹ k(C, x),  LLᵀ = k(C, C) + εI,  a = mean y
    s²(x) = σ² · ( λ + k(x, x) − φᵀφ + λ φᵀ(ΦᵀΦ + λI)⁻¹φ )
    P(y > t | x) = mean_i Ψ( (z_i − (t − f(x)) / s(x)) / h ),   z_i = e_i / s_i  of the landmarks

k is the RBF kernel with the median squared distance of landmarks as its width; C are the first rows that were fitted,
at most `CENTRES` (with all of them in C this is kernel ridge itself, Nyström's approximation beyond).
e_i = r_i / (1 − h_ii) are residuals of leaving a row out, in closed form; λ is the one of `RIDGES` under which they are
most likely, and σ makes the landmarks' z_i of mean square one. The chance is their own distribution, smoothed (Ψ the
normal distribution function, h = `SMOOTH`): tails as heavy as they turned out to be. Only landmarks are counted, which
are a random sample: other rows were chosen for high scores.

Everything in float64 and without a random draw. Cost: O(n·m² + m³) to fit, O(m·(D + m)) for each prediction. Beside the
rows that it is given, `fit` holds O(m² + m·D) numbers and the landmarks' errors: fitted rows are read by blocks of `m`.
Legend: n fitted rows, of which the first l are landmarks, D features, O outputs, m centres, N rows asked about.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gradsift.scorers.errors import Unsuitable

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
CENTRES = 1024
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SMOOTH = 0.3
POINTS = 512  # of a curve of errors
FEWEST = 8  # landmarks that errors can be told from


@dataclass(frozen=True)
class Fitted:
    """What was learnt: see `fit`. `errors` are the landmarks' z_i, [l, O]; `explained` the share of their variance that
    is predicted when each is left out, [O]."""

    centres: F64
    width: float
    whiten: F64  # [m, m]: L⁻¹
    weights: F64  # [m, O]
    covariance: F64  # [m, m]: (ΦᵀΦ + λI)⁻¹
    ridge: float
    mean: F64  # [O]: a
    spread: F64  # [O]: σ
    errors: F64
    explained: F64

    def predict(self, rows: F32) -> tuple[F64, F64]:
        """([N, O] predicted scores, [N] their standard deviations before `spread`) of [N, D] rows."""
        phi = _kernel(np.asarray(rows, np.float64), self.centres, self.width) @ self.whiten.T
        known = np.einsum("nm,nm->n", phi, phi)
        left = np.einsum("nm,nm->n", phi @ self.covariance, phi)
        variance = self.ridge * (1 + left) + np.maximum(1 - known, 0)
        return self.mean + phi @ self.weights, np.sqrt(variance)

    def above(self, limit: F64, mean: F64, deviation: F64) -> F64:
        """[N, O] chance that each score is above its output's `limit` [O], of what `predict` gave."""
        asked = (limit - mean) / (deviation[:, None] * self.spread)
        return np.stack([_along(curve, asked[:, output]) for output, curve in enumerate(self._curves)], axis=1)

    @cached_property
    def _curves(self) -> list[tuple[F64, F64]]:
        """[O] curves of the landmarks' errors: once, as they cost their number times POINTS."""
        return [_curve(self.errors[:, output]) for output in range(self.errors.shape[1])]


def fit(rows: F32, scores: F64, landmarks: int) -> Fitted:
    """Learn [n, O] `scores` of [n, D] rows, the first `landmarks` of which are a random sample. Raises Unsuitable for
    fewer than `FEWEST` of these."""
    if landmarks < FEWEST:
        raise Unsuitable(f"{landmarks} landmarks with a row are too few to predict scores from: at least {FEWEST}")
    centres = np.asarray(rows[:CENTRES], np.float64)
    width = _median_distance(centres[:landmarks])
    mean = scores.mean(axis=0)
    left = scores - mean
    gram = _kernel(centres, centres, width)
    whiten = np.linalg.inv(np.linalg.cholesky(gram + 1e-6 * np.eye(len(gram))))

    def parts() -> Iterator[tuple[slice, F64]]:
        """(place, [b, m] φ) of blocks of rows."""
        for start in range(0, len(rows), CENTRES):
            part = slice(start, start + CENTRES)
            yield part, _kernel(np.asarray(rows[part], np.float64), centres, width) @ whiten.T

    product, answers = np.zeros_like(gram), np.zeros((len(gram), left.shape[1]))
    for part, phi in parts():
        product += phi.T @ phi
        answers += phi.T @ left[part]
    values, vectors = np.linalg.eigh(product)
    shrunk = {ridge: 1 / (np.maximum(values, 0) + ridge) for ridge in RIDGES}
    turned_answers = vectors.T @ answers
    squares = {ridge: np.zeros(left.shape[1]) for ridge in RIDGES}  # of errors, by their variance
    logs = dict.fromkeys(RIDGES, 0.0)
    of_drawn: dict[float, tuple[list[F64], list[F64]]] = {ridge: ([], []) for ridge in RIDGES}
    for part, phi in parts():
        turned = phi @ vectors  # features whose Gram matrix is diagonal
        missing = np.maximum(1 - np.einsum("nm,nm->n", phi, phi), 0)
        drawn = max(0, landmarks - part.start)
        for ridge, shrink in shrunk.items():
            leverage = np.minimum(turned**2 @ shrink, 1 - 1e-9)
            errors = (left[part] - turned @ (shrink[:, None] * turned_answers)) / (1 - leverage)[:, None]
            variance = ridge / (1 - leverage) + missing
            squares[ridge] += (errors**2 / variance[:, None]).sum(axis=0)
            logs[ridge] += float(np.log(variance).sum())
            of_drawn[ridge][0].append(errors[:drawn].copy())  # a view would keep the others
            of_drawn[ridge][1].append(variance[:drawn].copy())

    def cost(ridge: float) -> float:
        return float(np.log(np.maximum(squares[ridge] / len(rows), 1e-18)).mean()) + logs[ridge] / len(rows)

    ridge = min(RIDGES, key=cost)
    errors, variance = (np.concatenate(one) for one in of_drawn[ridge])
    of_landmarks = errors / np.sqrt(variance[:, None])
    spread = np.sqrt(np.maximum((of_landmarks**2).mean(axis=0), 1e-18))
    inverse = (vectors * shrunk[ridge]) @ vectors.T
    seen = scores[:landmarks]
    total = np.maximum(((seen - seen.mean(axis=0)) ** 2).sum(axis=0), 1e-18)
    return Fitted(
        centres=centres,
        width=width,
        whiten=whiten,
        weights=inverse @ answers,
        covariance=inverse,
        ridge=ridge,
        mean=mean,
        spread=spread,
        errors=of_landmarks / spread,
        explained=1 - (errors**2).sum(axis=0) / total,
    )


def overlap(found: int, missed: float) -> float:
    """The share of the best that were seen, where `found` were, and `missed` more are expected among the others."""
    return found / (found + missed) if found else 0.0


def kth_best(scores: F64, k: int) -> float:
    """The k-th highest of [N] numbers, or the lowest where there are fewer."""
    k = min(k, len(scores))
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def expected_above(limit: float, known: F64, final: F64, asked: F64) -> float:
    """How many of [M] rows with a first score `asked` would have a final score above `limit`, as far as rows with both
    tell, [n] `known` and `final`: a line from one to the other, and the distribution of what it leaves, smoothed."""
    centred = known - known.mean()
    slope = float(centred @ final) / max(float(centred @ centred), 1e-18)
    left = final - final.mean() - slope * centred
    spread = max(float(np.sqrt((left**2).mean())), 1e-12)
    wanted = (limit - final.mean() - slope * (asked - known.mean())) / spread
    return float(_along(_curve(left / spread), wanted).sum())


def _distances(rows: F64, others: F64) -> F64:
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2 * rows @ others.T
    return np.asarray(np.maximum(squares, 0), np.float64)


def _kernel(rows: F64, others: F64, width: float) -> F64:
    return np.asarray(np.exp(-_distances(rows, others) / width), np.float64)


def _median_distance(rows: F64) -> float:
    squares = _distances(rows, rows)[np.triu_indices(len(rows), 1)]
    apart = squares[squares > 1e-9]
    return float(np.median(apart)) if len(apart) else 1.0


def _curve(errors: F64) -> tuple[F64, F64]:
    """([POINTS] numbers, the share of errors above each, smoothed). Memory: that of 16 times the errors."""
    grid = np.linspace(errors.min() - 4 * SMOOTH, errors.max() + 4 * SMOOTH, POINTS)
    parts = (grid[start : start + 16] for start in range(0, POINTS, 16))
    return grid, np.concatenate([ndtr((errors[None] - part[:, None]) / SMOOTH).mean(axis=1) for part in parts])


def _along(curve: tuple[F64, F64], asked: F64) -> F64:
    """[N] shares of a curve at [N] numbers."""
    return np.asarray(np.interp(asked, *curve, left=1.0, right=0.0), np.float64)
