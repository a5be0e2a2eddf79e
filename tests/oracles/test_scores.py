"""Golden values and identities of the scores and rules beside the four core methods (the papers' formulas by hand)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers import (
    compare,
    difficulty,
    fusion,
    gio,
    lexical,
    preconditioned,
    ranking,
    strata,
    trajectories,
    transport,
)
from gradsift.scorers.budgets import even, largest_remainder
from gradsift.scorers.coverage import facility_location, k_center
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.kmeans import kmeans

IDS = [f"{k:04d}" for k in range(2000)]


# --- several scores ------------------------------------------------------------------------------------------------


def test_reciprocal_ranks_by_hand():
    """Three documents, two rankings, k = 60: a is 1st and 3rd, b 2nd and 1st, c 3rd and 2nd."""
    one, other = np.array([0.9, 0.5, 0.1]), np.array([-7.0, 40.0, 3.0])
    found = fusion.reciprocal_ranks([("one", 1.0, one), ("other", 1.0, other)])
    np.testing.assert_allclose(found, [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62], rtol=1e-15)
    weighed = fusion.reciprocal_ranks([("one", 3.0, one), ("other", 0.5, other)], k=0)
    np.testing.assert_allclose(weighed, [3 / 1 + 0.5 / 3, 3 / 2 + 0.5 / 1, 3 / 3 + 0.5 / 2], rtol=1e-15)


def test_equal_scores_share_their_mean_rank():
    """So that where words say nothing of most rows, their ids do not decide."""
    found = fusion.reciprocal_ranks([("words", 1.0, np.array([0.0, 5.0, 0.0, 0.0, 2.0]))], k=60)
    np.testing.assert_allclose(found, [1 / 64, 1 / 61, 1 / 64, 1 / 64, 1 / 62])
    with pytest.raises(Unsuitable, match="`words` gave a score that is not a number"):
        fusion.reciprocal_ranks([("words", 1.0, np.array([0.0, np.nan]))])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 10))
def test_a_fusion_knows_no_scale(values, doublings):
    one, scale = np.array(values), 2.0**doublings  # a product that is exact makes no ties
    again = fusion.reciprocal_ranks([("a", 1.0, one), ("b", 1.0, -one)])
    assert np.array_equal(again, fusion.reciprocal_ranks([("a", 1.0, scale * one), ("b", 1.0, -one)]))


def test_label_tokens_hold_but_for_the_least_number_of_rows():
    tokens, order = [30, 5, 40, 5, 20], np.array([2, 0, 1, 3, 4])
    assert ranking.within_tokens(order, tokens, 75).tolist() == [2, 0, 1]
    assert ranking.within_tokens(order, tokens, 75, least=2).tolist() == [2, 0, 1]
    assert ranking.within_tokens(order, tokens, 10).tolist() == [2]
    assert ranking.within_tokens(order, tokens, 10, least=4).tolist() == [2, 0, 1, 3]


# --- rules over a score matrix -------------------------------------------------------------------------------------


def test_bids_serves_the_poorest_column():
    matrix = np.array([[5.0, 0.0], [4.0, 0.0], [3.0, 0.1], [0.0, 1.0]])
    chosen = ranking.bids(matrix, IDS[:4], 2).tolist()
    assert chosen == [0, 3]  # the first column's best, then the column it left behind
    assert sorted(ranking.bids(matrix, IDS[:4], 9).tolist()) == [0, 1, 2, 3]


def test_strata_of_adapt_inf():
    scores = np.arange(1000.0)
    assert strata.bounds(scores) == (50, 950)
    chosen = strata.descending(scores, IDS[:1000], 100, seed=0)
    assert len(set(chosen.tolist())) == 100
    assert chosen.min() >= 50
    assert chosen.max() <= 950
    per_bin = np.bincount(np.minimum((chosen - 50) // 18, 49), minlength=50)
    assert (per_bin == 2).all()
    lumpy = np.concatenate([np.zeros(990), np.arange(10) + 1.0])
    assert len(strata.descending(lumpy, IDS[:1000], 50, seed=0, cut=(0, 100))) == 50


def test_ccs_serves_the_smallest_strata_first_and_cuts_the_hard_end_alone():
    """Four strata of 3, 50, 8 and 31 examples: of 42, ⌊42/4⌋ → all 3, ⌊39/3⌋ → all 8, ⌊31/2⌋ = 15 of 31, 16 of 50, as
    `bin_allocate` of the release has it; from the highest down it would be ⌈42/4⌉ = 11, all 8, ⌈23/2⌉ = 12 and 3."""
    scores = np.concatenate([np.repeat([0.5, 1.5, 2.5, 3.5], [2, 50, 8, 30]), [0.0, 4.0]])  # and the ends of the strata
    chosen = strata.ccs(scores, IDS[:92], 42, seed=0, bins=4, hard=0.0)
    assert len(set(chosen.tolist())) == 42
    assert np.histogram(scores[chosen], 4, (0, 4))[0].tolist() == [3, 16, 8, 15]
    hard = np.arange(1000.0)
    kept = strata.ccs(hard, IDS[:1000], 50, seed=0, hard=0.3)
    assert np.histogram(hard[kept], 50, (0, 699))[0].tolist() == [1] * 50
    everything = strata.ccs(hard, IDS[:1000], 1000, seed=0, hard=0.3)
    assert sorted(everything.tolist()) == list(range(700))  # 300 hardest are out, the easiest stay


def test_windows_take_ranks():
    scores = np.arange(10.0)
    assert ranking.window(scores, IDS[:10], 0.0, 0.2, 2).tolist() == [1, 0]
    assert ranking.window(scores, IDS[:10], 0.4, 0.6, 2).tolist() == [5, 4]
    assert ranking.window(scores, IDS[:10], 0.5, 0.5, 4).tolist() == [6, 5, 4, 3]
    assert ranking.window(scores, IDS[:10], 0.0, 0.0, 3).tolist() == [2, 1, 0]
    assert ranking.window(scores, IDS[:10], 1.0, 1.0, 3).tolist() == [9, 8, 7]


def test_softmax_draws_by_weight_and_temperature_zero_is_greedy():
    scores = np.array([math.log(3), 0.0, -1e9])
    first = [int(ranking.softmax_sample(scores, IDS[:3], 1, 1.0, seed)[0]) for seed in range(2000)]
    assert np.mean(np.array(first) == 0) == pytest.approx(0.75, abs=0.03)
    assert ranking.softmax_sample(scores, IDS[:3], 2, 0.0, 0).tolist() == [0, 1]


def test_quota_tokens_and_matched_lengths():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert ranking.quota(scores, IDS[:4], ["a", "a", "b", "b"], {"a": 1, "b": 1}).tolist() == [0, 2]
    assert ranking.within_tokens(np.array([2, 0, 1]), [5, 7, 3], 8).tolist() == [2, 0]
    assert ranking.within_tokens(np.array([2, 0, 1]), [5, 7, 3], 1).tolist() == [2]
    tokens = list(range(100))
    like = [3, 50, 50, 97]
    drawn = ranking.random_lengths(tokens, like, seed=1)
    assert len(set(drawn.tolist())) == 4
    assert sorted(tokens[k] for k in drawn) in ([3, 49, 50, 97], [3, 50, 51, 97])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 5))
def test_rules_ignore_the_order_of_rows(values, size, seed):
    scores = np.array(values)
    ids = IDS[: len(scores)]
    size = min(size, len(scores))
    turn = np.random.default_rng(seed).permutation(len(scores))
    matrix = np.stack([scores, -scores], axis=1)
    for rule in (lambda s, m, i: ranking.top_k(s, i, size), lambda s, m, i: ranking.round_robin(m, i, size)):
        straight = [ids[k] for k in rule(scores, matrix, ids)]
        turned_ids = [ids[k] for k in turn]
        turned = [turned_ids[k] for k in rule(scores[turn], matrix[turn], turned_ids)]
        assert straight == turned
        assert len(set(straight)) == size


# --- budgets -------------------------------------------------------------------------------------------------------


def test_tive_budgets():
    """The release's floors, 75, 37 and 37, give one less than is asked for."""
    assert largest_remainder([2, 1, 1], 150, [150] * 3).tolist() == [75, 38, 37]
    assert largest_remainder([2, 1, 1], 149, [150] * 3).tolist() == [75, 37, 37]


