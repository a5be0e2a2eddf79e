"""The `fold` projector: a structured sparse random projection, P → D, at one multiply-add for each coordinate.

Parameter ℓ with flat gradient g (length P_ℓ) adds to the row y (length D)

    y[(o_ℓ + p) mod D] += s_ℓ[p] · g[p],     o_ℓ ∈ [0, D) and s_ℓ[p] ∈ {−1, +1} random,

so E⟨y, y'⟩ = ⟨g, g'⟩ with no further scale, and the error of a cosine ρ is about (1 − ρ²)/√D, as for a dense
Rademacher matrix (a count-sketch with one circular hash for each parameter).

Offsets and signs come from numpy's counter-based Philox generator, keyed by sha256 of (version, seed,
parameter name): the same on every device, in any order of parameters, for any batch. Cost: O(P) time for each row,
P bytes of signs in memory; nothing grows with D. Legend: B examples, P coordinates of a parameter, D dims.
"""

import hashlib
from typing import Any

import numpy as np
import torch

VERSION = 1


class FoldProjector:
    """Accumulates per-example gradients of named parameters into [B, D] rows."""

    def __init__(self, dim: int, seed: int) -> None:
        self.dim, self.seed = dim, seed
        self._cache: dict[tuple[str, int, torch.device], tuple[int, torch.Tensor]] = {}

    @property
    def spec(self) -> dict[str, Any]:
        """What decides the matrix; part of the feature space."""
        return {"family": "fold", "version": VERSION, "dim": self.dim, "seed": self.seed}

    def add(self, rows: torch.Tensor, name: str, gradient: torch.Tensor) -> None:
        """Add the sketch of one parameter's gradient ([B, ...]) to rows ([B, D] f32), in place."""
        flat = gradient.reshape(len(gradient), -1).float()
        offset, signs = self._draws(name, flat.shape[1], flat.device)
        signed = torch.nn.functional.pad(flat * signs, (0, -flat.shape[1] % self.dim))
        folded = signed.view(len(flat), -1, self.dim).sum(1)
        rows += folded.roll(offset, dims=1)

    def _draws(self, name: str, size: int, device: torch.device) -> tuple[int, torch.Tensor]:
        key = (name, size, device)
        if key not in self._cache:
            offset, signs = draws(self.seed, name, size, self.dim)
            self._cache[key] = offset, torch.from_numpy(signs).to(device)
        return self._cache[key]


def draws(seed: int, name: str, size: int, dim: int) -> tuple[int, np.ndarray[Any, np.dtype[np.int8]]]:
    """Offset in [0, dim) and [size] int8 signs of a parameter. Signs do not depend on `dim`, nor on `size`
    beyond being cut there."""
    digest = hashlib.sha256(f"gradsift.fold/{VERSION}/{seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:16], "<u8").astype(np.uint64)
    raw = np.random.Philox(key=key).random_raw(-(-size // 64))
    bits = np.unpackbits(np.atleast_1d(raw).astype("<u8").view(np.uint8), bitorder="little")[:size]
    offset = int.from_bytes(digest[16:24], "little") % dim
    return offset, (bits.astype(np.int8) * 2 - 1)
