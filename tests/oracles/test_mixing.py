"""Golden values of mixing: scorers.md R2, R7, R17, and budgets by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers import mixing_law
from gradsift.scorers.budgets import bounded, largest_remainder, temperature
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.filling import copies_for_examples, copies_for_tokens, fill_tokens, subset_sum
from gradsift.scorers.prospect import spectral_weights, spectrum

# llama-3.2-3b of the paper's repository; tokens in millions.
LAW = mixing_law.Law(
    beta=np.array([0.051, 0.043, 0.0439]),
    c=np.array([1.156484, 0.750850, 0.982818]),
    gamma=np.array([0.197807, 0.040025, 0.126060]),
    alpha=np.array([0.475964, 0.435039, 0.467028]),
    e=np.array([1.096446, 1.493744, 1.267061]),
)


@pytest.mark.parametrize(
    ("n", "weights", "objective"),
    [
        (5, [0.4118, 0.2683, 0.3199], 6.66053),
        (20, [0.4202, 0.2572, 0.3226], None),
        (200, [0.4233, 0.2512, 0.3255], 6.230204),
    ],
)
def test_data_mixing_golden_weights(n, weights, objective):
    best = mixing_law.best_weights(LAW, n)
    np.testing.assert_allclose(best, weights, atol=6e-5)
    assert best.sum() == pytest.approx(1)
    if objective:
        assert LAW.losses(best, n).sum() == pytest.approx(objective, abs=2e-5)


def test_data_mixing_beats_equal_weights_and_equals_a_grid():
    assert LAW.losses(np.full(3, 1 / 3), 200).sum() == pytest.approx(6.232675, abs=2e-5)
    best = LAW.losses(mixing_law.best_weights(LAW, 200), 200).sum()
    grid = [
        LAW.losses(np.array([a, b, 1 - a - b]), 200).sum()
        for a in np.arange(0.02, 0.98, 0.02)
        for b in np.arange(0.02, 0.98 - a, 0.02)
    ]
    assert best <= min(grid) + 1e-9
    assert best == pytest.approx(min(grid), abs=2e-4)


def test_a_planted_law_is_recovered_from_4k_plus_1_runs():
    designs = np.array(mixing_law.designs(3, 90)) / 50
    assert len(designs) == 13
    assert designs[0].tolist() == [1.8, 1.8, 1.8]
    own, others = designs, designs.sum(axis=1, keepdims=True) - designs
    losses = np.stack([LAW.at(o, t) for o, t in zip(own, others, strict=True)])
    fitted = mixing_law.fit(own, others, losses)
    np.testing.assert_allclose(fitted.beta, LAW.beta, rtol=1e-3)
    np.testing.assert_allclose(mixing_law.best_weights(fitted, 6), mixing_law.best_weights(LAW, 6), atol=1e-3)
    noisy = mixing_law.fit(own, others, losses + np.random.default_rng(0).normal(0, 1e-3, losses.shape))
    far = np.array([0.6, 0.2, 0.2])
    np.testing.assert_allclose(noisy.losses(far, 6), LAW.losses(far, 6), atol=0.02)


def test_a_law_refuses_too_few_runs_and_bad_losses():
    ones = np.ones((4, 2))
    with pytest.raises(ValueError, match="at least five runs"):
        mixing_law.fit(ones, ones, ones)
    with pytest.raises(Unsuitable, match="finite and positive"):
        mixing_law.fit(np.ones((5, 2)), np.ones((5, 2)), np.full((5, 2), np.nan))


def test_prospect_golden_values():
    losses = [1.0, 2.0, 3.0, 4.0]
    tail = spectrum("cvar", 4, 0.5)
    np.testing.assert_allclose(tail, [0, 0, 0.5, 0.5])
    assert spectral_weights(losses, tail, 0.0) @ losses == pytest.approx(3.5)
    np.testing.assert_allclose(spectral_weights(losses, tail, 1e12), 0.25, atol=1e-9)
    np.testing.assert_allclose(spectral_weights(losses, tail, 1e-12), tail, atol=1e-9)
    shuffled = spectral_weights([3.0, 1.0, 4.0, 2.0], tail, 0.0)
    np.testing.assert_allclose(shuffled, [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(spectral_weights([2.0, 2.0, 2.0], spectrum("extremile", 3, 2.0), 0.0), 1 / 3)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8), st.floats(0.01, 10))
def test_prospect_maximises_its_objective(losses, cost):
    """Against random points of the permutahedron."""
    n, loss = len(losses), np.array(losses)
    sigma = spectrum("extremile", n, 2.0)

    def objective(q):
        return q @ loss - cost * n * ((q - 1 / n) ** 2).sum()

    q = spectral_weights(losses, sigma, cost)
    assert q.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        mix = rng.dirichlet(np.ones(3)) @ np.stack([rng.permutation(sigma) for _ in range(3)])
        assert objective(q) >= objective(mix) - 1e-7


@pytest.mark.parametrize("cost", [0.05, 0.5, 3.0])
def test_prospect_is_what_a_solver_finds(cost):
    """The permutahedron as q = Pσ, P doubly stochastic; the release's ½·ν·n·‖q − 1/n‖² with ν twice the shift cost."""
    from scipy.optimize import LinearConstraint, minimize

    losses, sigma, n = np.array([0.3, 2.0, 1.1, 1.4]), spectrum("extremile", 4, 2.0), 4
    rows, columns = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    nu = 2 * cost

    def released(p):
        q = p.reshape(n, n) @ sigma
        return 0.5 * nu * n * ((q - 1 / n) ** 2).sum() - q @ losses

    found = minimize(
        released,
        np.full(n * n, 1 / n),
        bounds=[(0, 1)] * (n * n),
        constraints=LinearConstraint(np.vstack([rows, columns[:-1]]), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    q = spectral_weights(losses.tolist(), sigma, cost)
    np.testing.assert_allclose(q, found.x.reshape(n, n) @ sigma, atol=1e-5)
    assert np.abs(q - 1 / n).max() > 0.01


@pytest.mark.parametrize(("kind", "value"), [("cvar", 0.3), ("extremile", 3.0), ("esrm", 2.0)])
def test_spectra_ascend_and_sum_to_one(kind, value):
    sigma = spectrum(kind, 7, value)
    assert (np.diff(sigma) >= -1e-12).all()
    assert sigma.sum() == pytest.approx(1)


def test_an_unknown_spectrum_is_refused():
    with pytest.raises(Unsuitable, match="no spectrum 'cvar' with parameter 2"):
        spectrum("cvar", 4, 2.0)


def test_temperature():
    np.testing.assert_allclose(temperature([100, 300], 1), [0.25, 0.75])
    np.testing.assert_allclose(temperature([100, 400], 2), [1 / 3, 2 / 3])
    np.testing.assert_allclose(temperature([1, 10_000], 1e9), 0.5, atol=1e-6)


def test_bounded_by_hand():
    assert bounded([2, 1, 1], 150, [0, 0, 0], [999] * 3).tolist() == [75, 38, 37]
    assert bounded([1, 1, 1], 10, [0, 0, 0], [1, 9, 9]).tolist() == [1, 5, 4]
    assert bounded([1, 1, 1], 10, [7, 0, 0], [9, 9, 9]).tolist() == [7, 2, 1]
    assert bounded([0, 1], 5, [2, 0], [9, 9]).tolist() == [2, 3]
    with pytest.raises(Unsuitable, match="cannot be shared out"):
        bounded([1, 1], 10, [0, 0], [4, 5])
    with pytest.raises(Unsuitable, match="at least 3 and has room for 2"):
        bounded([1, 1], 4, [3, 0], [2, 9])


groups = st.integers(1, 6).flatmap(
    lambda g: st.tuples(
        st.lists(st.floats(0.01, 10), min_size=g, max_size=g),
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), min_size=g, max_size=g),
        st.floats(0, 1),
    )
)


