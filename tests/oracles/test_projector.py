"""The projector against theory: unbiased, (1 − ρ²)/√D error, linear, and a function of names and values only."""

import hashlib

import numpy as np
import pytest
import torch

from gradsift.datastore.identity import fingerprint
from gradsift.pipelines.features.projectors import make_projector, projector_spec
from gradsift.pipelines.features.projectors.fold import draws
from gradsift.pipelines.features.projectors.hadamard import dct, hadamard

CPU = torch.device("cpu")
SHAPES = {"layers.0.q.lora_A": (8, 300), "layers.0.q.lora_B": (200, 8), "layers.1.q.lora_A": (8, 77)}


def project(gradients, dim=512, seed=0, order=None, family="fold"):
    rows = make_projector(family, dim, seed, list(SHAPES)).start(len(next(iter(gradients.values()))), CPU)
    for name in order or gradients:
        rows.add(name, gradients[name])
    return rows.result()


def random_gradients(batch, generator_seed=0):
    generator = torch.Generator().manual_seed(generator_seed)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in SHAPES.items()}


def flat(gradients):
    return torch.cat([g.reshape(len(g), -1) for g in gradients.values()], 1)


FAMILIES = ["fold", "rademacher", "gaussian", "srht", "dct", "traker"]


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_unbiased_and_never_zero(family):
    gradients = random_gradients(100)
    ratio = project(gradients, family=family).square().sum(1) / flat(gradients).square().sum(1)
    assert 0.9 < ratio.mean() < 1.1
    assert (ratio > 0.5).all()


@pytest.mark.parametrize(
    ("rho", "family"),
    [(rho, family) for rho in (0.0, 0.5, 0.9) for family in ("fold", "srht", "dct", "rademacher")]
    + [pytest.param(0.5, "gaussian", marks=pytest.mark.slow)],  # as rademacher, but for how it draws, which takes long
)
def test_error_of_a_cosine(rho, family):
    dim = 512
    one, other = random_gradients(1, 1), random_gradients(1, 2)
    a = flat(one)
    b = flat(other) - (flat(other) @ a.T) / (a @ a.T) * a
    mixed = rho * a / a.norm() + (1 - rho**2) ** 0.5 * b / b.norm()
    sizes = [int(np.prod(s)) for s in SHAPES.values()]
    second = {n: p.reshape(1, *s) for (n, s), p in zip(SHAPES.items(), mixed.split(sizes, 1), strict=True)}
    errors = []
    tries = 400 if family == "fold" else 150
    for seed in range(tries):
        x, y = (project(g, dim, seed, family=family) for g in (one, second))
        errors.append(torch.cosine_similarity(x, y).item() - rho)
    predicted = (1 - rho**2) / dim**0.5
    assert abs(np.mean(errors)) < 4 * predicted / tries**0.5
    assert predicted * 0.75 < np.std(errors) < predicted * 1.25


@pytest.mark.parametrize("family", FAMILIES)
def test_linear(family):
    one, other = random_gradients(4, 1), random_gradients(4, 2)
    mixed = {n: 2.0 * one[n] - 3.0 * other[n] for n in SHAPES}
    a, b, c = (project(g, family=family) for g in (mixed, one, other))
    torch.testing.assert_close(a, 2 * b - 3 * c, rtol=1e-5, atol=1e-3)


def test_fast_transforms_equal_their_matrices():
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    walsh = np.ones((1, 1))
    for _ in range(6):
        walsh = np.kron(walsh, [[1, 1], [1, -1]])
    np.testing.assert_allclose(hadamard(x), x.numpy() @ walsh / 8, atol=1e-5)
    for order in (64, 37):
        k, p = np.arange(order)[:, None], np.arange(order)
        cosines = np.cos(np.pi * k * (2 * p + 1) / (2 * order)) * np.where(k == 0, 1, 2**0.5) / order**0.5
        np.testing.assert_allclose(dct(x[:, :order]), x[:, :order].numpy() @ cosines.T, atol=1e-5)


def test_many_wraps_give_the_same_as_few():
    """A parameter of more wraps than FEW_WRAPS takes another path; the definition decides."""
    flat = torch.randn(2, 64 * 30 + 17, generator=torch.Generator().manual_seed(0))
    rows = make_projector("fold", 64, 0, ["w"]).start(2, CPU)
    rows.add("w", flat)
    offset, signs = draws(0, "w", flat.shape[1], 64)
    expected = np.zeros((2, 64))
    for p in range(flat.shape[1]):
        expected[:, (offset + p) % 64] += signs[p] * flat[:, p].numpy()
    np.testing.assert_allclose(rows.result(), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["fold", "srht"])
def test_batch_split_is_bit_exact(family):
    gradients = random_gradients(7)
    parts = [project({n: g[k : k + 3] for n, g in gradients.items()}, family=family) for k in (0, 3, 6)]
    assert torch.equal(project(gradients, family=family), torch.cat(parts))


def test_order_of_parameters_does_not_matter():
    gradients = random_gradients(3)
    torch.testing.assert_close(project(gradients), project(gradients, order=list(SHAPES)[::-1]), rtol=1e-5, atol=1e-5)


def test_names_and_seeds_decide_the_matrix():
    gradients = random_gradients(3)
    assert not torch.allclose(project(gradients), project(gradients, seed=1))
    renamed = {n.replace("layers.0", "layers.5"): g for n, g in gradients.items()}
    assert not torch.allclose(project(gradients), project(renamed))
    specs = [projector_spec(f, d, s, "cpu") for f in ("fold", "srht") for d in (512, 1024) for s in (0, 1)]
    assert len({fingerprint(spec) for spec in specs}) == 8


def test_the_matrix_is_the_same_for_ever():
    """Stores outlive versions: these bytes may change only together with base.VERSION."""
    offset, signs = draws(0, "layers.0.q.lora_A", 1000, 4096)
    assert set(signs.tolist()) == {-1, 1}
    assert draws(0, "layers.0.q.lora_A", 1000, 8192)[1].tolist() == signs.tolist()
    first_signs = (offset, hashlib.sha256(signs.tobytes()).hexdigest()[:16])
    assert first_signs == FROZEN


FROZEN = (2730, "75a4520fceaea1d2")
