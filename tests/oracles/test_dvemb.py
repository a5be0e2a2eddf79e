"""DVEmb: the authors' recursion over steps, and training itself on a quadratic loss."""

import numpy as np
import pytest

from gradsift.scorers import dvemb
from gradsift.scorers.errors import Unsuitable


def embedded(intervals, query):
    """[N] by the recursion e = η(a − Ma), M ← M + Σ e gᵀ/N, step by step from the last, with D×D matrices."""
    size, dims = intervals[0][0].shape
    m, total = np.zeros((dims, dims)), np.zeros(size)
    for directions, gradients, rate, steps in reversed(intervals):
        for _ in range(steps):
            e = rate * (directions - directions @ m.T)
            total += e @ query / steps
            m = m + e.T @ gradients / size
    return total


def carried(intervals, query):
    """The same with the product on the side of the target, as the score does it."""
    total, w = 0.0, query[None].astype(np.float64)
    for directions, gradients, rate, steps in reversed(intervals):
        seen, w = dvemb.carry(
            w, dvemb.curvature([(directions[:3], gradients[:3]), (directions[3:], gradients[3:])]), rate, steps
        )
        total = total + rate * directions @ seen[0]
    return total


@pytest.mark.parametrize("adam", [False, True])
def test_the_product_on_the_targets_side_is_the_authors_recursion(adam):
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(size=6)) if adam else np.ones(6)
    intervals = []
    for rate, steps in ((0.1, 4), (0.05, 3), (0.02, 1)):
        gradients = rng.normal(size=(9, 6))
        intervals.append((gradients * scales, gradients, rate, steps))
    query = rng.normal(size=6)
    found = carried(intervals, query)
    np.testing.assert_allclose(found, embedded(intervals, query), rtol=1e-10)
    plain = sum(rate * a @ query for a, _, rate, _ in intervals)
    assert np.abs(found - plain).max() > 0.1 * np.abs(plain).max(), "later steps matter here"


def test_by_hand():
    """One dim, two steps at 0.1 with C = (1 + 4)/2 = 2.5: the last step sees 1, the first 1 − 0.25, on average 0.875."""
    rows = np.array([[1.0], [2.0]])
    seen, left = dvemb.carry(np.array([[1.0]]), dvemb.curvature([(rows, rows)]), 0.1, 2)
    assert seen.item() == pytest.approx(0.875)
    assert left.item() == pytest.approx(0.75**2)


def test_a_step_on_one_example_changes_the_final_loss_as_told():
    """Least squares by gradient descent, residuals of ±1 so that C is the Hessian: one more small step on an example at
    each step of training, trained again, against ⟨e, q⟩."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8, 5))
    hessian, target = x.T @ x / 8, rng.normal(size=5)
    signs = rng.choice([-1.0, 1.0], 8)
    gradients, rate, steps, nudge = signs[:, None] * x, 0.2, 6, 1e-4

    def final(example, when):
        theta = np.ones(5)
        for step in range(steps):
            theta = theta - rate * hessian @ theta - (nudge * rate * gradients[example] if step == when else 0.0)
        return float(target @ theta)

    base = final(0, steps)
    truth = [np.mean([base - final(n, when) for when in range(steps)]) / nudge for n in range(8)]
    seen, _ = dvemb.carry(target[None], dvemb.curvature([(gradients, gradients)]), rate, steps)
    np.testing.assert_allclose(rate * gradients @ seen[0], truth, rtol=1e-6)


def test_steps_that_diverge_are_refused():
    rows = 10 * np.eye(3)
    with pytest.raises(Unsuitable, match="40 steps at a learning rate of 1 diverge"):
        dvemb.carry(np.ones((1, 3)), dvemb.curvature([(rows, rows)]), 1.0, 40)