def test_tive_value_by_the_centroid_is_that_of_the_full_matrix():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.mean(axis=0), (rows @ rows.T).mean(axis=1))
    same = np.repeat(rows[:1], 5, axis=0)
    np.testing.assert_allclose(same @ same.mean(axis=0), 1)


@given(st.lists(st.tuples(st.floats(0.01, 9), st.integers(0, 30)), min_size=1, max_size=9), st.floats(0, 1))
def test_budgets_are_exact_and_within_capacity(groups, share):
    weights, room = zip(*groups, strict=True)
    total = int(share * sum(room))
    budgets = largest_remainder(weights, total, room)
    assert budgets.sum() == total
    assert (budgets <= np.array(room)).all()
    assert even(total, room).sum() == total
    assert (even(total, room) <= np.array(room)).all()


def test_even_budgets_respread_what_a_small_group_lacks():
    assert even(30, [2, 100, 100]).tolist() == [2, 14, 14]


def test_groups_that_cannot_hold_the_total_are_refused():
    with pytest.raises(Unsuitable, match="groups that hold 3"):
        largest_remainder([1, 1], 4, [1, 2])


# --- difficulty ----------------------------------------------------------------------------------------------------


def test_el2n_and_grand_of_a_last_layer():
    """GraNd of one token at the last layer is ‖p − y‖·‖h‖; uniform logits have EL2N √(1 − 1/V)."""
    import torch

    rng = np.random.default_rng(0)
    h, weight = torch.tensor(rng.normal(size=16)), torch.tensor(rng.normal(size=(7, 16)), requires_grad=True)
    loss = torch.nn.functional.cross_entropy((weight @ h)[None], torch.tensor([3]))
    loss.backward()
    p = torch.softmax(weight @ h, dim=0).detach().numpy()
    error = np.linalg.norm(p - np.eye(7)[3])
    assert float(weight.grad.norm()) == pytest.approx(error * float(h.norm()), rel=1e-12)
    assert np.linalg.norm(np.full(7, 1 / 7) - np.eye(7)[3]) == pytest.approx(math.sqrt(1 - 1 / 7))
    assert error <= math.sqrt(2)


