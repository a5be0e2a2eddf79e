"""Scores of runs of blocks: against their definitions over whole rows, and by hand."""

import numpy as np
import pytest
from scipy import stats

from gradsift.scorers import layers
from gradsift.scorers.errors import Unsuitable

GROUPS = [0, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def rows():
    """Parts of 20 pool rows and 5 target rows in 4 blocks of different widths and lengths."""
    rng = np.random.default_rng(1)
    sizes = [(0.2, 3), (3.0, 5), (1.0, 4), (0.5, 6)]
    return [[length * rng.normal(size=(n, width)) for length, width in sizes] for n in (20, 5)]


@pytest.mark.parametrize("kept", [slice(0, 1), slice(1, 3), slice(0, 4)])
def test_scores_are_those_of_the_parts_side_by_side(rows, kept):
    probe = layers.parts(*rows, GROUPS)

    def cosines(blocks):
        pool, target = (np.concatenate(side[blocks], 1) for side in rows)
        pool, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pool, target))
        return pool @ target.T, target

    (some, unit), (whole, _) = cosines(kept), cosines(slice(None))
    np.testing.assert_allclose(probe.cosines(kept), some, atol=1e-12)
    each = [stats.spearmanr(some[:, own].mean(1), whole[:, own].mean(1)).statistic for own in ([0, 1], [2, 3, 4])]
    assert layers.agreement(probe, kept) == pytest.approx(np.mean(each))
    means = [unit[:2].mean(0), unit[2:].mean(0)]
    between = sum(n * np.sum((mean - unit.mean(0)) ** 2) for n, mean in zip([2, 3], means, strict=True))
    within = sum(np.sum((unit[k] - means[g]) ** 2) for k, g in enumerate(GROUPS))
    assert layers.fisher(probe, kept) == pytest.approx(between / within)
    pool = [np.sum(np.concatenate(rows[0][blocks], 1) ** 2, axis=1) for blocks in (kept, slice(None))]
    assert layers.energy(probe, kept) == pytest.approx(np.mean(pool[0] / pool[1]))


def test_by_hand():
    """Block 0 tells the targets apart, block 1 has the length; two pool rows, one unit row of each target and a twin."""
    pool = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 3.0], [2.0, 0.0]])]
    target = [np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])]
    probe = layers.parts(pool, target, [0, 1, 1])
    assert layers.energy(probe, slice(1, 2)) == pytest.approx((9 / 10 + 4 / 5) / 2)
    # target 1: mean (0.3, 0.9), within 2 · 0.1; all: mean (1.6, 1.8) / 3, total 3 − 5.8 / 3
    assert layers.fisher(probe, slice(0, 1)) == pytest.approx((3 - 5.8 / 3 - 0.2) / 0.2)
    np.testing.assert_allclose(probe.cosines(slice(0, 1)), [[1, 0, 0.6], [0, 1, 0.8]])
    assert layers.best(probe, "energy", 0.5) == (slice(1, 2), 0.85)


def test_of_equal_runs_the_upper_is_kept(rows):
    twice = [[side[1]] * 4 for side in rows]
    probe = layers.parts(*twice, GROUPS)
    for choose in layers.SCORES:
        assert layers.best(probe, choose, 0.5)[0] == slice(2, 4)
    assert layers.best(probe, "agreement", 0.51)[0] == slice(1, 4)


def test_nothing_to_compare():
    probe = layers.parts([np.zeros((3, 2))] * 2, [np.ones((2, 2))] * 2, [0, 0])
    assert layers.agreement(probe, slice(0, 1)) == 0  # a pool without gradients
    assert layers.fisher(layers.parts([np.ones((3, 2))], [np.eye(2)], [0, 1]), slice(0, 1)) == np.inf
    with pytest.raises(Unsuitable, match="compares targets"):
        layers.fisher(probe, slice(0, 1))
