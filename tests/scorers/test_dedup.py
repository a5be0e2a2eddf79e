"""Near-duplicates, semantic duplicates and leaks: against brute force and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.scorers import contamination, dedup
from gradsift.scorers.kmeans import Clusters
from gradsift.scorers.ngrams import grams, word_hashes, words

WORDS = [f"word{k}" for k in range(5_000)]


def text(rng, size=120):
    return [WORDS[k] for k in rng.integers(0, len(WORDS), size)]


def sign(texts, n=5, permutations=128):
    return dedup.signatures([grams(word_hashes(" ".join(t), signs=True), n) for t in texts], permutations)


def jaccard(a, b, n=5):
    one, other = (set(grams(word_hashes(" ".join(t)), n).tolist()) for t in (a, b))
    return len(one & other) / len(one | other)


def test_words():
    assert words("Don't STOP — Ａ１ 日本 x_1") == ["don", "t", "stop", "a1", "日", "本", "x_1"]
    assert words("3+4?", signs=True) == ["3", "+", "4", "?"]
    assert words("!!!") == ["!!!"]


def test_hashes_are_the_same_on_every_machine():
    """Stored signatures and marks depend on them: a change must raise screen.VERSION."""
    assert word_hashes("one two").tolist() == [13805637400418921178, 7663188869581330663]
    assert grams(word_hashes("one two three"), 2).tolist() == [15121351636117573776, 13002448860479108626]
    assert sign([["one", "two", "three"]], n=2, permutations=4).tolist() == [
        [310314632, 1096298326, 925968974, 2099397965]
    ]


def test_signatures_estimate_the_jaccard_index():
    rng = np.random.default_rng(0)
    base = text(rng)
    near = base[:]
    near[60] = "other"
    far = base[:40] + text(rng, 80)
    signature = sign([base, near, far], permutations=1024)
    for k, other in ((1, near), (2, far)):
        assert (signature[0] == signature[k]).mean() == pytest.approx(jaccard(base, other), abs=0.05)


def test_bands_make_candidates_of_what_is_at_the_threshold():
    for threshold in (0.5, 0.8, 0.95):
        b, r = dedup.bands(threshold, 128)
        assert b * r <= 128
        assert 1 - (1 - threshold**r) ** b >= 0.99
    assert dedup.bands(0.8, 128) == (21, 6)


def test_near_duplicates_equal_brute_force():
    """Planted families of changed texts; a row is dropped only for a kept row, and none at the threshold stays."""
    rng = np.random.default_rng(1)
    texts = []
    for _ in range(40):
        base = text(rng)
        for changes in (0, 1, 2, 4, 12):
            other = base[:]
            for at in rng.integers(0, len(base), changes):
                other[at] = WORDS[int(rng.integers(0, len(WORDS)))]
            texts.append(other)
    signature = sign(texts)
    twins = dedup.near_duplicates(signature, 0.8)
    alike = (signature[:, None] == signature[None]).mean(axis=2)
    kept = np.flatnonzero(twins.twin < 0)
    for i, twin in enumerate(twins.twin):
        before = [k for k in kept if k < i]
        if twin >= 0:
            assert twin in before
            assert twins.similarity[i] == alike[i, twin] == max(alike[i, before])
        else:
            assert max([alike[i, k] for k in before], default=0) < 0.8
    assert 40 <= len(kept) < 150


def test_chains_do_not_cost_more_than_the_threshold():
    """a ~ b ~ c with a and c apart: a drops b, and c stays."""
    rng = np.random.default_rng(2)
    a = text(rng, 60)
    b, c = [*a[4:], *text(rng, 4)], [*a[10:], *text(rng, 10)]
    signature = sign([a, b, c], permutations=512)
    twins = dedup.near_duplicates(signature, 0.75)
    assert twins.twin.tolist() == [-1, 0, -1]


def test_like_any_equals_brute_force():
    rng = np.random.default_rng(3)
    others = [text(rng) for _ in range(20)]
    rows = [text(rng) for _ in range(30)]
    for k in (3, 7, 21):
        rows[k] = [*others[k % 20][:-3], "x", "y", "z"]
    twins = dedup.like_any(sign(rows), sign(others), 0.8)
    assert np.flatnonzero(twins.twin >= 0).tolist() == [3, 7, 21]
    assert twins.twin[[3, 7, 21]].tolist() == [3, 7, 1]
    assert (dedup.like_any(sign(rows), sign([]), 0.8).twin == -1).all()


def test_short_and_empty_texts_are_compared_whole():
    twins = dedup.near_duplicates(sign([["hi"], ["hi"], ["ho"], ["?!"], ["?!"]]), 0.8)
    assert twins.twin.tolist() == [-1, 0, -1, -1, 3]


@pytest.mark.parametrize(("keep", "stays"), [("hard", 2), ("easy", 0)])
def test_semdedup_by_hand(keep, stays):
    """Three rows within 1−ε of each other at growing distance from the centre, one far, one in another cluster."""
    angles = np.array([0.02, 0.10, 0.16, 1.2, 0.02])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    clusters = Clusters(np.array([0, 0, 0, 0, 1]), np.array([[1, 0], [1, 0]], np.float32))
    twins = dedup.semdedup(rows, clusters, 0.05, keep)
    assert twins.twin[stays] == -1
    assert twins.twin[3] == -1
    assert twins.twin[4] == -1
    dropped = {0, 1, 2} - {stays}
    assert all(twins.twin[k] >= 0 and twins.similarity[k] > 0.95 for k in dropped)


@given(st.integers(0, 1000))
def test_semdedup_equals_the_released_triangle(seed):
    """SemDeDup's code: sort, pairwise cosines, upper triangle, column maxima above 1−ε."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = Clusters(np.zeros(30, np.int64), rows.mean(axis=0, keepdims=True))
    center = clusters.centers[0] / np.linalg.norm(clusters.centers[0])
    order = np.argsort((rows @ center).round(6), kind="stable")
    triangle = np.triu(rows[order] @ rows[order].T, k=1)
    expected = set(order[triangle.max(axis=0) > 0.9].tolist())
    twins = dedup.semdedup(rows, clusters, 0.1)
    assert set(np.flatnonzero(twins.twin >= 0).tolist()) == expected


