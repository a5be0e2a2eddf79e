"""What scorers refuse: options and data that a method cannot use, and packages that are not there."""

import sys

import numpy as np
import pytest

from gradsift.scorers import gio, less, lexical, prospect, strata, tagcos, transport
from gradsift.scorers.errors import MissingPackage, Unsuitable

SCORES, IDS = np.array([0.1, 0.2]), ["a", "b"]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("one bucket or more, not 0", lambda: lexical.dsir(["a b"], ["a"], buckets=0)),
        ("one bin or more, not -1", lambda: strata.descending(SCORES, IDS, 1, seed=0, bins=-1)),
        ("one bin or more, not 0", lambda: strata.ccs(SCORES, IDS, 1, seed=0, bins=0)),
        ("0 or more and below 1, not 1.0", lambda: strata.ccs(SCORES, IDS, 1, seed=0, hard=1.0)),
        ("one neighbour or more, not at 0", lambda: gio.gio_knn(np.eye(3), np.eye(3), 2, k=0)),
        ("one neighbour or more, not at 0", lambda: transport.nearest(np.ones((1, 2)), np.eye(2), most=0)),
        ("one row or more, not over 0", lambda: transport.density(np.eye(2), neighbours=0)),
        ("`sigma` must be 0 or more, not -1", lambda: transport.density(np.eye(2), sigma=-1.0)),
        ("finite, not negative, and not all zero", lambda: less.checkpoint_weights([0.0, 0.0])),
        ("losses must be finite", lambda: prospect.spectral_weights([np.nan], np.ones(1), 1.0)),
    ],
)
def test_unsuitable_options_and_data_are_named(words, refused):
    with pytest.raises(Unsuitable, match=words):
        refused()


def test_bm25_needs_words():
    pytest.importorskip("bm25s")
    with pytest.raises(Unsuitable, match="pool with words"):
        lexical.bm25(["", " "], ["word"])


def test_a_pursuit_without_a_ridge_refuses_rows_that_repeat_others():
    """Dropping an atom of negative weight leaves dependent ones behind."""
    rng = np.random.default_rng(0)
    for seed in range(3000):
        rows = np.random.default_rng(seed).normal(size=(4, 3))
        atoms = np.concatenate([rows, rows, rows[:2] + rows[2:]])
        try:
            tagcos.omp(atoms, rng.normal(size=3), 10, ridge=0.0, tol=0.0)
        except Unsuitable as error:
            assert "larger ridge" in str(error)
            return
    pytest.fail("no system was singular")


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("bm25s", lambda: lexical.bm25(["a"], ["a"])),
        ("ot", lambda: transport.unbalanced_mass(np.ones((1, 1)))),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match="pip install"):
        call()