def test_scores_of_one_example():
    assert difficulty.perplexity(np.array([0.0, math.log(7)])).tolist() == pytest.approx([1, 7])
    ifd = difficulty.ifd(np.array([1.0, 3.0, 2.0]), np.array([2.0, 2.0, 2.0]))
    assert ifd.tolist() == [0.5, -1.5, -1.0]  # 1 and more is misaligned: last
    assert difficulty.loss_drop(np.array([2.0]), np.array([1.5])).tolist() == [0.25]
    tokens = np.array([1, 10, 100, 1000])
    assert np.abs(difficulty.residual(3 + 2 * np.log1p(tokens), tokens)).max() < 1e-9


# --- curvature -----------------------------------------------------------------------------------------------------


def test_influence_is_the_derivative_of_the_validation_loss():
    """Ridge regression: −g_iᵀ H⁻¹ g_V equals central differences of L_V in the weight of example i."""
    rng = np.random.default_rng(0)
    x, y, xv, yv = rng.normal(size=(30, 4)), rng.normal(size=30), rng.normal(size=(9, 4)), rng.normal(size=9)

    def fit(weights):
        return np.linalg.solve(x.T @ (weights[:, None] * x) + np.eye(4), x.T @ (weights * y))

    def loss(weights):
        return 0.5 * ((xv @ fit(weights) - yv) ** 2).sum()

    theta, hessian = fit(np.ones(30)), x.T @ x + np.eye(4)
    rows, query = (x @ theta - y)[:, None] * x, xv.T @ (xv @ theta - yv)
    influence = -rows @ preconditioned.whiten(query[None], hessian, 1, ridge=0.0)[0]
    numeric = [(loss(np.ones(30) + s) - loss(np.ones(30) - s)) / 2e-5 for s in 1e-5 * np.eye(30)]
    np.testing.assert_allclose(influence, numeric, rtol=1e-6, atol=1e-9)


