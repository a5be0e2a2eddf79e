"""Q-Tuning: golden values of core-methods §6.9, and the exact form of its thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.qtuning import (
    CAP,
    choose,
    critical_alpha,
    draft_tokens,
    keep_tokens,
    quadrant,
    token_scores,
)

PPL, ENT = np.arange(1.0, 9.0), np.arange(8.0, 0.0, -1.0)


def in_quadrants(ppl, entropy, alpha):
    """([N] in Q2, [N] in Q4) by the paper's linear quantiles."""
    q2 = (ppl > np.quantile(ppl, 1 - alpha)) & (entropy <= np.quantile(entropy, alpha))
    q4 = (ppl <= np.quantile(ppl, alpha)) & (entropy > np.quantile(entropy, 1 - alpha))
    return q2, q4


def bisection(ppl, entropy, ratio, steps=10, tolerance=0.01):
    """α of the paper's bisection on [0, 0.49]: the last iterate."""
    low, high = 0.0, CAP
    for _ in range(steps):
        alpha = (low + high) / 2
        kept = np.logical_or(*in_quadrants(ppl, entropy, alpha)).mean()
        if abs(kept - ratio) <= tolerance:
            break
        low, high = (alpha, high) if kept < ratio else (low, alpha)
    return alpha


@pytest.mark.parametrize(("ratio", "q2", "q4", "alpha"), [(0.25, {7}, {0}, 0.1225), (0.5, {6, 7}, {0, 1}, 0.245)])
def test_eight_examples(ratio, q2, q4, alpha):
    plan = choose(PPL, ENT, ratio)
    assert set(np.flatnonzero(plan.prune)) == q2
    assert set(np.flatnonzero(plan.keep & ~plan.prune)) == q4
    assert bisection(PPL, ENT, ratio) == pytest.approx(alpha)
    critical, is_q2 = critical_alpha(PPL, ENT)
    inside = critical < alpha
    assert (set(np.flatnonzero(inside & is_q2)), set(np.flatnonzero(inside & ~is_q2))) == (q2, q4)


def test_token_scores_and_the_direction():
    ppl = np.array([1.0, 9, 1, 1, 4, 4])
    np.testing.assert_allclose(token_scores(ppl), [5, 5.5, 5.5, 3, 4.5, 4])
    assert np.flatnonzero(keep_tokens(np.log(ppl), 0.5)).tolist() == [3, 4, 5]
    assert np.flatnonzero(keep_tokens(np.log(ppl), 0.5, keep_highest=True)).tolist() == [0, 1, 2]
    assert np.flatnonzero(keep_tokens(np.log(ppl), 0.5, smoothing=0.0)).tolist() == [0, 2, 3]  # by PPL alone
    assert keep_tokens(np.log(ppl), 0.01).sum() == 1
    assert keep_tokens(np.log(ppl), 0.5, both_above_median=True).sum() >= 3


def test_quadrants_have_the_papers_meaning():
    """Confident and wrong is a misconception (Q2); unsure and right is calibration (Q4)."""
    ppl, entropy = np.array([20.0, 21, 1, 2]), np.array([3.1, 0.1, 0, 3])
    assert quadrant(ppl, entropy).tolist() == [1, 2, 3, 4]


finite = st.floats(-50, 50)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=60, unique_by=(lambda p: p[0], lambda p: p[1])),
       st.floats(0.01, 0.48))  # fmt: skip
def test_critical_alpha_is_the_quantile_form(points, alpha):
    ppl, entropy = (np.array(v) for v in zip(*points, strict=True))
    critical, is_q2 = critical_alpha(ppl, entropy)
    if np.abs(critical - alpha).min() < 1e-9 or any(
        np.abs(np.arange(len(ppl)) / (len(ppl) - 1) - q).min() < 1e-9 for q in (alpha, 1 - alpha)
    ):
        return  # at a jump of the quantile function
    q2, q4 = in_quadrants(ppl, entropy, alpha)
    tight = np.diff(np.sort(ppl)).min() < 1e-6 or np.diff(np.sort(entropy)).min() < 1e-6
    if not tight:  # interpolation between nearly equal values rounds
        np.testing.assert_array_equal(critical < alpha, q2 | q4)
        np.testing.assert_array_equal((critical < alpha) & is_q2, q2)


@given(st.integers(1, 80), st.floats(0.01, 1), st.integers(0, 99))
def test_exactly_k_are_kept_and_larger_ratios_only_add(size, ratio, seed):
    rng = np.random.default_rng(seed)
    ppl, entropy = rng.lognormal(size=size), rng.normal(size=size)
    plan, more = choose(ppl, entropy, ratio), choose(ppl, entropy, min(1.0, ratio * 1.5))
    assert plan.keep.sum() == max(1, int(ratio * size))
    assert not (plan.keep & ~plan.added & ~more.keep).any()
    assert (plan.critical[plan.keep & ~plan.added] <= CAP).all()


def test_monotone_transforms_change_no_quadrant():
    rng = np.random.default_rng(0)
    ppl, entropy = rng.lognormal(size=400), rng.normal(size=400)
    one, two = choose(ppl, entropy, 0.2), choose(np.log(ppl), np.exp(entropy), 0.2)
    np.testing.assert_array_equal(one.keep, two.keep)
    np.testing.assert_array_equal(one.prune, two.prune)


def test_one_outlier_squashes_minmax_and_not_ranks():
    rng = np.random.default_rng(0)
    entropy = rng.normal(size=64)
    ppl = np.exp(entropy)
    ppl[5] = 1e9
    by_range, by_rank = choose(ppl, entropy, 0.5), choose(ppl, entropy, 0.5, supplement="rank")
    assert by_range.added.any()
    assert not np.array_equal(by_range.keep, by_rank.keep)


def test_the_drafts_budget_counts_the_batch():
    nll = [np.log([9.0, 1, 1, 9]), np.log([1.0, 1]), np.log([1.0, 2])]
    plan = choose(np.array([8.0, 1, 4]), np.array([0.0, 9, 5]), 0.67)
    masks = draft_tokens(nll, [6, 4, 4], plan, 0.67, 0.75)
    kept = sum(a for a, k in zip([6, 4, 4], plan.keep, strict=True) if k)
    assert sum((~m).sum() for m, k in zip(masks, plan.keep, strict=True) if k) == kept - round(14 * 0.67 * 0.75)


def test_not_finite_is_refused():
    with pytest.raises(Unsuitable, match="finite"):
        choose(np.array([np.nan, 1.0]), np.array([1.0, 2.0]), 0.5)
