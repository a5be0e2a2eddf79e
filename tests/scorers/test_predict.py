"""Predictions against what they approximate: kernel ridge by its textbook equation, and real leaving-out."""

import tracemalloc
from unittest import mock

import numpy as np
import pytest

from gradsift.scorers import predict
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.word_rows import rarity, word_row


def planted(rows=160, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) + 0.1 * rng.normal(size=rows), x[:, 1] * x[:, 2]], axis=1)
    return x, y


def kernel(a, b, width):
    return np.exp(-((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2) / width)


def test_it_is_kernel_ridge_with_its_posterior_deviation():
    x, y = planted()
    fitted = predict.fit(x[:80], y[:80], 80)
    gram = kernel(x[:80], x[:80], fitted.width)
    asked = kernel(x[80:], x[:80], fitted.width)
    inverse = np.linalg.inv(gram + fitted.ridge * np.eye(80))
    mean, deviation = fitted.predict(x[80:])
    np.testing.assert_allclose(mean, y[:80].mean(axis=0) + asked @ inverse @ (y[:80] - y[:80].mean(axis=0)), atol=1e-3)
    variance = fitted.ridge + 1 - np.einsum("nm,mk,nk->n", asked, inverse, asked)
    np.testing.assert_allclose(deviation, np.sqrt(variance), atol=1e-3)
    pairs = ((x[:80, None].astype(np.float64) - x[None, :80]) ** 2).sum(axis=2)[np.triu_indices(80, 1)]
    assert fitted.width == pytest.approx(np.median(pairs), rel=1e-6)


def test_errors_are_those_of_leaving_a_row_out(monkeypatch):
    x, y = planted(60)
    monkeypatch.setattr(predict, "RIDGES", (0.1,))
    fitted = predict.fit(x, y, 60)
    left_out = []
    for k in range(60):
        rest = np.arange(60) != k
        gram = kernel(x[rest], x[rest], fitted.width) + 0.1 * np.eye(59)
        centred = y[rest] - y.mean(axis=0)
        left_out.append(
            y[k] - y.mean(axis=0) - kernel(x[k : k + 1], x[rest], fitted.width)[0] @ np.linalg.solve(gram, centred)
        )
    left_out = np.array(left_out)
    explained = 1 - (left_out**2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(fitted.explained, explained, atol=2e-3)
    assert (fitted.errors**2).mean(axis=0) == pytest.approx([1, 1])


def test_chances_are_honest_where_the_unseen_are_like_the_landmarks():
    """About as many rows are above a limit as the chances add up to; smoothing makes them rather too many."""
    x, y = planted(2000, seed=1)
    fitted = predict.fit(x[:200], y[:200], 200)
    limit = np.quantile(y[200:], 0.95, axis=0)
    expected = fitted.above(limit, *fitted.predict(x[200:])).sum(axis=0)
    above = (y[200:] > limit).sum(axis=0)
    assert (0.7 * above < expected).all()
    assert (expected < 1.5 * above).all()


def test_more_rows_than_centres_are_predicted_nearly_as_well(monkeypatch):
    x, y = planted(600)
    whole = predict.fit(x[:300], y[:300], 300)
    monkeypatch.setattr(predict, "CENTRES", 100)
    part = predict.fit(x[:300], y[:300], 300)
    errors = [float(((one.predict(x[300:])[0] - y[300:]) ** 2).mean()) for one in (whole, part)]
    assert errors[1] < 2 * errors[0] < 0.1 * y.var()


def test_it_holds_no_more_for_more_rows():
    """Beside what it is given: blocks, and the errors of landmarks."""
    held = []
    for rows in (2_100, 8_400):
        x, y = planted(rows)
        tracemalloc.start()
        with mock.patch.object(predict, "CENTRES", 64):
            predict.fit(x, y, 50)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] < held[0] + 6_300 * 64  # not [n, m] numbers, of 8 bytes each


def test_too_few_landmarks_are_refused():
    x, y = planted(20)
    with pytest.raises(Unsuitable, match="too few"):
        predict.fit(x, y, 7)


def test_counts_of_the_best():
    scores = np.array([3.0, 1.0, 2.0, 5.0])
    assert [predict.kth_best(scores, k) for k in (1, 2, 9)] == [5.0, 3.0, 1.0]
    assert [predict.overlap(9, 1.0), predict.overlap(0, 3.0)] == [0.9, 0.0]
    first = np.linspace(0, 1, 50)
    final = 2 * first + 0.001 * np.sin(np.arange(50))
    assert predict.expected_above(1.0, first, final, np.array([0.2, 0.9, 0.95])) == pytest.approx(2, abs=0.01)


def test_rows_of_words_are_alike_where_rare_words_are():
    texts = ["the cat sat on the mat", "the dog sat on the mat", "SELECT name FROM users", "select id from users"]
    weights = rarity(texts)
    rows = np.stack([word_row(text, weights, 256) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    alike = rows @ rows.T
    assert alike[2, 3] > 0.2
    assert abs(alike[0, 2]) < 0.15 < alike[0, 1]
    assert np.isfinite(word_row("", weights, 64)).all()
