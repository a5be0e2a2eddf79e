"""What a projector is. Legend: B examples, P coordinates of a parameter, D dims, M modules."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

VERSION = 1  # of what the families draw; part of the feature space


class Rows(Protocol):
    """The rows of one batch while its parameters come in, in any order, each once."""

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add a parameter's gradients, [B, ...] f32."""

    def result(self) -> torch.Tensor:
        """[B, width] f32."""


class Projector(Protocol):
    """A random linear map from named parameters to rows."""

    width: int  # length of a row

    def start(self, size: int, device: torch.device) -> Rows:
        """Rows of a new batch of `size` examples, all zero."""


class SketchProjector:
    """Base of the families that work on each parameter alone: a row is the sum over parameters."""

    width: int

    def add_to(self, rows: torch.Tensor, name: str, flat: torch.Tensor) -> None:
        """Add the sketch of [B, P] coordinates to rows [B, D], in place."""
        raise NotImplementedError

    def start(self, size: int, device: torch.device) -> Rows:
        """All zero."""
        return _SketchRows(self, torch.zeros(size, self.width, device=device))


class PerModule:
    """A row for each parameter, side by side in the given order: M·D dims, for scores of single layers."""

    def __init__(self, inner: SketchProjector, names: Sequence[str]) -> None:
        self.inner, self.place = inner, {name: k for k, name in enumerate(names)}
        self.width = inner.width * len(names)

    def start(self, size: int, device: torch.device) -> Rows:
        """All zero."""
        return _SketchRows(self.inner, torch.zeros(size, self.width, device=device), self.place)


class _SketchRows:
    """Adds each parameter to the whole row, or with `place` to the part of the row that is its own."""

    def __init__(self, sketch: SketchProjector, rows: torch.Tensor, place: Mapping[str, int] | None = None) -> None:
        self.sketch, self.rows, self.place = sketch, rows, place

    def add(self, name: str, gradient: torch.Tensor) -> None:
        start = self.place[name] * self.sketch.width if self.place else 0
        self.sketch.add_to(self.rows[:, start : start + self.sketch.width], name, gradient.flatten(1))

    def result(self) -> torch.Tensor:
        return self.rows


def generator(purpose: str, seed: int, name: str) -> tuple[np.random.Philox, int]:
    """A counter-based bit generator for one parameter, and 64 further bits of the same hash."""
    digest = hashlib.sha256(f"gradsift.{purpose}/{seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:16], "<u8").astype(np.uint64)
    return np.random.Philox(key=key), int.from_bytes(digest[16:24], "little")


def random_signs(bits: np.random.Philox, size: int) -> NDArray[np.int8]:
    """[size] of −1 and +1; a longer draw from the same generator starts with the same signs."""
    raw = np.atleast_1d(bits.random_raw(-(-size // 64)))
    unpacked = np.unpackbits(raw.astype("<u8").view(np.uint8), bitorder="little")[:size]
    return unpacked.astype(np.int8) * 2 - 1