def test_gram_whitening():
    rng = np.random.default_rng(1)
    rows, queries = rng.normal(size=(200, 12)), rng.normal(size=(3, 12))
    moments, count = preconditioned.gram([rows[:80], rows[80:]])
    np.testing.assert_allclose(
        preconditioned.whiten(queries, moments.copy(), count, ridge=0.0), queries @ np.linalg.inv(rows.T @ rows / 200)
    )
    far = preconditioned.whiten(queries, moments.copy(), count, ridge=1e9)
    order = lambda q: np.argsort(-(rows @ q[0])).tolist()  # noqa: E731
    assert order(far) == order(queries)  # a large ridge leaves the plain product
    with pytest.raises(Unsuitable, match="singular"):
        preconditioned.whiten(queries, *preconditioned.gram([rows[:3]]), ridge=0.0)


def test_datainf_is_its_sum():
    rng = np.random.default_rng(2)
    rows, queries = rng.normal(size=(40, 6)), rng.normal(size=(2, 6))
    damping = (rows**2).mean() / 10
    by_hand = [
        sum(q - (q @ g) / (damping + g @ g) * g for g in rows) / (40 * damping) for q in queries
    ]  # fmt: skip
    blocks = lambda: [rows[:11], rows[11:]]  # noqa: E731
    turned = preconditioned.datainf(queries, blocks, preconditioned.equal_layers(6, []))
    np.testing.assert_allclose(turned, by_hand, rtol=1e-10)


def test_datainf_by_layer_is_the_sum_of_layers():
    """Kwon et al. 2024, §3: each layer has its own Hessian and λ, the mean of g² over its weights."""
    rng = np.random.default_rng(2)
    rows, queries = rng.normal(size=(40, 6)) * [1, 1, 1, 9, 9, 9], rng.normal(size=(2, 6))
    by_hand = np.zeros((2, 6))
    for dims, weights in ((slice(0, 3), 30), (slice(3, 6), 300)):
        g, q = rows[:, dims], queries[:, dims]
        damping = (g**2).sum(axis=1).mean() / weights / 10
        by_hand[:, dims] = [sum(v - (v @ row) / (damping + row @ row) * row for row in g) / (40 * damping) for v in q]
    turned = preconditioned.datainf(queries, lambda: [rows], preconditioned.equal_layers(6, [30, 300]))
    np.testing.assert_allclose(turned, by_hand, rtol=1e-9)
    rows[:, 3:] = 0  # a layer that no row moves
    with pytest.raises(Unsuitable, match="not all zero"):
        preconditioned.datainf(queries, lambda: [rows], preconditioned.equal_layers(6, [30, 300]))
    queries[:, 3:] = 0
    assert not preconditioned.datainf(queries, lambda: [rows], preconditioned.equal_layers(6, [30, 300]))[:, 3:].any()


def test_gist_has_orthonormal_columns():
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(20, 64))
    basis = preconditioned.gist_basis(queries, 9)
    assert basis.shape == (64, 9)
    np.testing.assert_allclose(basis.T @ basis, np.eye(9), atol=1e-12)
    _, _, right = np.linalg.svd(queries)
    np.testing.assert_allclose(np.abs(np.diag(right[:9] @ basis)), 1, atol=1e-9)
    assert preconditioned.gist_basis(np.ones((5, 8)), 150).shape == (8, 1)


