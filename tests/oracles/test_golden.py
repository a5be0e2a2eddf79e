"""Golden values of the papers' formulas, worked out by hand or from the authors' released code."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gradsift.pipelines.features.transforms import adam_code, adam_exact
from gradsift.pipelines.methods.rules import best
from gradsift.pipelines.recipe import Training
from gradsift.pipelines.training.loop import learning_rate
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.less import checkpoint_weights, similarity, subtask_means
from gradsift.scorers.ranking import round_robin, top_k


def gamma(function, g, m, v, *more):
    as_tensor = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    return function(as_tensor(g), as_tensor(m), as_tensor(v), *more).item()


def test_less_gamma_of_the_released_code():
    assert gamma(adam_code, 1.0, 0.5, 0.04) == pytest.approx(2.717582, abs=5e-7)
    assert gamma(adam_code, 1e-6, 0.0, 0.0) == pytest.approx(1.0e-3, rel=1e-6)


def test_true_adam_at_the_first_step():
    assert gamma(adam_exact, 1e-6, 0.0, 0.0, 0) == pytest.approx(0.990099, abs=5e-7)


def test_epsilon_outside_the_root_is_another_value():
    m, v = 0.1e-6, 0.001e-12
    assert m / (math.sqrt(v) + 1e-8) == pytest.approx(2.4025, abs=5e-5)
    assert gamma(adam_code, 1e-6, 0.0, 0.0) != pytest.approx(2.4025, rel=0.1)


def test_less_scores_mean_in_the_subtask_then_max():
    t1 = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    v1 = np.array([[1, 0], [1, 0], [0, 1], [0.8, 0.6]], np.float32)
    t2 = np.array([[0, 1], [1, 0], [0.8, 0.6]], np.float32)
    weights = checkpoint_weights([3, 1])
    full = weights[0] * t1 @ v1.T + weights[1] * t2 @ v1[::-1].T
    np.testing.assert_allclose(full, [[0.9, 1, 0, 0.6], [0.2, 0, 1, 0.7], [0.7, 0.6, 0.8, 0.92]], atol=1e-6)
    total = np.zeros((3, 2))
    for weight, train, val in zip(weights, (t1, t2), (v1, v1[::-1]), strict=True):
        means, names = subtask_means(val, ["a", "a", "b", "b"])
        assert names == ["a", "b"]
        total += weight * similarity(train, means)
    np.testing.assert_allclose(best(total), [0.95, 0.85, 0.86], atol=1e-6)


def test_less_checkpoint_rates_of_the_paper():
    """420 steps, 13 of warm-up, mean of the rates after each step of an epoch: within 2.3 % of the README's."""
    training = Training(epochs=4, lr=2e-5, warmup_ratio=0.03)
    ends = (0, 105, 211, 317, 420)
    means = [np.mean([learning_rate(s, 420, training) for s in range(a + 1, b + 1)]) for a, b in pairwise(ends)]
    np.testing.assert_allclose(means, [1.6855e-5, 1.2850e-5, 7.641e-6, 2.506e-6], rtol=1e-3)
    np.testing.assert_allclose(means, [1.6877e-05, 1.2859e-05, 7.7030e-06, 2.5616e-06], rtol=0.023)


def test_round_robin_and_doubly_greedy():
    matrix = np.array([[0.9, 0.8, 0.1, 0.0], [0.2, 0.1, 0.5, 0.4]]).T
    ids = list("abcd")
    assert round_robin(matrix, ids, 2).tolist() == [0, 2]
    assert round_robin(matrix, ids, 3).tolist() == [0, 2, 1]
    assert top_k(matrix.max(1), ids, 2).tolist() == [0, 1]
    assert top_k(matrix.max(1), ids, 3).tolist() == [0, 1, 2]


def test_nan_is_refused_not_ranked_first():
    with pytest.raises(Unsuitable, match="NaN"):
        top_k(np.array([0.1, float("nan")]), ["a", "b"], 1)


def test_ties_go_to_the_smaller_id():
    assert top_k(np.array([0.5, 0.5, 0.5]), ["c", "a", "b"], 2).tolist() == [1, 2]
