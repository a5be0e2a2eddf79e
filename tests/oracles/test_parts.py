"""Ranks, votes and lengths: golden values by hand and independent loops."""

from itertools import pairwise

import numpy as np
import pytest

from gradsift.scorers.aggregate import opinion
from gradsift.scorers.lengths import without_length


def test_ranks_by_hand():
    scores = np.array([[0.3], [0.1], [0.3], [0.9]])
    np.testing.assert_allclose(opinion(scores, "rank")[:, 0], [2 / 4, 0.5 / 4, 2 / 4, 3.5 / 4])


def test_votes_by_hand():
    """The best half has a vote each; equal votes go by rank."""
    scores = np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    found = opinion(scores, "vote", top=0.5)
    np.testing.assert_allclose(found[:, 0], [1 + 0.875e-3, 1 + 0.625e-3, 0.375e-3, 0.125e-3])
    np.testing.assert_allclose(found[:, 1], found[::-1, 0])


def test_ranks_are_counts_of_worse_and_equal_ones():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(50, 3)), 1)
    expected = [[(np.sum(c < v) + np.sum(c == v) / 2) / 50 for v in c] for c in scores.T]
    np.testing.assert_allclose(opinion(scores, "rank").T, expected)


def lines(scores, tokens, form, quantiles):
    """One numpy.polyfit for each quantile."""
    x = np.log1p(tokens)
    edges = [-np.inf, *np.quantile(x, np.arange(1, quantiles) / quantiles), np.inf]
    out = scores.copy()
    for low, high in pairwise(edges):
        part = (x >= low) & (x < high)
        if not part.any():
            continue
        slope, at_zero = np.polyfit(x[part], scores[part], 1) if np.ptp(x[part]) > 0 else (0.0, scores[part].mean())
        line = slope * x[part] + at_zero
        out[part] -= line if form == "full" else line - scores[part].mean()
    return out


@pytest.mark.parametrize("form", ["mild", "full"])
def test_lengths_are_lines_within_quantiles(form):
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 400, 300)
    scores = rng.normal(size=(300, 2)) + np.log(tokens)[:, None] * [0.5, -1.0]
    found = without_length(scores, tokens, form)
    for column in range(2):
        np.testing.assert_allclose(found[:, column], lines(scores[:, column], tokens, form, 10), atol=1e-9)
    np.testing.assert_allclose(without_length(scores[:, 0], tokens, form), found[:, 0])


def test_what_each_form_leaves():
    """Scores that are a line of log length in two groups: `full` leaves nothing, `mild` the groups' means."""
    tokens = np.array([2, 3, 4, 200, 300, 400])
    scores = 3 * np.log1p(tokens)
    np.testing.assert_allclose(without_length(scores, tokens, "full", 2), 0, atol=1e-12)
    left = without_length(scores, tokens, "mild", 2)
    np.testing.assert_allclose(left[:3], scores[:3].mean())
    np.testing.assert_allclose(left[3:], scores[3:].mean())


def test_one_length_for_all_changes_nothing_but_the_mean():
    scores, tokens = np.array([1.0, 2.0, 6.0]), np.full(3, 7)
    np.testing.assert_allclose(without_length(scores, tokens, "mild"), scores)
    np.testing.assert_allclose(without_length(scores, tokens, "full"), scores - 3)