# --- coverage and transport ----------------------------------------------------------------------------------------


def test_facility_location_is_greedy():
    rng = np.random.default_rng(0)
    similarity = rng.random((60, 40))
    chosen = facility_location(similarity, 10).tolist()
    covered, plain = similarity.min(axis=0), []
    for _ in range(10):
        gains = np.maximum(similarity - covered, 0).sum(axis=1)
        gains[plain] = -1
        plain.append(int(gains.argmax()))
        covered = np.maximum(covered, similarity[plain[-1]])
    assert chosen == plain
    assert len(facility_location(similarity, 100)) == 60


def test_k_center_is_farthest_first():
    rows = np.array([[0.0, 0], [0.1, 0], [10, 0], [0, 7]])
    assert k_center(rows, 3).tolist() == [1, 2, 3]
    assert sorted(k_center(np.ones((5, 2)), 5).tolist()) == [0, 1, 2, 3, 4]


def near_by(apart, most=5000):
    """The nearest candidates by [M, N] distances, from a sort of all."""
    places = np.argsort(apart, axis=1, kind="stable")[:, :most]
    return transport.Near(places, np.take_along_axis(apart, places, axis=1), apart.min(axis=0))


def test_tsds_spreads_and_shares():
    near = np.array([[0.1, 0.1, 0.9], [0.9, 0.1, 0.1]])
    uniform = transport.knn_uniform(near_by(near))
    assert uniform.sum() == pytest.approx(1)
    assert uniform[1] >= uniform[0] == pytest.approx(uniform[2])
    rows = np.repeat(np.eye(3), [1, 8, 1], axis=0)  # eight copies of one candidate
    assert transport.density(rows).tolist() == pytest.approx([1, *[8] * 8, 1])
    assert transport.density(rows, neighbours=3).tolist() == pytest.approx([1, *[3] * 8, 1])
    assert transport.density(rows, sigma=0).tolist() == [1] * 10
    target = np.array([[0.6, 0.6, 0.5]])
    apart = np.linalg.norm(target[:, None] - rows[None], axis=2)
    kde = transport.knn_kde(near_by(apart), rows)
    assert kde.sum() == pytest.approx(1)
    plain = transport.knn_uniform(near_by(apart))
    assert kde[1:9].sum() < plain[1:9].sum()  # duplicates share what one would get


def test_a_density_is_its_sum_over_the_nearest_rows(monkeypatch):
    monkeypatch.setattr(transport, "BLOCK", 1000)  # blocks of three rows
    rows = np.random.default_rng(0).normal(size=(301, 4)).astype(np.float32)
    squared = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=2)
    kernel = -np.sort(-np.maximum(0, 1 - squared / 1.2**2), axis=1)
    np.testing.assert_allclose(transport.density(rows, 1.2), kernel.sum(axis=1), rtol=1e-5)
    assert (kernel > 0).sum(axis=1).max() > 20
    np.testing.assert_allclose(transport.density(rows, 1.2, 20), kernel[:, :20].sum(axis=1), rtol=1e-5)


def _planted(size, copies):
    """Candidates of which the first are near-copies of one another and near the one target; distances too."""
    rng = np.random.default_rng(0)
    rows, target = rng.normal(size=(size, 32)), rng.normal(size=(1, 32))
    target /= np.linalg.norm(target)
    rows[:copies] = target + 0.1 * rows[0] + 0.002 * rows[:copies]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return gio.distances(target, rows), rows


def test_near_copies_have_the_mass_of_one():
    """However few of the pool they are. A density over a sample of 1,000 sees none of them, most often, and gives them
    0.97 of the mass."""
    apart, rows = _planted(20_000, 12)
    mass = transport.knn_kde(near_by(apart), rows)
    alone = transport.knn_kde(near_by(apart[:, 11:]), rows[11:])  # one of them in the pool
    assert mass[:12].sum() == pytest.approx(alone[0], rel=0.02)
    assert mass[:12].sum() < 0.02


