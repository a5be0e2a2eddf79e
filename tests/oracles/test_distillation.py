"""Influence Distillation's weights: by hand, by the conditions of the optimum, and by a search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers import distillation
from gradsift.scorers.errors import Unsuitable


def test_by_hand():
    """p = 3, 1, 0 and λ = 1: with two of them τ = (4 − 3)/2 = ½, weights 2½ and ½."""
    np.testing.assert_allclose(distillation.weights(np.array([1.0, 3.0, 0.0]), 1.0), [0.5, 2.5, 0.0])
    np.testing.assert_allclose(distillation.weights(np.array([1.0, 3.0, 0.0]), 1e-6), [0.0, 3.0, 0.0])
    # a budget of two: τ = 0, λ = (3 + 1)/3
    assert distillation.penalty_of(np.array([1.0, 3.0, 0.0]), 2) == pytest.approx(4 / 3)
    np.testing.assert_allclose(distillation.for_budget(np.array([1.0, 3.0, 0.0]), 2), [0.75, 2.25, 0.0])


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12), st.floats(0.01, 10))
def test_no_other_weights_are_better(values, penalty):
    p = np.array(values)
    w = distillation.weights(p, penalty)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(len(p), rel=1e-6)
    rising = p - penalty * w  # of the objective: at the optimum no weight can move to where it rises more
    assert rising[w > 1e-9].min() >= rising.max() - 1e-6


@pytest.mark.parametrize("size", range(1, 8))
def test_a_budget_gives_weight_to_the_most_influential(size):
    p = np.array([0.3, -0.2, 0.9, 0.1, 0.5, -0.6, 0.0])
    w = distillation.for_budget(p, size)
    assert w.sum() == pytest.approx(7)
    assert np.flatnonzero(w > 1e-12).tolist() == sorted(np.argsort(-p)[:size].tolist())
    if size < 7:  # a little more penalty reaches one more
        more = distillation.weights(p, 1.001 * distillation.penalty_of(p, size))
        assert (more > 0).sum() == size + 1


def test_equal_influences_have_equal_weights():
    np.testing.assert_allclose(distillation.for_budget(np.full(4, 0.7), 2), [2.0, 2.0, 0.0, 0.0])


def test_a_penalty_must_be_positive():
    with pytest.raises(Unsuitable, match="above 0, not -1"):
        distillation.weights(np.ones(2), -1)
