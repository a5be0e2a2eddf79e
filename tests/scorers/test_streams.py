"""Rows that are not in memory give what rows in memory give: by blocks of any size, and as FAISS does."""

import tracemalloc

import faiss
import numpy as np
import pytest

from gradsift.scorers import coverage, dedup, gio, ranking, tagcos, transport
from gradsift.scorers.kmeans import kmeans
from gradsift.scorers.rows import Rows, block_rows, rows_of, unit_rows

F32 = np.float32


def normal(size, dims, seed=0, shift=0.0):
    return unit_rows(np.random.default_rng(seed).normal(size=(size, dims)) + shift)


def in_blocks(rows, step):
    """Rows that lie elsewhere, read so many at a time."""
    return Rows(rows.shape, lambda where: rows[where].copy(), step, rows.dtype)


def test_rows_are_read_by_blocks_and_positions():
    array = normal(10, 4)
    rows = in_blocks(array, 3)
    assert [part.stop - part.start for part, _ in rows.blocks()] == [3, 3, 3, 1]
    np.testing.assert_array_equal(rows.array(), array)
    places = np.array([7, 2, 2, 9])
    np.testing.assert_array_equal(rows.part(places).array(), array[places])
    np.testing.assert_array_equal(rows.part(places).part(np.array([3, 0])).array(), array[[9, 7]])
    np.testing.assert_array_equal(rows.each(lambda part: part[:, :2], 2).array(), array[:, :2])
    np.testing.assert_allclose(rows.products(array[:2]), array @ array[:2].T, atol=1e-6)
    assert rows.within(rows.nbytes - 1) is rows
    assert rows.within(rows.nbytes) is not rows


def test_a_block_is_bounded_in_bytes():
    assert block_rows(1024) == block_rows(1) == 4096
    assert block_rows(1 << 20) * 4 * (1 << 20) == 64 << 20
    assert block_rows(1 << 30) == 1


# Sizes about FAISS's own block of 4,096; empty clusters (repeated rows) are split as FAISS splits them.
@pytest.mark.parametrize(("size", "dims", "k", "most"), [
    (200, 8, 10, 0), (12, 3, 12, 0), (5000, 32, 20, 0), (9000, 16, 30, 100), (3000, 8, 600, 0),
])  # fmt: skip
@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_is_that_of_faiss_to_the_bit(size, dims, k, most, spherical):
    rows = np.random.default_rng(1).normal(size=(size, dims)).astype(F32)
    theirs = faiss.Kmeans(
        dims, k, niter=20, seed=4, spherical=spherical, min_points_per_centroid=1, max_points_per_centroid=most or size
    )
    theirs.train(rows)
    labels = np.unique(theirs.index.search(rows, 1)[1][:, 0], return_inverse=True)[1]
    mine = kmeans(in_blocks(rows, block_rows(dims)), k, 4, spherical=spherical, max_points=most)
    np.testing.assert_array_equal(mine.labels, labels)
    for j in range(len(mine.centers)):
        center = rows[labels == j].mean(axis=0, dtype=np.float64)
        center /= np.linalg.norm(center) if spherical else 1.0
        np.testing.assert_allclose(mine.centers[j], center, atol=1e-6)


def test_empty_clusters_are_split_as_faiss_splits_them():
    """Iteration by iteration: half of the first centres have the same row, as many clusters are empty."""
    rows = np.repeat(np.random.default_rng(0).integers(-9, 9, (40, 6)), 2, axis=0).astype(F32)
    for iterations in (1, 2, 3):
        theirs = faiss.Kmeans(6, 50, niter=iterations, seed=4, min_points_per_centroid=1)
        theirs.train(rows)
        assert theirs.iteration_stats[0]["nsplit"] > 5
        labels = np.unique(theirs.index.search(rows, 1)[1][:, 0], return_inverse=True)[1]
        np.testing.assert_array_equal(kmeans(rows, 50, 4, iterations).labels, labels)