def test_semdedup_blocks_do_not_change_it(monkeypatch):
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(50, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = Clusters(np.zeros(50, np.int64), rows.mean(axis=0, keepdims=True))
    whole = dedup.semdedup(rows, clusters, 0.1)
    monkeypatch.setattr(dedup, "BLOCK", 7)
    parts = dedup.semdedup(rows, clusters, 0.1)
    assert whole.twin.tolist() == parts.twin.tolist()


def leaks(items, texts, n=3, common=10):
    known = contamination.index([word_hashes(t) for t in items], n)
    text_hits = [contamination.hits(known, word_hashes(t)) for t in texts]
    texts_with = np.bincount(np.concatenate([*text_hits, np.zeros(0, np.int64)]), minlength=len(known.keys))
    return contamination.most_covered(known, text_hits, contamination.rare(known, texts_with, common))


def test_coverage_by_hand():
    item, share = leaks(
        ["a b c d e f g h i j", "too short"],
        ["x a b c d y", "b c d then g h i", "nothing of it", "too short", "a b c d e f g h i j k"],
    )
    assert item.tolist() == [0, 0, -1, -1, 0]
    assert share.tolist() == [0.4, 0.6, 0, 0, 1.0]


def test_boilerplate_counts_for_nothing():
    frame = "please answer the question"
    items = [f"{frame} {k} one two three four {k}" for k in ("alpha", "beta")]
    texts = [f"{frame} about {k}" for k in range(12)] + [f"{frame} alpha one two three four alpha"]
    item, share = leaks(items, texts, common=10)
    assert item[:12].tolist() == [-1] * 12
    assert item[12] == 0
    assert share[12] == 1.0
    _, all_counts = leaks(items, texts, common=99)
    assert all(0 < s < 0.5 for s in all_counts[:12])


def test_a_gram_that_many_items_have_is_boilerplate():
    items = [f"the same frame of words {k} {k}x {k}y" for k in range(12)]
    item, _ = leaks(items, ["the same frame of words"], common=10)
    assert item.tolist() == [-1]


def test_no_items_and_no_words():
    item, share = leaks([], ["a b c"])
    assert item.tolist() == [-1]
    assert share.tolist() == [0.0]