def test_the_kde_plan_is_that_of_the_release():
    """`tsds.py` of ZifanL/TSDS at 7db6fae, with exact neighbours (20 of 200, α = 0.5, C = 1): 12 near-copies."""
    k, turn = np.arange(200.0), np.arange(12.0)
    rows = 3 * np.stack([np.sin(1.7 * k), np.cos(2.3 * k)], axis=1)
    rows[:12] = np.array([1.0, 2.0]) + 0.01 * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    rows = rows.astype(np.float32)
    target = np.array([[1.1, 1.8], [-1.0, -2.0], [2.0, -1.0]], np.float32)
    mass = transport.knn_kde(transport.nearest(target, rows, 20), rows, 0.75, 20, 0.5, 1.0)
    assert mass[:12].sum() == pytest.approx(0.114320, abs=1e-5)
    assert np.count_nonzero(mass > 1e-9) == 35
    golden = {20: 0.044676, 35: 0.065161, 46: 0.011882, 59: 0.036507, 63: 0.012515, 185: 0.092217, 198: 0.064471}
    assert mass[[*golden]].tolist() == pytest.approx([*golden.values()], abs=1e-5)


@pytest.mark.parametrize("scale", [0.3, 2.0, 9.0])
def test_the_kde_plan_is_the_best_of_its_objective(scale):
    """Against a linear program over all plans and caps: min α/C·Σ γ·d + (1 − α)·M·u, γ_ij ≤ u/ρ_i, Σ_i γ_ij = 1/M."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(1)
    rows, target = rng.normal(size=(40, 2)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    apart = gio.distances(target, rows)
    crowd = transport.density(rows)
    mass = transport.knn_kde(near_by(apart), rows, scale=scale)
    caps = np.hstack([np.eye(120), -np.tile(1 / crowd, 3)[:, None]])
    whole = np.hstack([np.kron(np.eye(3), np.ones(40)), np.zeros((3, 1))])
    price = np.append(0.5 / scale * apart.ravel(), 0.5 * 3)
    best = linprog(price, caps, np.zeros(120), whole, np.full(3, 1 / 3))
    np.testing.assert_allclose(mass, best.x[:120].reshape(3, 40).sum(axis=0), atol=1e-6)


def test_a_target_in_a_crowd_does_not_gather_the_mass_of_others():
    """All neighbours of the first target are copies: it spreads over them; the second's plan is as without it."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((50, 3)), 5 + rng.normal(size=(50, 3))]).astype(np.float32)
    target = np.array([[0.1, 0, 0], [5, 5, 5]], np.float32)
    apart = gio.distances(target, rows)
    mass = transport.knn_kde(near_by(apart, 50), rows, scale=20.0)
    np.testing.assert_allclose(mass[:50], 0.5 / 50, rtol=1e-6)
    assert (mass[50:] > 0).sum() > 10


def test_the_uniform_plan_is_the_best_of_its_objective():
    """Every K by brute force: α/C·mean distance + (1 − α)(1/K − 1/N)."""
    apart = np.random.default_rng(0).random((6, 30)) * 4
    mass = transport.knn_uniform(near_by(apart))
    ranked = np.sort(apart, axis=1)
    costs = [0.1 * ranked[:, :k].mean() + 0.5 * (1 / k - 1 / 30) for k in range(1, 31)]
    assert (mass > 0).sum() >= int(np.argmin(costs)) + 1
    assert mass.max() >= 1 / (6 * (int(np.argmin(costs)) + 1)) - 1e-12


def test_unbalanced_transport_prefers_what_is_near():
    pytest.importorskip("ot")
    mass = transport.unbalanced_mass(np.array([[0.9, 0.1, -0.5], [0.8, 0.2, -0.5]]), reg=0.05)
    assert mass[0] > mass[1] > mass[2]


