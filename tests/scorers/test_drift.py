"""The shift between two samples: known cases, the definition by brute force, and what it is for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers.drift import shift
from gradsift.scorers.errors import Unsuitable

VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(VALUES, VALUES)
def test_gap_and_direction_are_what_they_are_defined_to_be(new, old):
    new, old = np.array(new, np.float64), np.array(old, np.float64)
    found = shift(new, old)
    gaps = [abs(np.mean(new <= x) - np.mean(old <= x)) for x in [*new, *old]]
    assert found.gap == pytest.approx(max(gaps))
    pairs = [(a > b) + 0.5 * (a == b) for a in new for b in old]
    assert found.higher == pytest.approx(np.mean(pairs))
    assert 0 <= found.p <= 1
    other = shift(old, new)
    assert (other.gap, other.higher) == (pytest.approx(found.gap), pytest.approx(1 - found.higher))


@given(VALUES, VALUES)
def test_only_the_order_of_values_counts(new, old):
    new, old = np.array(new, np.float64), np.array(old, np.float64)
    assert shift(np.exp(new), np.exp(old)) == shift(new, old)


def test_of_the_whole_pool_a_share_makes_that_share_of_the_gap():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=900), rng.normal(1, 2, size=100)
    found, whole = shift(new, old), shift(np.concatenate([old, new]), old)
    assert whole.gap == pytest.approx(0.1 * found.gap)


def test_a_gap_of_one_and_of_none():
    apart = shift(np.arange(50.0) + 100, np.arange(50.0))
    assert (apart.gap, apart.higher) == (1.0, 1.0)
    assert apart.p < 1e-9
    same = shift(np.arange(50.0), np.arange(50.0))
    assert (same.gap, same.higher) == (0.0, 0.5)
    assert same.p == pytest.approx(1.0)


@pytest.mark.parametrize("size", [40, 3_000])
def test_p_is_that_of_scipy_at_large_samples(size):
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(size)
    for move in (0.0, 0.3, 0.6):
        new, old = rng.normal(move, 1, size=size), rng.normal(size=2 * size)
        then = ks_2samp(new, old, method="exact")
        found = shift(new, old)
        assert found.gap == pytest.approx(then.statistic)
        assert found.p == pytest.approx(then.pvalue, rel=0.5, abs=1e-4)


def test_with_many_rows_a_small_gap_has_a_small_p_and_stays_small():
    rng = np.random.default_rng(1)
    found = shift(rng.normal(0.05, 1, size=100_000), rng.normal(size=100_000))
    assert found.p < 1e-6
    assert found.gap < 0.05


def test_a_change_of_spread_is_seen_though_neither_side_is_higher():
    rng = np.random.default_rng(2)
    found = shift(rng.normal(0, 3, size=2_000), rng.normal(size=2_000))
    assert found.higher == pytest.approx(0.5, abs=0.03)
    assert found.gap > 0.2


@pytest.mark.parametrize(("new", "old"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf])])
def test_what_has_no_shift_is_refused(new, old):
    with pytest.raises(Unsuitable, match=r"empty|not finite"):
        shift(np.array(new, np.float64), np.array(old, np.float64))
