"""`fold`: a structured sparse random projection, P → D, at one multiply-add for each coordinate.

Parameter ℓ with flat gradient g (length P_ℓ) adds to the row y (length D)

    y[(o_ℓ + p) mod D] += s_ℓ[p] · g[p],     o_ℓ ∈ [0, D) and s_ℓ[p] ∈ {−1, +1} random,

so E⟨y, y'⟩ = ⟨g, g'⟩ with no further scale, and the error of a cosine ρ is about (1 − ρ²)/√D, as for a dense
Rademacher matrix (a count-sketch with one circular hash for each parameter).

Cost: O(P) time for each row, P bytes of signs in memory; nothing grows with D.
Legend: B examples, P coordinates of a parameter, D dims.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.pipelines.features.projectors.base import VERSION, SketchProjector, generator, random_signs

FEW_WRAPS = 8  # up to here a pass for each wrap beats a product that is summed afterwards


class FoldProjector(SketchProjector):
    """Accumulates per-example gradients of named parameters into [B, D] rows."""

    def __init__(self, dim: int, seed: int) -> None:
        self.width, self.seed = dim, seed
        self._cache: dict[tuple[str, int, torch.device], tuple[int, torch.Tensor]] = {}

    def add_to(self, rows: torch.Tensor, name: str, flat: torch.Tensor) -> None:
        """Add the sketch of one parameter's gradient ([B, P]) to rows ([B, D] f32), in place."""
        dim, size = self.width, flat.shape[1]
        offset, signs = self._draws(name, size, flat.device)
        start = min(dim - offset, size)  # coordinates before the first wrap
        wraps = (size - start) // dim
        _add(rows, offset, flat[:, :start], signs[:start])
        if wraps > FEW_WRAPS:
            stop = start + wraps * dim
            middle = flat[:, start:stop].view(len(flat), wraps, dim)
            rows += (middle * signs[start:stop].view(wraps, dim)).sum(1)
            start = stop
        for first in range(start, size, dim):
            part = slice(first, first + dim)
            _add(rows, 0, flat[:, part], signs[part])

    def _draws(self, name: str, size: int, device: torch.device) -> tuple[int, torch.Tensor]:
        key = (name, size, device)
        if key not in self._cache:
            offset, signs = draws(self.seed, name, size, self.width)
            self._cache[key] = offset, torch.from_numpy(signs).to(device)
        return self._cache[key]


def _add(rows: torch.Tensor, offset: int, flat: torch.Tensor, signs: torch.Tensor) -> None:
    rows[:, offset : offset + flat.shape[1]].addcmul_(flat, signs.to(flat.dtype))


def draws(seed: int, name: str, size: int, dim: int) -> tuple[int, NDArray[np.int8]]:
    """Offset in [0, dim) and [size] signs of a parameter. Signs do not depend on `dim`, nor on `size` beyond being
    cut there."""
    bits, more = generator(f"fold/{VERSION}", seed, name)
    return more % dim, random_signs(bits, size)
