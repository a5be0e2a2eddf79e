"""Rows in the order of their examples: as they are stored, on the disk, and gone when nobody reads them."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from gradsift.datastore import blocks
from gradsift.datastore.errors import StoreFullError
from gradsift.datastore.rows import FeatureBlock, quantise
from gradsift.datastore.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.mark.parametrize("dtype", ["int8", "int4", "f16"])
def test_rows_stand_in_their_places_as_a_shard_gives_them(store, dtype):
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(20, 16)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    vectors, scale = quantise(unit, dtype)
    expected = FeatureBlock([""] * 20, vectors, scale, scale, None).unit()
    places = rng.permutation(22)[:20]
    parts = [(places[part], vectors[part], scale[part]) for part in (slice(0, 7), slice(7, 20))]
    laid = blocks.lay_out(store, 22, iter(parts))
    assert laid.dims == 16
    np.testing.assert_array_equal(laid.decode(places), expected)
    assert not laid.decode(np.setdiff1d(np.arange(22), places)).any()  # no row: zero
    np.testing.assert_array_equal(laid.decode(slice(3, 9)), laid.decode(np.arange(3, 9)))


def lay_some(store):
    return blocks.lay_out(store, 100, iter([(np.arange(100), np.ones((100, 8), np.int8), np.ones(100, np.float32))]))


def test_the_scratch_file_has_no_name_and_goes_with_its_rows(store):
    before = sorted(p.name for p in store.root.iterdir())
    laid = lay_some(store)
    assert isinstance(laid.vectors, np.memmap)
    assert sorted(p.name for p in store.root.iterdir()) == before
    assert any("deleted" in line and str(store.root) in line for line in _maps())
    del laid
    gc.collect()
    assert not any(str(store.root) in line and "deleted" in line for line in _maps())


def _maps():
    return Path("/proc/self/maps").read_text().splitlines()


def test_a_full_disk_is_said_before_a_row_is_written(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError, match="no space left"):
        lay_some(store)


def test_a_system_without_reservations_writes_zeros(store, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    assert lay_some(store).decode(slice(0, 100)).sum() == 800