@pytest.mark.parametrize("step", [1, 7, 100])
def test_rules_choose_the_same_by_blocks_of_any_size(step):
    rows, target = normal(300, 24, shift=0.1), normal(12, 24, seed=1)
    parts = in_blocks(rows, step)
    whole, found = kmeans(rows, 9, 0), kmeans(parts, 9, 0)
    np.testing.assert_array_equal(whole.labels, found.labels)
    np.testing.assert_allclose(whole.centers, found.centers, atol=1e-6)
    budgets = [5] * 9
    assert tagcos.tagcos(rows, whole, budgets).tolist() == tagcos.tagcos(parts, whole, budgets).tolist()
    assert coverage.k_center(rows, 40).tolist() == coverage.k_center(parts, 40).tolist()
    alike = [coverage.similarities(r, rows[:64]) for r in (rows, parts)]
    assert coverage.facility_location(alike[0], 40).tolist() == coverage.facility_location(alike[1], 40).tolist()
    np.testing.assert_allclose(gio.phi(target, rows), gio.phi(target, parts), atol=1e-9)
    start = gio.uniform_start(24, 0)
    for one, two in (
        (gio.gio_released(rows, target, start, 40, gio.Stop("none")), gio.gio_released(parts, target, start, 40, gio.Stop("none"))),
        (gio.gio_exact(rows, target, start, 40), gio.gio_exact(parts, target, start, 40)),
        (gio.gio_knn(rows, target, 40), gio.gio_knn(parts, target, 40)),
    ):  # fmt: skip
        assert one.picks == two.picks
    for one, two in zip(dedup_of(rows, whole), dedup_of(parts, whole), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def dedup_of(rows, clusters):
    twins = dedup.semdedup(rows, clusters, 0.5)
    assert (twins.twin >= 0).sum() > 3
    return twins.twin, twins.similarity


@pytest.mark.parametrize("step", [4, 7, 100])
@pytest.mark.parametrize("most", [1, 5, 30, 1000])
def test_the_nearest_by_blocks_are_those_of_a_sort(step, most):
    """Ties too: every row stands there three times."""
    rows, target = np.tile(normal(30, 5), (3, 1)), normal(6, 5, seed=1)
    apart = gio.distances(target, rows.astype(np.float64))
    places = np.argsort(apart.round(9), axis=1, kind="stable")[:, :most]
    near = transport.nearest(target, in_blocks(rows, step), most)
    np.testing.assert_allclose(near.apart, np.take_along_axis(apart, places, axis=1), atol=1e-7)
    np.testing.assert_array_equal(near.places % 30, places % 30)
    np.testing.assert_allclose(near.least, apart.min(axis=0), atol=1e-7)


def test_a_pursuit_that_reads_its_atoms_at_each_pick_is_the_same(monkeypatch):
    """A cluster that is not held, without a table of products."""
    rows = normal(400, 24, shift=0.2)
    clusters = kmeans(rows, 2, 0)
    for options in ({}, {"continue_residual": True}, {"ridge": 0.01}):
        held = tagcos.tagcos(rows, clusters, [60, 60], **options).tolist()
        with monkeypatch.context() as patch:
            patch.setattr(tagcos, "ATOMS_BYTES", 0)
            patch.setattr(tagcos, "PRODUCTS_BYTES", 0)
            assert tagcos.tagcos(in_blocks(rows, 50), clusters, [60, 60], **options).tolist() == held


def test_a_long_pursuit_ends_and_another_begins(monkeypatch):
    monkeypatch.setattr(tagcos, "MOST", 10)
    rows = normal(200, 64, shift=0.5)
    rounds = tagcos.pursue(rows, rows.mean(axis=0), 35, ridge=0.01)
    assert [len(one.atoms) for one in rounds][:3] == [10, 10, 10]
    assert len({atom for one in rounds for atom in one.atoms}) == 35


def test_similarities_that_are_not_held_choose_the_same(monkeypatch):
    rows = normal(500, 24, shift=0.1)
    held = coverage.facility_location(coverage.similarities(rows, rows[:100]), 80).tolist()
    for kept in (0, 1 << 20):  # none is kept for long; all are
        monkeypatch.setattr(coverage, "HELD_BYTES", 0)
        monkeypatch.setattr(coverage, "KEPT_BYTES", kept)
        found = coverage.similarities(in_blocks(rows, 64), rows[:100])
        assert found.step == 64
        assert coverage.facility_location(found, 80).tolist() == held


def test_similarities_that_are_held_are_not_copied():
    """They may take 1 GiB: another copy was nowhere counted."""
    rows = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    held = coverage.similarities(rows, rows)
    tracemalloc.start()
    coverage.facility_location(held, 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held.held
    assert peak < held.nbytes / 4


def test_a_cluster_is_compared_by_blocks(monkeypatch):
    rows = np.repeat(normal(60, 8), 3, axis=0)
    rows = unit_rows(rows + 1e-3 * np.random.default_rng(0).normal(size=rows.shape))
    clusters = kmeans(rows, 2, 0)
    whole = dedup_of(rows, clusters)
    monkeypatch.setattr(dedup, "BLOCK", 16)
    monkeypatch.setattr(dedup, "CLUSTER_BYTES", 0)
    for one, two in zip(whole, dedup_of(in_blocks(rows, 10), clusters), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 7, 60, 100])
def test_the_top_are_those_of_a_sort(k):
    """Ties to the smaller id, at the cut too."""
    scores = np.random.default_rng(0).integers(0, 9, 60).astype(float)
    ids = [f"{n:02d}" for n in np.random.default_rng(1).permutation(60)]
    assert ranking.top_k(scores, ids, k).tolist() == ranking.by_score(scores, ids)[:k].tolist()


def test_an_array_is_read_as_it_is():
    array = normal(5, 3).astype(np.float64)
    assert rows_of(array).dtype == np.float64
    assert np.shares_memory(rows_of(array).read(slice(0, 2)), array)
