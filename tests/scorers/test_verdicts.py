"""Verdicts: by hand, against scipy, and their false rates on simulated reports."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from verdicts import ONLY_DRAWS, QUIET, false_rates, old_rule, power, report

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.verdicts import MIN_ROWS, Losses, Pair, half_width, holm, judge


def losses(values, drawn="never", diverged=0):
    return Losses(np.asarray(values, float), range(len(values)), drawn, diverged)


def one(arm, other, weights=None, **options):
    arm, other = losses(arm), losses(other)
    n = arm.values.shape[1]
    return judge([Pair(arm, other, np.ones(n) if weights is None else np.asarray(weights, float), **options)])[0]


def constant(by_seed, rows=12):
    """Losses that are the same for all rows."""
    return np.repeat(np.asarray(by_seed, float)[:, None], rows, axis=1)


# --- one comparison --------------------------------------------------------------------------------------------------


def test_a_comparison_by_hand():
    arm = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 2.0]])
    other = np.array([[2.0, 2.0], [2.0, 4.0], [2.5, 2.5]])
    found = one(arm, other)
    assert found.difference == pytest.approx(np.mean([-0.5, -1.0, -0.5]))
    assert (found.wins, found.seeds, found.rows) == (3, 3, 2)
    assert found.noise == pytest.approx(np.std([2.0, 3.0, 2.5], ddof=1))
    assert found.effect == pytest.approx(found.difference / found.noise)
    assert one(arm, other, [3.0, 1.0]).difference == pytest.approx(np.mean([-0.75, -1.0, -0.5]))


def test_where_rows_agree_it_is_the_paired_t_test_and_where_seeds_agree_the_one_of_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 1, 5)
    t = stats.ttest_rel(a, b)
    found = one(constant(a), constant(b)).this_set
    assert found.p == pytest.approx(t.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval()), rel=1e-6)
    rows = rng.normal(0.4, 1, 20)
    t = stats.ttest_1samp(rows, 0)
    found = one(np.repeat(rows[None], 4, axis=0), np.zeros((4, 20))).this_set
    assert found.p == pytest.approx(t.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval()), rel=1e-6)


def test_half_widths_add_in_squares_and_p_is_where_the_interval_touches_0():
    rng = np.random.default_rng(1)
    d = rng.normal(0, 0.3, (4, 1)) + rng.normal(0.3, 1, (1, 15)) + rng.normal(0, 0.5, (4, 15))
    found = one(d, np.zeros((4, 15)))
    seeds, rows = d.mean(axis=1).var(ddof=1) / 4, d.mean(axis=0).var(ddof=1) / 15

    def half(p):
        return np.hypot(stats.t.isf(p / 2, 3) * seeds**0.5, stats.t.isf(p / 2, 14) * rows**0.5)

    assert found.this_set.high - found.difference == pytest.approx(half(0.05))
    assert half(found.this_set.p) == pytest.approx(abs(found.difference), rel=1e-6)


def test_a_variance_that_is_small_by_chance_lends_no_certainty():
    """Three seeds, 48 rows, three times the variance in seeds: at the small p of a correction Satterthwaite's degrees of
    freedom reject five times too often, squared half-widths never too often."""
    rng, n = np.random.default_rng(0), 200_000
    seeds, rows = 3 * rng.chisquare(2, n) / 2, rng.chisquare(47, n) / 47
    d = rng.standard_normal(n) * 2
    df = (seeds + rows) ** 2 / (seeds**2 / 2 + rows**2 / 47)
    satterthwaite = (2 * stats.t.sf(abs(d) / np.sqrt(seeds + rows), df) < 0.0025).mean()
    mover = {
        p: (abs(d) > half_width(p, (seeds, np.full(n, 2.0)), (rows, np.full(n, 47.0)))).mean() for p in (0.0025, 0.05)
    }
    assert satterthwaite > 0.01
    assert mover[0.0025] < 0.0015
    assert 0.02 < mover[0.05] < 0.05


def test_few_heavy_rows_count_as_few():
    """Nine tenths of the weight on one row: the degrees of freedom are those of little more than one."""
    d = np.repeat(np.random.default_rng(2).normal(1, 0.2, (1, 20)), 5, axis=0)
    even, heavy = one(d, 0 * d), one(d, 0 * d, [171.0] + [1.0] * 19)
    assert heavy.this_set.p > 20 * even.this_set.p


def test_the_draw_of_a_set_is_counted_once_for_each_set():
    """A fixed set against one that is drawn anew: the exact test of one value against a sample is its limit."""
    selected, random = [0.0, 0.0, 0.0, 0.0], [1.0, 1.4, 0.8, 1.2]
    pair = Pair(losses(constant(selected), "once"), losses(constant(random), "anew"), np.ones(12))
    found = judge([replace(pair, like_arm=pair.other)])[0]
    spread = np.var(random, ddof=1)
    t = np.mean(random) / (spread / 4 + spread) ** 0.5
    assert found.method.p == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-6)
    assert found.draw_sd == pytest.approx(spread**0.5)
    assert found.this_set.p == pytest.approx(stats.ttest_1samp(random, 0).pvalue, rel=1e-6)
    other = losses(constant([1.1] * 4), "once")
    two = judge([Pair(pair.arm, other, np.ones(12), pair.other, pair.other)])[0]
    assert two.method.p == pytest.approx(2 * stats.t.sf(1.1 / (2 * spread) ** 0.5, 3), rel=1e-6)
    assert two.draw_sd == pytest.approx((2 * spread) ** 0.5)
    again = losses(constant([0.01, -0.01, 0.02, 0.0]), "anew")
    own = judge([Pair(pair.arm, other, np.ones(12), again, again)])[0]
    assert own.method.p < two.method.p / 100, "draws of the method itself may vary far less than random ones"
    unknown = judge([Pair(pair.arm, other, np.ones(12), pair.other)])[0]
    assert unknown.method.p is None
    assert unknown.draw_sd is None
    anew = judge([Pair(replace(pair.arm, drawn="anew"), pair.other, np.ones(12))])[0]
    assert anew.method == anew.this_set, "redrawn on both sides: the seeds hold the draws"


def test_one_seed_has_an_interval_of_rows_and_no_verdict():
    rng = np.random.default_rng(3)
    found = one(rng.normal(1, 0.1, (1, 50)), rng.normal(2, 0.1, (1, 50)))
    assert (found.this_set.p, found.verdict, found.noise) == (None, "one seed", None)
    assert found.this_set.high < 0
    assert one(np.ones((1, 1)), np.ones((1, 1))).this_set.low is None


def test_equal_arms_and_arms_that_always_differ_alike():
    assert one(constant([1, 1, 1]), constant([1, 1, 1])).this_set.p == pytest.approx(1)
    assert one(constant([1, 1, 1]), constant([2, 2, 2])).this_set.p < 1e-15
    assert judge([]) == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(Unsuitable, match="one shape"):
        one(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(Unsuitable, match="not finite"):
        one(np.array([[np.nan]]), np.ones((1, 1)))
    with pytest.raises(Unsuitable, match="no seed"):
        judge([Pair(Losses(np.ones((1, 3)), [0], "never"), Losses(np.ones((1, 3)), [1], "never"), np.ones(3))])


# --- verdicts --------------------------------------------------------------------------------------------------------


def drawn(gap, seeds=5, rows=40, noise=0.01, **arm):
    """A pair of a fixed set and random draws, `gap` apart; draws vary by 0.1."""
    rng = np.random.default_rng(4)
    random = rng.normal(2, 0.1, (seeds, 1)) + rng.normal(0, noise, (seeds, rows))
    mine = np.full((seeds, rows), 2.0 + gap) + rng.normal(0, noise, (seeds, rows))
    other = losses(random, "anew", arm.pop("other_diverged", 0))
    return Pair(losses(mine, "once", **arm), other, np.ones(rows), other)


def test_the_verdict_names_the_strongest_claim_that_holds():
    found = {gap: judge([drawn(gap)])[0] for gap in (-1.0, -0.2, 0.0, 0.2, 1.0)}
    assert {gap: (f.verdict, f.claim) for gap, f in found.items()} == {
        -1.0: ("better", "method"),
        -0.2: ("this set better", "this set"),
        0.0: ("no evidence", ""),
        0.2: ("this set worse", "this set"),
        1.0: ("worse", "method"),
    }


@pytest.mark.parametrize(("rows", "verdict"), [(MIN_ROWS - 1, "too few rows"), (MIN_ROWS, "better")])
def test_no_verdict_on_few_rows(rows, verdict):
    assert judge([drawn(-1.0, rows=rows)])[0].verdict == verdict


def test_an_arm_that_diverged_is_never_better():
    assert judge([drawn(-1.0, diverged=3)])[0].verdict == "diverged"
    assert judge([drawn(1.0, diverged=3)])[0].verdict == "worse"
    assert judge([drawn(1.0, other_diverged=1)])[0].verdict == "diverged"
    assert judge([drawn(-1.0, other_diverged=1)])[0].verdict == "better"
    assert judge([drawn(0.0, diverged=3)])[0].verdict == "no evidence"


def test_all_comparisons_are_corrected_together():
    """The same comparison among others that find nothing: half of the level is for what the report is about."""
    clear, nothing = drawn(-1.0), drawn(0.0)
    alone = judge([clear])[0]
    among = judge([clear, *[nothing] * 9])[0]
    ahead = judge([replace(clear, first=True), *[nothing] * 9])[0]
    assert alone.method.p_adjusted == alone.method.p
    assert among.method.p_adjusted == pytest.approx(10 * alone.method.p)
    assert ahead.method.p_adjusted == pytest.approx(2 * alone.method.p)
    assert (ahead.comparisons, ahead.firsts) == (10, 1)


def test_holm_by_hand():
    def of(p, first=()):
        mask = np.zeros(len(p), bool)
        mask[list(first)] = True
        return holm(np.array(p, float), mask)

    np.testing.assert_allclose(of([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(of([0.5, 0.9]), [1, 1])
    assert len(of([])) == 0
    np.testing.assert_allclose(of([0.01, 0.04, 0.03], [0, 1, 2]), [0.03, 0.06, 0.06], err_msg="one kind: plain Holm")
    # weights 1, ½, ½: 0.02·2/1; then 0.015·1/½ is smaller and comes first with 0.015·2/½
    np.testing.assert_allclose(of([0.02, 0.5, 0.04], [0]), [0.04, 0.5, 0.08])
    np.testing.assert_allclose(of([0.02, 0.5, 0.004], [0]), [0.03, 0.5, 0.016])


# --- whole reports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_reports_without_effect_are_rarely_given_a_verdict(seeds):
    """80 reports; at a rate of 0.05 more than 8 false ones are seen two times in a hundred."""
    case = {"targets": 1, "arms": 7, "rows": 30, "seeds": seeds}
    quiet, noisy = false_rates(80, **case, **QUIET), false_rates(80, **case, **ONLY_DRAWS)
    assert quiet["old"] > 0.15, "the simulation can show it"
    assert noisy["old"] > 0.8
    assert quiet["this_set"] + quiet["method"] <= 0.11
    assert noisy["method"] <= 0.11


def test_a_random_set_passed_off_as_selected_is_not_called_better():
    found = false_rates(300, targets=1, arms=2, rows=30, seeds=5)
    assert found["p_old"] > 0.15
    assert found["p_method"] <= 0.05
    assert found["method"] <= 0.05


def test_real_effects_are_found():
    found = {effect: power(40, targets=1, arms=3, rows=48, seeds=5, effect=effect) for effect in (0.0, 16.0)}
    assert found[0.0]["method"] <= 0.1
    assert found[16.0]["method"] >= 0.9


def test_the_old_rule_is_the_old_rule():
    pairs = report(np.random.default_rng(5), targets=2, arms=4, rows=20, seeds=4, effect=6.0)
    p = [
        stats.ttest_rel(
            np.average(pair.arm.values, axis=1, weights=pair.weights),
            np.average(pair.other.values, axis=1, weights=pair.weights),
        ).pvalue
        for pair in pairs
    ]
    called = old_rule(pairs)
    assert called[3] == (p[3] < 0.05), "an arm that is compared once is not corrected"
    assert called[int(np.argmin(p[:3]))] == (3 * min(p[:3]) < 0.05)
