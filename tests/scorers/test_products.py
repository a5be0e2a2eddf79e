"""Integer products of stored rows: as the float ones, and exactly the same for any chunk."""

import numpy as np
import pytest

from gradsift.datastore.rows import quantise
from gradsift.scorers import products
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.less import similarity


def rows_and_queries(size, dims, queries, seed=0):
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(size, dims)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    q, scale = quantise(unit, "int8")
    return q, scale, rng.normal(size=(queries, dims)).astype(np.float32) / dims**0.5


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("queries", [1, 9, 64])
@pytest.mark.parametrize("dims", [64, 1000, 4096])
def test_equal_to_float_products(size, queries, dims):
    q, scale, means = rows_and_queries(size, dims, queries)
    exact = (q.astype(np.float64) * scale[:, None]) @ means.T.astype(np.float64)
    values = similarity(q, means, scale)
    assert values.dtype == np.float32
    assert values.shape == (size, queries)
    left_out = np.abs(means).max() / 64_516  # of each dim, at most
    np.testing.assert_allclose(values, exact, rtol=1e-6, atol=4 * left_out)


def test_chunks_and_read_only_rows_give_the_same_bits(monkeypatch):
    q, scale, means = rows_and_queries(300, 512, 7)
    q.flags.writeable = False
    whole = similarity(q, means, scale)
    monkeypatch.setattr(products, "CHUNK_BYTES", 512 * 40)
    np.testing.assert_array_equal(similarity(q, means, scale), whole)
    np.testing.assert_array_equal(
        np.concatenate([similarity(q[k : k + 1], means, scale[k : k + 1]) for k in range(300)]), whole
    )


def test_a_query_of_zeros():
    q, scale, means = rows_and_queries(10, 64, 2)
    means[1] = 0
    assert not similarity(q, means, scale)[:, 1].any()


def test_the_largest_sums_do_not_overflow():
    dims = products.MAX_DIMS
    q = np.full((1, dims), 127, np.int8)
    largest = similarity(q, np.ones((1, dims), np.float32), np.ones(1, np.float32))
    np.testing.assert_allclose(largest, 127.0 * dims, rtol=1e-6)
    with pytest.raises(Unsuitable, match="overflow"):
        similarity(np.ones((1, dims + 1), np.int8), np.ones((1, dims + 1), np.float32), np.ones(1, np.float32))
