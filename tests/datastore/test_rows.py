"""Stored rows: what int8 and f16 keep, and what is refused."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.datastore.rows import make_block, read_block, write_block


def rows(seed, size=20, dim=512):
    return np.random.default_rng(seed).normal(size=(size, dim)).astype(np.float32)


def block(projected, dtype):
    size = len(projected)
    nll = pa.array([[float(t) for t in range(k % 3)] for k in range(size)], pa.list_(pa.float16()))
    signals = pa.table({"loss": pa.array(np.arange(size, dtype=np.float32)), "token_nll": nll})
    return make_block([str(k) for k in range(size)], projected, signals, dtype)


@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-20, 20), dtype=st.sampled_from(["int8", "f16"]))
def test_unit_times_norm_is_the_row(seed, power, dtype):
    projected = rows(seed, size=3) * np.float32(2.0**power)
    found = block(projected, dtype)
    np.testing.assert_allclose(np.linalg.norm(found.unit(), axis=1), 1.0, atol=3e-6 if dtype == "int8" else 3e-4)
    error = np.abs(found.unit() * found.norm[:, None] - projected).max()
    assert error <= np.abs(projected).max() / (127 if dtype == "int8" else 1_000)


@pytest.mark.parametrize(("dtype", "limit"), [("int8", 2e-3), ("int4", 8e-3), ("f16", 1e-4)])
def test_cosines_survive_storage(dtype, limit):
    projected = rows(1, 60)
    exact = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    stored = block(projected, dtype).unit()
    assert np.sqrt(np.mean((stored @ stored.T - exact @ exact.T) ** 2)) < limit


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_without_a_direction_are_refused(bad):
    projected = rows(2, 3)
    projected[1] = bad
    with pytest.raises(ValueError, match="finite and non-zero"):
        block(projected, "int8")


@pytest.mark.parametrize("dtype", ["int8", "int4", "f16"])
@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_shard_reads_back_as_written(dtype, size):
    written = block(rows(3, size), dtype)
    handle = io.BytesIO()
    write_block(written, "mark", handle)
    mark, found = read_block(pa.BufferReader(handle.getvalue()))
    assert mark == "mark"
    assert found.example_ids == written.example_ids
    assert found.dtype == dtype
    for name in ("vectors", "scale", "norm"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert found.signals.equals(written.signals)
    if size:
        assert found.signal("loss").tolist() == list(range(size))
        assert [len(t) for t in found.token_signal("token_nll")] == [k % 3 for k in range(size)]
        part = found.take(np.array([size - 1, 0]))
        assert part.example_ids == [str(size - 1), "0"]
        np.testing.assert_array_equal(part.unit()[1], found.unit()[0])
