"""`srht` and `dct`: random signs, an orthonormal transform, a random sample: y = Σ_ℓ √(n/D) · S_ℓ H D_ℓ g_ℓ.

`srht` (Ailon and Chazelle 2009; Tropp 2011): H is the Walsh–Hadamard matrix of order n, the power of two from
max(P_ℓ, D) up. `dct`: H is the orthonormal DCT-II of order n = max(P_ℓ, D), by one FFT (Makhoul 1980). D_ℓ are signs,
S_ℓ draws D of the n outputs without replacement, both for each parameter. The mixing spreads every coordinate over all
outputs, so that a gradient with most of its energy in a few coordinates is sketched as well as any other.
Cost: O(P log P) for each row. Legend: B examples, P coordinates of a parameter, D dims, n order.
"""

from typing import Literal

import numpy as np
import torch

from gradsift.pipelines.features.projectors.base import SketchProjector, generator, random_signs


class MixingProjector(SketchProjector):
    """Accumulates per-example gradients of named parameters into [B, D] rows."""

    def __init__(self, family: Literal["srht", "dct"], dim: int, seed: int) -> None:
        self.family, self.width, self.seed = family, dim, seed
        self._cache: dict[tuple[str, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def add_to(self, rows: torch.Tensor, name: str, flat: torch.Tensor) -> None:
        """Add √(n/D) S H D g of [B, P] coordinates to rows [B, D], in place."""
        size = flat.shape[1]
        order = max(size, self.width)
        if self.family == "srht":
            order = 1 << (order - 1).bit_length()
        signs, sample = self._draws(name, size, order, flat.device)
        mixed = torch.nn.functional.pad(flat * signs, (0, order - size))
        mixed = hadamard(mixed) if self.family == "srht" else dct(mixed)
        rows.add_(mixed[:, sample], alpha=(order / self.width) ** 0.5)

    def _draws(self, name: str, size: int, order: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = (name, size, device)
        if key not in self._cache:
            bits, _ = generator(f"{self.family}/1", self.seed, name)
            signs = torch.from_numpy(random_signs(bits, size))
            sample = np.argsort(np.atleast_1d(bits.random_raw(order)), kind="stable")[: self.width]
            self._cache[key] = signs.to(device), torch.from_numpy(sample).to(device)
        return self._cache[key]


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal Walsh–Hadamard transform of [B, n], n a power of two. O(n log n) for each row."""
    size, order = x.shape
    step = 1
    while step < order:
        pairs = x.view(size, -1, 2, step)
        x = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2).view(size, order)
        step *= 2
    return torch.mul(x, order**-0.5)


def dct(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal DCT-II of [B, n], by an FFT of the even samples followed by the odd ones reversed."""
    order = x.shape[1]
    spectrum = torch.fft.fft(torch.cat((x[:, ::2], x[:, 1::2].flip(1)), 1), dim=1)
    angle = torch.arange(order, device=x.device, dtype=torch.float64) * (-torch.pi / (2 * order))
    turn = torch.polar(torch.ones_like(angle), angle).to(spectrum.dtype)
    scale = torch.full((order,), (2 / order) ** 0.5, device=x.device)
    scale[0] = order**-0.5
    return torch.mul((spectrum * turn).real, scale)
