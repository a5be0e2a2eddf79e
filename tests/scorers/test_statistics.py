"""Statistics of arms: by hand, against scipy, and their coverage on simulated experiments."""

import numpy as np
import pytest
from scipy import stats

from gradsift.scorers.statistics import compare, holm, interval, lds, spearman, t_test, verdict


def test_a_comparison_by_hand():
    arm = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 2.0]])
    base = np.array([[2.0, 2.0], [2.0, 4.0], [2.5, 2.5]])
    comparison = compare(arm, base)
    assert comparison.difference == pytest.approx(np.mean([-0.5, -1.0, -0.5]))
    assert (comparison.wins, comparison.seeds) == (3, 3)
    assert comparison.p == pytest.approx(stats.ttest_rel(arm.mean(axis=1), base.mean(axis=1)).pvalue)
    assert comparison.noise == pytest.approx(np.std([2.0, 3.0, 2.5], ddof=1))
    assert comparison.effect == pytest.approx(comparison.difference / comparison.noise)
    assert comparison.low <= comparison.difference <= comparison.high
    weighted = compare(arm, base, np.array([3.0, 1.0]))
    assert weighted.difference == pytest.approx(np.mean([-0.75, -1.0, -0.5]))


def test_one_seed_has_an_interval_of_items_and_no_verdict():
    rng = np.random.default_rng(0)
    comparison = compare(rng.normal(1, 0.1, (1, 50)), rng.normal(2, 0.1, (1, 50)))
    assert comparison.p is None
    assert comparison.high < 0
    assert verdict(comparison, None) == "one seed"
    assert compare(np.ones((1, 1)), np.ones((1, 1))).low is None


def test_shapes_and_values_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        compare(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        compare(np.array([[np.nan]]), np.ones((1, 1)))


def test_t_test_edges():
    assert t_test(np.array([1.0])) is None
    assert t_test(np.zeros(3)) == 1.0
    assert t_test(np.full(3, 2.0)) == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, None]) == [0.03, 0.06, 0.06, None]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_verdicts():
    rng = np.random.default_rng(1)
    base = rng.normal(2, 0.05, (5, 40))
    better = compare(base - 0.5 + rng.normal(0, 0.01, (5, 40)), base)
    worse = compare(base + 0.5 + rng.normal(0, 0.01, (5, 40)), base)
    same = compare(base + rng.normal(0, 0.05, (5, 40)), base)
    assert verdict(better, better.p) == "better"
    assert verdict(worse, worse.p) == "worse"
    assert verdict(same, 0.9) == "no evidence"
    assert verdict(better, 0.2) == "no evidence", "the correction decides"


def test_intervals_cover_about_as_often_as_they_say():
    """Simulated experiments with known difference: seeds and items both vary. Few seeds make a bootstrap too narrow,
    which the page says; it must not be absurdly so."""
    rng = np.random.default_rng(2)
    hits = 0
    for k in range(120):
        seeds, items = rng.normal(0, 0.1, (10, 1)), rng.normal(0, 0.3, (1, 60))
        differences = -0.2 + seeds + items + rng.normal(0, 0.1, (10, 60))
        low, high = interval(differences, np.ones(60), draws=800, seed=k)
        hits += low <= -0.2 <= high
    assert 0.86 <= hits / 120 <= 1.0


def test_no_difference_is_rarely_called_one():
    rng = np.random.default_rng(3)
    called = 0
    for k in range(200):
        base, arm = rng.normal(0, 1, (4, 30)), rng.normal(0, 1, (4, 30))
        comparison = compare(arm, base, draws=300, seed=k)
        called += verdict(comparison, comparison.p) != "no evidence"
    assert called <= 20


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
