"""Two-sided factorised sketch of a linear layer's gradient, without forming it.

The gradient of example b is G = Σ_t δ_t x_tᵀ [O, I]. With count-sketches S_o [k, O] and S_i [k, I],

    S_o G S_iᵀ = Σ_t (S_o δ_t)(S_i x_t)ᵀ      [k, k]

has unbiased inner products with that of another example (an independent sign for each row and column), and costs
T·(O + I + k²) instead of T·O·I; the [k, k] block then goes to the projector like any gradient. `signfold` sides:
random signs, then y[p mod k] += x[p]; cheaper than a dense projection to the same k. A side no longer than k is left as
it is. Its own error comes on top of the projector's; docs/results.md has figures. LoGra and bergson do the same with
dense factors, and keep the blocks side by side.
Legend: B examples, T tokens, O outputs, I inputs, k factor.
"""

import torch

from gradsift.pipelines.features.projectors.base import generator, random_signs


class Factors:
    """Sketches (δ, x) pairs of named layers to [B, ≤ k, ≤ k]."""

    def __init__(self, factor: int, seed: int) -> None:
        self.factor, self.seed = factor, seed
        self._signs: dict[tuple[str, int, torch.device], torch.Tensor] = {}

    def contract(self, name: str, delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """δ [B, T, O], x [B, T, I] → [B, min(k, O), min(k, I)] f32."""
        left, right = self._side(f"{name}/out", delta), self._side(f"{name}/in", x)
        return torch.bmm(left.transpose(1, 2), right)

    def _side(self, name: str, values: torch.Tensor) -> torch.Tensor:
        size, k = values.shape[2], self.factor
        if size <= k:
            return values.float()
        key = (name, size, values.device)
        if key not in self._signs:
            bits, _ = generator("signfold/1", self.seed, name)
            self._signs[key] = torch.from_numpy(random_signs(bits, size)).to(values.device)
        signs = self._signs[key]
        sketch = values.new_zeros((*values.shape[:2], k), dtype=torch.float32)
        for start in range(0, size, k):
            part = slice(start, start + k)
            piece = values[:, :, part].float()
            sketch[:, :, : piece.shape[2]].addcmul_(piece, signs[part].float())
        return sketch
