"""TAGCOS: golden values of the authors' pursuit, its degenerate cases, and a pursuit that rebuilds everything."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from gradsift.scorers.budgets import floors, largest_remainder
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.kmeans import Clusters, kmeans
from gradsift.scorers.tagcos import omp, pursue, tagcos


def rounds_of(atoms, target, size, **options):
    return [dict(zip(p.atoms, p.weights, strict=True)) for p in pursue(atoms, target, size, **options)]


def assert_rounds(rounds, expected, tolerance=2e-6):
    assert [set(r) for r in rounds] == [set(r) for r in expected]
    for mine, theirs in zip(rounds, expected, strict=True):
        for atom, weight in theirs.items():
            assert mine[atom] == pytest.approx(weight, abs=tolerance)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_orthogonal_atoms():
    eye, b = np.eye(4), np.array([0.1, 0.4, 0.3, 0.2])
    assert_rounds(rounds_of(eye, b, 4), [{1: 0.2, 2: 0.15}, {0: 0.05, 3: 0.1}])
    assert_rounds(rounds_of(eye, b, 1), [{1: 0.4}])  # no ridge on the first atom
    pursuit = omp(eye, b, 4, ridge=0.0)
    weights = np.zeros(4)
    weights[pursuit.atoms] = pursuit.weights
    np.testing.assert_allclose(weights, b, atol=1e-12)
    assert pursuit.residual < 1e-12


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, [{5: 0.063641, 12: 0.034351}, {6: 0.039214, 15: 0.036578, 35: 0.038697}]),
        (0.3, [{5: 0.010509, 12: 0.005671}, {6: 0.007291, 15: 0.007649, 35: 0.007793}]),
    ],
)
def test_random_atoms_of_the_authors_function(factor, expected):
    atoms = unit(np.random.RandomState(0).randn(40, 8))
    atoms = factor * atoms
    assert_rounds(rounds_of(atoms, atoms.mean(axis=0), 5), expected)


def test_coherent_atoms_of_the_authors_function():
    atoms = unit(np.random.RandomState(1).randn(60, 16) + 1)
    expected = [{5: 0.22336, 11: 0.184804, 23: 0.165627}, {3: 0.241925, 48: 0.128786, 51: 0.202232}]
    assert_rounds(rounds_of(atoms, atoms.mean(axis=0), 6), expected)


def rebuilt(atoms, target, size, ridge=1.0, tol=1e-4):
    """The pursuit as the paper writes it: everything is computed again for each atom."""
    support, x, residual = [], np.zeros(0), target
    for _ in range(size):
        if np.linalg.norm(residual) < tol * np.linalg.norm(target):
            break
        j = int((atoms @ residual).argmax())
        if j in support:
            break
        support.append(j)
        part = atoms[support]
        gram, right = part @ part.T + ridge * np.eye(len(support)), part @ target
        x = (
            right / gram[0, 0] * gram[0, 0] / (gram[0, 0] - ridge)
            if len(support) == 1
            else np.linalg.solve(gram, right)
        )
        while len(x) and x.min() < 0:
            worst = int(x.argmin())
            last = worst == len(support) - 1
            support.pop(worst)
            part = atoms[support]
            x = np.linalg.solve(part @ part.T + ridge * np.eye(len(support)), part @ target)
            if last:
                return support, x
        residual = target - x @ part
    return support, x


@pytest.mark.parametrize("ridge", [1.0, 0.01, 1e-6])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_growing_a_factor_equals_rebuilding(ridge, shift):
    rng = np.random.default_rng(3)
    for _ in range(5):
        atoms = unit(rng.normal(size=(80, 24)) + shift)
        pursuit = omp(atoms, atoms.mean(axis=0), 20, ridge)
        support, x = rebuilt(atoms, atoms.mean(axis=0), 20, ridge)
        assert pursuit.atoms == support
        np.testing.assert_allclose(pursuit.weights, x, atol=1e-6)


def test_without_ridge_the_residual_never_grows():
    atoms = unit(np.random.default_rng(0).normal(size=(50, 12)) + 1)
    target = atoms.mean(axis=0)
    ends = [omp(atoms, target, k, ridge=0.0).residual for k in range(1, 9)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(ends))


def test_rotations_and_permutations_change_nothing_else():
    rng = np.random.default_rng(1)
    atoms = unit(rng.normal(size=(60, 16)) + 0.5)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    order = rng.permutation(60)
    base = [p.atoms for p in pursue(atoms, atoms.mean(axis=0), 12)]
    turned = atoms @ rotation
    assert [p.atoms for p in pursue(turned, turned.mean(axis=0), 12)] == base
    moved = [p.atoms for p in pursue(atoms[order], atoms.mean(axis=0), 12)]
    assert [[int(order[i]) for i in atoms_] for atoms_ in moved] == base


@pytest.mark.parametrize("target", [np.zeros(4), -np.ones(4), np.ones(4)])
def test_degenerate_atoms_end_and_fill_the_budget(target):
    """Zero rows, NaN rows, duplicates, a zero mean, atoms that all point away: the released code hangs or divides by zero."""
    atoms = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [np.nan, 1, 1, 1], [0, 1, 0, 0]], float)
    for size in (1, 3, 5):
        chosen = [i for p in pursue(atoms, target, size) for i in p.atoms]
        assert len(chosen) == len(set(chosen)) == min(size, 3)
        assert set(chosen) <= {1, 2, 4}
        assert all((p.weights >= 0).all() for p in pursue(atoms, target, size))


def test_the_first_pick_of_a_cluster_is_the_row_nearest_its_mean():
    rows = np.random.default_rng(0).normal(size=(90, 16)).astype(np.float32)
    clusters = kmeans(rows, 3, seed=0)
    chosen = tagcos(rows, clusters, [1, 1, 1])
    for pick, members, center in zip(chosen, clusters.members(), clusters.centers, strict=True):
        assert pick == members[(rows[members] @ center).argmax()]


def test_budgets_are_exact_and_floors_fall_short():
    sizes = [19, 19, 62, 300]
    exact = largest_remainder(sizes, 20, sizes)
    assert exact.sum() == 20
    assert exact.tolist() == [1, 1, 3, 15]
    assert floors(0.05, sizes).tolist() == [0, 0, 3, 15]
    assert floors(0.05, range(0, 100_000, 20)).tolist() == list(range(5000))  # as int(int(n)*0.05) of `omp.py`
    assert floors(Fraction(29, 100), [100, 200]).tolist() == [29, 58]  # 100 · 0.29 is 28.999… in floats


def test_kmeans_is_seeded_and_has_no_empty_cluster():
    rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    one, two = kmeans(rows, 10, seed=4), kmeans(rows, 10, seed=4)
    np.testing.assert_array_equal(one.labels, two.labels)
    same = kmeans(np.ones((6, 3), np.float32), 4, seed=0)
    assert isinstance(same, Clusters)
    assert (same.sizes > 0).all()
    with pytest.raises(Unsuitable, match="finite"):
        kmeans(np.full((4, 2), np.nan, np.float32), 2, seed=0)
