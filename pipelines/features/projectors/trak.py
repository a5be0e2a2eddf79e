"""`traker` and `traker_cuda`: the projectors that TRAK and LESS ship, for parity with their stores.

`traker` is `trak.projectors.BasicProjector` (Rademacher, block size 128, as LESS calls it), on any device;
`traker_cuda` is `CudaProjector`, which needs the `fast_jl` extension and an NVIDIA GPU. Both want an example's whole
gradient, in the model's order of parameters, so a batch holds B·P coordinates; both leave out 1/√D, which is put back
here. `BasicProjector` draws its matrix again on every call, P·D entries, which is what LESS on a CPU spends its time
on. Traps in traker 0.3.2: its CPU and CUDA generators differ, and `CudaProjector`'s matrix depends on the GPU's number
of multiprocessors; so a space records the device's kind, and these rows are for one machine.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from gradsift.datastore.errors import InputError

BLOCK_SIZE = 128
CUDA_BATCH = 16


class TrakProjector:
    """One of traker's projectors behind our interface."""

    def __init__(self, family: Literal["traker", "traker_cuda"], dim: int, seed: int, names: Sequence[str]) -> None:
        self.family, self.width, self.seed, self.names = family, dim, seed, list(names)
        self._projector: Any = None

    def start(self, size: int, device: torch.device) -> "_WholeGradients":
        """Nothing held yet."""
        return _WholeGradients(self, size, device)

    def project(self, gradients: torch.Tensor) -> torch.Tensor:
        """[B, P] → [B, D]."""
        if self._projector is None:
            self._projector = self._make(gradients.shape[1], gradients.device)
        projected: torch.Tensor = self._projector.project(gradients, model_id=0)
        return torch.mul(projected.float(), self.width**-0.5)

    def _make(self, size: int, device: torch.device) -> Any:
        from trak import projectors

        common = {"grad_dim": size, "proj_dim": self.width, "seed": self.seed, "device": device}
        kind = projectors.ProjectionType.rademacher
        if self.family == "traker":
            return projectors.BasicProjector(**common, proj_type=kind, block_size=BLOCK_SIZE, dtype=torch.float32)
        try:
            made = projectors.CudaProjector(**common, proj_type=kind, max_batch_size=CUDA_BATCH)
        except Exception as error:  # traker turns a missing GPU or extension into several kinds of error
            raise InputError(
                f"projector.family traker_cuda needs an NVIDIA GPU and the fast_jl extension ({error}). `fold` is as "
                "faithful and needs neither; `traker` is the same family without the extension."
            ) from error
        if not made.project(torch.ones(CUDA_BATCH, size, device=device), model_id=0).any():
            raise InputError("fast_jl projects ones to zeros here (a known fault of some builds); use `fold`")
        return made


class _WholeGradients:
    """The gradients of one batch, held until all parameters are there."""

    def __init__(self, projector: TrakProjector, size: int, device: torch.device) -> None:
        self.projector, self.size, self.device = projector, size, device
        self.parts: dict[str, torch.Tensor] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Hold a parameter's gradients."""
        self.parts[name] = gradient.flatten(1)

    def result(self) -> torch.Tensor:
        """Project all of them at once, in the model's order."""
        return self.projector.project(torch.cat([self.parts[n] for n in self.projector.names], 1))
