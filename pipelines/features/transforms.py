"""Transforms Γ of a per-example gradient, elementwise, before the projection.

`sgd`         Γ = g
`adam_code`   LESS as released (collect_grad_reps.py): m' = β₁m + (1−β₁)g, v' = β₂v + (1−β₂)g²,
              Γ = m' / √(v' + ε): ε inside the root, no bias correction
`adam_exact`  AdamW's own update: Γ = m̂ / (√v̂ + ε), m̂ = m'/(1−β₁ᵗ), v̂ = v'/(1−β₂ᵗ), t = the step after the
              checkpoint's. Equals (θ_t − θ_{t+1})/lr of one real step with that example alone. This is the form
              we understand LESS §3.1 to state (UNCONFIRMED: the paper's text was not available).

β₁ = 0.9, β₂ = 0.999, ε = 1e-8. Applied layer by layer while the gradient is in the caches: five passes over it.
Legend: B examples.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.pipelines.training.loop import BETAS, EPS

Transform = Callable[[str, torch.Tensor], torch.Tensor]  # (parameter name, g [B, ...]) → Γ [B, ...]


def adam_code(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Γ of LESS's released code; `m` and `v` broadcast over the examples."""
    beta1, beta2 = BETAS
    return (beta1 * m + (1 - beta1) * g) / torch.addcmul(beta2 * v + EPS, g, g, value=1 - beta2).sqrt_()


def adam_exact(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, step: int) -> torch.Tensor:
    """Γ of a real AdamW step taken after `step` earlier ones."""
    beta1, beta2 = BETAS
    one, two = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    root = torch.addcmul(v * (beta2 / two), g, g, value=(1 - beta2) / two).sqrt_().add_(EPS)
    return torch.add(m * (beta1 / one), g, alpha=(1 - beta1) / one).div_(root)


def make_transform(
    kind: str,
    exp_avg: Mapping[str, NDArray[np.float32]],
    exp_avg_sq: Mapping[str, NDArray[np.float32]],
    step: int,
    device: torch.device,
) -> Transform:
    """A transform bound to a checkpoint's Adam moments, looked up by parameter name."""
    if kind == "sgd":
        return lambda _name, g: g
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
        name: (torch.from_numpy(exp_avg[name]).to(device), torch.from_numpy(exp_avg_sq[name]).to(device))
        for name in exp_avg
    }
    if kind == "adam_code":
        return lambda name, g: adam_code(g, *moments[name])
    if kind == "adam_exact":
        return lambda name, g: adam_exact(g, *moments[name], step)
    raise ValueError(f"unknown transform {kind!r}")