@given(groups)
def test_bounded_meets_total_and_bounds(case):
    weights, pairs, at = case
    low, high = [a for a, _ in pairs], [a + b for a, b in pairs]
    total = sum(low) + round(at * (sum(high) - sum(low)))
    budgets = bounded(weights, total, low, high)
    assert budgets.sum() == total
    assert (budgets >= low).all()
    assert (budgets <= high).all()


def test_bounded_at_full_capacity():
    """A factor times a weight may miss the last bound by a rounding."""
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        g = rng.integers(1, 7)
        low = rng.integers(0, 20, g)
        high = low + rng.integers(0, 40, g)
        weights = rng.uniform(0.01, 10, g).tolist()
        assert bounded(weights, int(high.sum()), low.tolist(), high.tolist()).tolist() == high.tolist()


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 500))
def test_bounded_without_bounds_is_hamilton(weights, total):
    room = [10_000] * len(weights)
    budgets, known = bounded(weights, total, [0] * len(room), room), largest_remainder(weights, total, room)
    assert np.abs(budgets - known).max() <= 1  # equal remainders may fall to another group by a rounding
    exact = np.array(weights) / sum(weights) * total
    assert (np.abs(budgets - exact) < 1 + 1e-6).all()


def test_copies_for_examples():
    assert copies_for_examples(3, 7).tolist() == [3, 2, 2]
    assert copies_for_examples(3, 2).tolist() == [1, 1, 0]


def test_tokens_close_the_gap_exactly():
    # The prefix 50 + 30 leaves 20, the next (25) does not fit, 9 + 11 do.
    assert fill_tokens(np.array([50, 30, 25, 9, 11]), 100).tolist() == [0, 1, 3, 4]
    # One too long for all is passed over.
    assert fill_tokens(np.array([500, 10, 10, 10]), 30).tolist() == [1, 2, 3]
    assert fill_tokens(np.array([7, 7]), 6).tolist() == []
    assert copies_for_tokens([10, 5], 40, repeat=3).tolist() == [3, 2]
    assert copies_for_tokens([10, 5], 45, repeat=3).tolist() == [3, 3]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 120))
def test_subset_sum_is_the_best_there_is(lengths, goal):
    chosen = subset_sum(lengths, goal)
    assert len(set(chosen)) == len(chosen)
    sums = {0}
    for length in lengths:
        sums |= {s + length for s in sums}
    assert sum(lengths[k] for k in chosen) == max(s for s in sums if s <= goal)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(0, 900), st.integers(1, 3))
def test_token_budgets_are_never_exceeded(tokens, budget, repeat):
    copies = copies_for_tokens(tokens, budget, repeat)
    spent = int((copies * np.array(tokens)).sum())
    assert spent <= budget
    assert copies.max() <= repeat
    most = min(repeat, budget // max(1, sum(tokens)) + 1)
    left = [t for t, c in zip(tokens, copies, strict=True) if t and c < most]
    assert all(t > budget - spent for t in left), "an example that fits was left out"
