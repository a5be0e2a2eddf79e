"""GIO: golden values of the released package, and what its estimator implies."""

import numpy as np
import pytest

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.gio import Stop, gio_exact, gio_knn, gio_released, phi, uniform_start
from gradsift.scorers.less import similarity


def plane(seed, size, place=(3, 4)):
    np.random.seed(seed)  # noqa: NPY002
    return np.random.multivariate_normal(place, 0.5 * np.eye(2), size)  # noqa: NPY002


def divergence(target, points, k=5):
    """KL(X, W): where a run that adds nothing to W starts."""
    return gio_exact(points[:0], target, points, 0, k=k).start


def test_divergence_by_hand():
    x = np.array([[0.0], [1.0]])
    assert divergence(x, np.array([[2.0]]), k=1) == pytest.approx(0.3465736, abs=1e-6)
    assert divergence(x, np.array([[2.0], [0.5]]), k=1) == pytest.approx(0.1732868, abs=1e-6)


def test_the_released_run():
    x, pool = plane(1, 30), plane(5, 12)
    np.random.seed(0)  # noqa: NPY002
    start = np.random.uniform(0, 8, (10, 2))  # noqa: NPY002
    run = gio_released(pool, x, start, size=6, steps=5)
    assert run.start == pytest.approx(2.2913355, abs=5e-8)
    assert run.picks == [4, 0, 11, 6, 3, 10]
    expected = [2.03410377, 1.83152310, 1.68179847, 1.54425280, 1.44135310, 1.36564771]
    np.testing.assert_allclose(run.kl, expected, atol=5e-9)


def test_the_gradient_does_not_depend_on_what_is_chosen():
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(20, 5)), rng.normal(size=5)

    def slope(w):
        step = 1e-6 * np.eye(5)
        ends = [[divergence(x, np.vstack([w, v + s * e]), 3) for s in (1, -1)] for e in step]
        return np.array([(a - b) / 2e-6 for a, b in ends])

    def phi_slope(v):
        values = phi(x, np.concatenate([v + 1e-6 * np.eye(5), v - 1e-6 * np.eye(5)]))
        return (values[:5] - values[5:]) / 2e-6

    one, two = slope(rng.normal(size=(7, 5))), slope(rng.normal(size=(7, 5)))
    np.testing.assert_allclose(one, two, atol=1e-7)
    np.testing.assert_allclose(8 * one, phi_slope(v), atol=1e-6)
    np.testing.assert_allclose(phi_slope(v), gradient(x, v), rtol=1e-6)


def gradient(x, v):
    """∇φ(v) by its formula."""
    return x.shape[1] / len(x) * ((v - x) / ((v - x) ** 2).sum(axis=1, keepdims=True)).sum(axis=0)


def test_descent_in_the_span_of_the_target_is_the_plain_one():
    """The released loop moves a point; ours moves the coefficients of a combination of the target's points."""
    rng = np.random.default_rng(4)
    x, pool, start = rng.normal(size=(30, 12)) + 1, rng.normal(size=(80, 12)) * 2, rng.normal(size=(10, 12))
    v = x.mean(axis=0)
    rate = 0.01 * np.linalg.norm(v) / np.linalg.norm(gradient(x, v) / 11)
    alive, picks = np.ones(80, bool), []
    for steps in (150, *[50] * 19):
        v = x.mean(axis=0)
        for _ in range(steps):
            v = v - rate * gradient(x, v) / (11 + len(picks))
        picks.append(int(np.where(alive, ((pool - v) ** 2).sum(axis=1), np.inf).argmin()))
        alive[picks[-1]] = False
    assert gio_released(pool, x, start, 20, Stop("none")).picks == picks


def test_sorting_by_phi_is_never_worse_than_the_loop():
    rng = np.random.default_rng(3)
    x, pool, start = rng.normal(size=(40, 6)), rng.normal(size=(120, 6)) * 1.5, rng.uniform(-3, 3, (10, 6))
    loop = gio_released(pool, x, start, 60, Stop("none"))
    exact = gio_exact(pool, x, start, 60, Stop("none"))
    assert all(mine <= theirs + 1e-9 for mine, theirs in zip(exact.kl, loop.kl, strict=True))
    for size in (1, 5, 30):
        assert exact.kl[size - 1] == pytest.approx(divergence(x, np.vstack([start, pool[exact.picks[:size]]])))