# --- words, trajectories, comparison -------------------------------------------------------------------------------


def test_bm25_finds_the_words():
    pytest.importorskip("bm25s")
    pool = ["the cat sat on the mat", "integrals and derivatives", "a dog and a cat"]
    scores = lexical.bm25(pool, ["cat mat", "derivatives of functions", "zzz"])
    assert scores[:, 0].argmax() == 0
    assert scores[:, 1].argmax() == 1
    assert (scores[:, 2] == 0).all()
    assert lexical.bm25(pool, ["Cat"])[1, 0] == 0


def test_dsir_prefers_the_targets_words():
    counts = lexical.ngram_counts("a b a", 10_000)
    assert counts.sum() == 5  # three words, two pairs
    pool = ["solve the equation x", "tell me a story", "solve this sum", "write a poem"]
    scores = lexical.dsir(pool, ["solve the sum", "solve x"])
    assert set(np.argsort(-scores)[:2].tolist()) == {0, 2}


def test_s2l_takes_equal_shares_of_trajectories():
    rng = np.random.default_rng(0)
    centres = np.array([[4.0, 1, 0.5], [3, 3, 3]])
    kinds = np.repeat([0, 1], [80, 20])
    losses = centres[kinds] + 0.01 * rng.normal(size=(100, 3))
    chosen = trajectories.s2l(losses, ["one"] * 100, 30, seed=0, clusters=2)
    assert np.bincount(kinds[chosen]).tolist() == [15, 15]
    assert len(trajectories.s2l(losses, ["a", "b"] * 50, 41, seed=0)) == 41


def _released_shares(sizes, n, least):
    """{cluster: how many}, as `faiss_kmeans_selection` of the release has it, clusters of at most `least` aside."""
    shares = {}
    order = sorted((size, part) for part, size in enumerate(sizes) if size > least)
    for k, (size, part) in enumerate(order):
        shares[part] = min(size, n // (len(order) - k))
        n -= shares[part]
    return shares


@pytest.mark.parametrize(("size", "least"), [(37, 2), (37, 0), (60, 5), (118, 5)])
def test_s2l_shares_are_those_of_the_release(size, least):
    losses = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    losses[:60] = 5 + 0.1 * losses[:60]
    clusters = kmeans(losses, 30, 3)
    chosen = trajectories.s2l(losses, ["one"] * 120, size, seed=3, clusters=30, least=least)
    assert len(chosen) == len(set(chosen.tolist())) == size
    got = np.bincount(clusters.labels[chosen], minlength=len(clusters.sizes))
    small = np.flatnonzero(clusters.sizes <= least)
    shares = _released_shares(clusters.sizes.tolist(), size, least)
    assert {part: got[part] for part in shares} == shares
    assert got[small].sum() == size - sum(shares.values())  # only what the others cannot give
    assert (clusters.sizes <= 2).sum() > 2
    assert len(set(clusters.sizes.tolist())) > 5


def test_a_source_not_above_its_quota_is_taken_whole():
    losses = np.random.default_rng(0).normal(size=(106, 3))
    chosen = trajectories.s2l(losses, ["a"] * 6 + ["b"] * 100, 30, seed=0)
    assert (chosen < 6).sum() == 6
    assert len(chosen) == 30


def test_overlap_of_selections():
    assert compare.jaccard("abc", "bcd") == 0.5
    assert compare.overlap_at("abcd", "bxay", 2) == 0.5
    assert compare.expected_jaccard(50, 50, 1000) == pytest.approx(2.5 / 97.5)


def test_bm25_says_nothing_where_logging_is_set_up(caplog):
    import logging

    from gradsift.scorers.lexical import bm25

    with caplog.at_level(logging.INFO):
        logging.getLogger().setLevel(logging.DEBUG)
        bm25(["one two", "three"], ["two"])
    assert not [r for r in caplog.records if r.name.startswith("bm25s")]
