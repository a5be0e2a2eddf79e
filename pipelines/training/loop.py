"""One training loop, for the warm-up and the runs of mixing laws: AdamW on the LoRA matrices, linear warm-up and decay.

The loss of a batch is the mean over its examples of each one's mean over label tokens, the loss whose
gradients the store holds. Everything random is drawn from (seed, epoch) or (seed, step), so a run resumed at
a checkpoint equals one that was never stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import lora_parameters, seed_all
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Training

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Start:
    """Where training goes on: an optimizer with its state, at the beginning of an epoch."""

    optimizer: torch.optim.AdamW
    epoch: int = 0


@dataclass(frozen=True)
class EpochEnd:
    """What is known at the end of an epoch; until the next one begins, the model is in eval mode."""

    epoch: int
    step: int
    mean_lr: float  # of the values in force after each step of the epoch, as a trainer logs them
    model: Any
    optimizer: torch.optim.AdamW


@dataclass(frozen=True)
class Report:
    """Progress under a name, which errors mention too."""

    label: str
    progress: Progress


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Learning rate after `step` updates of `steps` (transformers' linear schedule: the first update has 0)."""
    ramp = int(np.ceil(training.warmup_ratio * steps))
    if step < ramp:
        return training.lr * step / max(1, ramp)
    return training.lr * max(0.0, (steps - step) / max(1, steps - ramp))


def make_optimizer(model: Any, training: Training) -> torch.optim.AdamW:
    """AdamW over the adapter."""
    return torch.optim.AdamW(
        lora_parameters(model).values(),
        lr=training.lr,
        betas=BETAS,
        eps=EPS,
        weight_decay=training.weight_decay,
    )


def train(model: Any, tokenizer: Any, rows: Sequence[Encoded], training: Training, seed: int, report: Report) -> None:
    """Train the adapter in place from its first epoch to its last; leaves the model in eval mode."""
    for _ in epochs(model, tokenizer, rows, training, seed, report):
        pass


def epochs(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    training: Training,
    seed: int,
    report: Report,
    start: Start | None = None,
) -> Iterator[EpochEnd]:
    """Train the adapter in place, one epoch for each value that is taken; leaves the model in eval mode.

    Raises InputError, instead of giving the epoch, where training diverges.
    """
    start = start or Start(make_optimizer(model, training))
    per_epoch = -(-len(rows) // training.batch_size)
    steps = _Steps(model, start.optimizer, training, seed, per_epoch * training.epochs, report)
    for epoch in range(start.epoch, training.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        model.train()
        for number in range(per_epoch):
            chosen = order[number * training.batch_size : (number + 1) * training.batch_size]
            steps.take(epoch * per_epoch + number, [rows[k] for k in chosen], pad_id(tokenizer))
        steps.check_weights(epoch)
        model.eval()
        after = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
        mean_lr = float(np.mean([learning_rate(step, steps.total, training) for step in after]))
        yield EpochEnd(epoch, after[-1], mean_lr, model, start.optimizer)


@dataclass(frozen=True)
class _Steps:
    """The steps of one training run."""

    model: Any
    optimizer: torch.optim.AdamW
    training: Training
    seed: int
    total: int
    report: Report

    def take(self, step: int, rows: list[Encoded], pad: int) -> None:
        """One optimizer step on a batch. Raises InputError when its loss is not finite."""
        seed_all(self.seed * 1_000_003 + step)
        loss = example_losses(self.model, collate(rows, pad).to(best_device())).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters(), self.training.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.total, self.training)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not np.isfinite(loss.item()):
            raise self._diverged(f"the loss of step {step + 1} of {self.total} is not finite")
        self.report.progress(self.report.label, step + 1, self.total)

    def check_weights(self, epoch: int) -> None:
        """Raise InputError when a weight is not finite at the end of an epoch."""
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters()):
            raise self._diverged(f"a weight is not finite after epoch {epoch + 1}")

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _diverged(self, what: str) -> InputError:
        return InputError(
            f"{self.report.label} diverged: {what}. Lower the learning rate (lr {self.training.lr:g} here), or look "
            "for a damaged model; checkpoints made before stay"
        )