def test_far_points_are_refused_and_near_ones_taken():
    x, far = plane(1, 30), plane(2, 20, (300, 400))
    start = np.random.default_rng(0).uniform(0, 8, (10, 2))
    assert gio_released(far, x, start, 20).picks == []
    mixed = np.vstack([far, plane(7, 20)])
    picks = gio_released(mixed, x, start, 40).picks
    assert picks
    assert min(picks) >= 20


def test_on_unit_rows_it_ranks_as_the_mean_cosine_does():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    x, pool = unit(rng.normal(size=(100, 1024)) + 0.3), unit(rng.normal(size=(1000, 1024)) + 0.1)
    cosine = similarity(pool.astype(np.float32), x.mean(axis=0, keepdims=True).astype(np.float32))[:, 0]
    assert spearmanr(-phi(x, pool), cosine).statistic > 0.999
    start = uniform_start(1024, 0)
    loop = gio_released(pool, x, start, 100, Stop("none"), steps=50)
    top = set(np.argsort(-cosine)[:100].tolist())
    assert len(top & set(loop.picks)) >= 95


def test_the_loop_serves_the_large_mode_and_knn_both():
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(70, 8)) * 0.3 + 2, rng.normal(size=(30, 8)) * 0.3 - 2])
    pool = np.vstack([rng.normal(size=(200, 8)) * 0.3 + 2, rng.normal(size=(200, 8)) * 0.3 - 2])
    start = rng.uniform(-3, 3, (10, 8))
    large = lambda trace: np.mean([j < 200 for j in trace.picks])  # noqa: E731
    assert large(gio_exact(pool, x, start, 60, Stop("none"))) >= 0.9
    assert 0.5 < large(gio_knn(pool, x, 60)) < 0.85


def test_stop_rules_fire():
    rng = np.random.default_rng(1)
    x, pool = rng.normal(size=(30, 3)), rng.normal(size=(80, 3)) * 3
    start = rng.normal(size=(10, 3)) * 2
    whole = gio_exact(pool, x, start, 80, Stop("none"))
    assert (whole.ended, len(whole.picks)) == ("size", 80)
    series = np.array([whole.start, *whole.kl])
    first_rise = int(np.argmax(np.diff(series) > 0))
    assert len(gio_exact(pool, x, start, 80, Stop("increase")).picks) == first_rise
    tolerant = gio_exact(pool, x, start, 80, Stop("sequential", max_increases=3))
    assert tolerant.ended == "sequential"
    assert len(tolerant.picks) == first_rise + 3
    assert len(gio_exact(pool, x, start, 80, Stop("data_size", data_size=0.25)).picks) == 20
    low = gio_exact(pool, x, start, 80, Stop("min_kl", min_kl=float(series[4]) + 1e-9))
    assert len(low.picks) <= 4
    slow = gio_exact(pool, x, start, 80, Stop("min_difference", min_difference=1e9))
    assert slow.picks == []


def test_resets_end():
    x, far = plane(1, 30), plane(2, 5, (30, 40))
    start = np.random.default_rng(0).uniform(0, 8, (10, 2))
    assert gio_released(far, x, start, 5, Stop("increase"), max_resets=2).ended == "increase"


def test_knn_with_one_neighbour_is_facility_location():
    from gradsift.scorers.coverage import facility_location

    rng = np.random.default_rng(0)
    x, pool = rng.normal(size=(40, 4)), rng.normal(size=(100, 4))
    apart = np.linalg.norm(x[:, None] - pool[None], axis=2)
    assert gio_knn(pool, x, 15).picks == facility_location(-np.log(apart + 1e-8).T, 15).tolist()


def test_few_targets_are_refused():
    with pytest.raises(Unsuitable, match="more than 5 target points"):
        divergence(np.zeros((5, 2)), np.ones((1, 2)))
