"""GIP: golden values by hand, and a greedy choice that projects anew for every candidate."""

import numpy as np
import pytest

from gradsift.scorers import tagcos
from gradsift.scorers.gip import gip


def covered(rows, queries):
    """‖P_S Qᵀ‖² by a projector from the rows' pseudo-inverse."""
    return float((queries @ (np.linalg.pinv(rows) @ rows) @ queries.T).trace())


def greedy(rows, queries, size):
    """At each pick the projection of every candidate set, from nothing."""
    chosen, totals = [], [0.0]
    for _ in range(size):
        values = [-1.0 if n in chosen else covered(rows[[*chosen, n]], queries) for n in range(len(rows))]
        chosen.append(int(np.argmax(values)))
        totals.append(max(values))
    return chosen, np.diff(totals) / (queries**2).sum()


def test_by_hand():
    """Row 1 is along the longer query and comes first; row 0, nearly the same, has only (0, 0.6) left of it, which is
    all of the direction of the other query: then it and row 2 add the same."""
    rows = np.array([[0.8, 0.6], [1.0, 0.0], [0.0, 7.0]])
    found = gip(rows, np.array([[2.0, 0.0], [0.0, 1.0]]), 3)
    assert found.order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(found.gains, [4 / 5, 1 / 5, 1 / 5], atol=1e-12)  # the third in a round of its own


def test_redundant_rows_add_nothing_until_the_next_round():
    eye = np.eye(4)
    rows = np.stack([eye[0], 3 * eye[0], eye[1], eye[3]])
    found = gip(rows, np.array([[1.0, 0.5, 0.0, 0.0]]), 4)
    assert found.order.tolist() == [0, 2, 1, 3]
    np.testing.assert_allclose(found.gains, [0.8, 0.2, 0.8, 0.0], atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("held", [True, False])
def test_picks_and_gains_are_those_of_projecting_anew(seed, held, monkeypatch):
    """Lengths differ a thousandfold; with the factor and with directions alone."""
    if not held:
        monkeypatch.setattr(tagcos, "PRODUCTS_BYTES", 0)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 16)) * np.exp(rng.normal(size=(40, 1)) * 2)
    queries = rng.normal(size=(5, 16)) + rows[:5] / np.linalg.norm(rows[:5], axis=1, keepdims=True)
    picks, gains = greedy(rows, queries, 12)
    found = gip(rows, queries, 12)
    assert found.order.tolist() == picks
    np.testing.assert_allclose(found.gains, gains, atol=1e-6)


def test_more_picks_make_the_order_longer():
    rng = np.random.default_rng(3)
    rows, queries = rng.normal(size=(60, 24)).astype(np.float32), rng.normal(size=(6, 24))
    assert gip(rows, queries, 30).order[:7].tolist() == gip(rows, queries, 7).order.tolist()


def test_all_rows_can_be_had():
    rng = np.random.default_rng(4)
    rows = np.concatenate([rng.normal(size=(9, 4)), np.zeros((2, 4))])
    order = gip(rows, rng.normal(size=(3, 4)), 99).order
    assert sorted(order.tolist()) == list(range(11))
    assert set(order[-2:].tolist()) == {9, 10}, "rows of zeros come last"
