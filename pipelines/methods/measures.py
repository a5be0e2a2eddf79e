"""What a loaded model can tell of a pool and a target, as functions that are called when a method asks.

The functions are made where a model can be loaded (features/gather.py); this room loads none. Legend: N pool examples,
V rows of the target with a label token, T trainings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.examples import Dataset

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Trial:
    """A training on trial: who chose its rows, their ids, the masks of label tokens that some have, its seed, and how
    often it sees each row."""

    name: str
    example_ids: tuple[str, ...]
    seed: int
    epochs: int
    masks: Mapping[str, list[bool]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Trials:
    """Trainings on trial, measured on a target: `rows()` are the (V ids, [V] label tokens) that they are measured on,
    `epochs` those of a whole training, `tokens` what one sees, `flops` what it costs, `losses(label, trials)` the [V]
    mean losses of each row, in nats, after each (NaN where it diverged). What was trained once is not trained again."""

    rows: Callable[[], tuple[list[str], I64]]
    epochs: int
    tokens: Callable[[Trial], int]
    flops: Callable[[Trial], float]
    losses: Callable[[str, Sequence[Trial]], list[F64]]


@dataclass(frozen=True)
class Measures:
    """What a loaded model can tell without gradient rows: [N] `label_tokens` of a dataset's members, [N] `losses` of
    ids before and after training on the target (training/loss_drop.py), and `trials` (training/trial.py)."""

    label_tokens: Callable[[Dataset], I64]
    losses: Callable[[Sequence[str]], tuple[F64, F64]]
    trials: Trials
