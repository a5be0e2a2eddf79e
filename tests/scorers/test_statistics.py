"""Rank correlations: against scipy, and at their ends."""

import numpy as np
import pytest
from scipy import stats

from gradsift.scorers.statistics import lds, spearman


def test_spearman_is_scipys_and_nan_for_a_constant():
    a, b = np.random.default_rng(5).integers(0, 9, (2, 60)).astype(float)  # with ties
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(a, -np.exp(a)) == pytest.approx(-1)
    assert np.isnan(spearman(a, np.ones(60)))
    assert np.isnan(spearman(np.ones(60), b))


def test_lds_of_a_linear_model_is_one():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(50, 3))
    chosen = rng.random((40, 50)) < 0.5
    predicted = chosen @ scores
    np.testing.assert_allclose(lds(predicted, np.exp(predicted)), 1.0)
    np.testing.assert_allclose(lds(predicted, -predicted), -1.0)
    assert abs(lds(predicted, rng.normal(size=(40, 3)))).max() < 0.5
    assert lds(predicted, np.zeros((40, 3))).tolist() == [0, 0, 0]
