"""`rademacher` and `gaussian`: y = Σ_ℓ R_ℓᵀ g_ℓ / √D with R_ℓ [P_ℓ, D] of independent ±1 or N(0, 1).

The projections of TRAK §3.2 and LESS §4.1, with the 1/√D that `traker` leaves out, so that inner products are
unbiased. Drawn in blocks of `BLOCK` coordinates, so that R never exists whole; blocks are kept up to `KEEP_BYTES`, then
drawn again for each batch. Cost: 2·P·D FLOPs for each row. For small P; `fold` is as faithful.
Legend: B examples, P coordinates of a parameter, D dims.
"""

from typing import Literal

import numpy as np
import torch

from gradsift.pipelines.features.projectors.base import SketchProjector, generator, random_signs

BLOCK = 1024
KEEP_BYTES = 1 << 30


class DenseProjector(SketchProjector):
    """Accumulates per-example gradients of named parameters into [B, D] rows."""

    def __init__(self, family: Literal["rademacher", "gaussian"], dim: int, seed: int) -> None:
        self.family, self.width, self.seed = family, dim, seed
        self._kept: dict[tuple[str, int, torch.device], torch.Tensor] = {}
        self._bytes = 0

    def add_to(self, rows: torch.Tensor, name: str, flat: torch.Tensor) -> None:
        """Add R_ℓᵀ g / √D of [B, P] coordinates to rows [B, D], in place."""
        for block in range(-(-flat.shape[1] // BLOCK)):
            part = flat[:, block * BLOCK : (block + 1) * BLOCK]
            matrix = self._matrix(name, block, flat.device)[: part.shape[1]]
            rows.addmm_(part, matrix.to(part.dtype), alpha=self.width**-0.5)

    def _matrix(self, name: str, block: int, device: torch.device) -> torch.Tensor:
        key = (name, block, device)
        if key in self._kept:
            return self._kept[key]
        bits, _ = generator(f"{self.family}/1", self.seed, f"{block}/{name}")
        if self.family == "rademacher":
            drawn = torch.from_numpy(random_signs(bits, BLOCK * self.width))
        else:
            drawn = torch.from_numpy(np.random.Generator(bits).standard_normal(BLOCK * self.width, np.float32))
        matrix = drawn.view(BLOCK, self.width).to(device)
        size = matrix.numel() * matrix.element_size()
        if self._bytes + size <= KEEP_BYTES:
            self._kept[key] = matrix
            self._bytes += size
        return matrix
