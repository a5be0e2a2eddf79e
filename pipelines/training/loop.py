"""One training loop, for warm-up and validation: AdamW on the LoRA matrices, linear warm-up and decay.

The loss of a batch is the mean over its examples of each one's mean over label tokens, the loss whose
gradients the store holds. Everything random is drawn from (seed, epoch) or (seed, step), so a run resumed at
a checkpoint equals one that was never stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.batches import by_length, collate, pad_id
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses, token_losses
from gradsift.pipelines.model.load import best_device, lora_parameters, seed_all
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Training

BETAS, EPS = (0.9, 0.999), 1e-8
Prune = Callable[[Any, list[Encoded]], list[Encoded]]


@dataclass(frozen=True)
class EpochEnd:
    """What is known at the end of an epoch."""

    epoch: int
    step: int
    mean_lr: float  # of the values in force after each step of the epoch, as a trainer logs them
    mean_loss: float
    model: Any
    optimizer: torch.optim.AdamW


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Learning rate after `step` updates of `steps` (transformers' linear schedule: the first update has 0)."""
    ramp = int(np.ceil(training.warmup_ratio * steps))
    if step < ramp:
        return training.lr * step / max(1, ramp)
    return training.lr * max(0.0, (steps - step) / max(1, steps - ramp))


def steps_per_epoch(examples: int, training: Training) -> int:
    """Optimizer steps in one pass over the examples."""
    return -(-examples // training.batch_size)


def make_optimizer(model: Any, training: Training) -> torch.optim.AdamW:
    """AdamW over the adapter."""
    return torch.optim.AdamW(
        lora_parameters(model).values(),
        lr=training.lr,
        betas=BETAS,
        eps=EPS,
        weight_decay=training.weight_decay,
    )


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    training: Training,
    seed: int,
    *,
    optimizer: torch.optim.AdamW | None = None,
    first_epoch: int = 0,
    at_epoch_end: Callable[[EpochEnd], None] | None = None,
    prune: Prune | None = None,
    progress: Progress = quiet,
    label: str = "train",
) -> float:
    """Train the adapter in place; leaves the model in eval mode and returns the last epoch's mean loss.

    `prune` sees each batch before its step and gives the rows (with fewer labels, or fewer rows) to train on.
    Raises InputError, before `at_epoch_end`, where training diverges.
    """
    parameters = list(lora_parameters(model).values())
    optimizer = optimizer or make_optimizer(model, training)
    per_epoch = steps_per_epoch(len(rows), training)
    total, device, pad = per_epoch * training.epochs, best_device(), pad_id(tokenizer)
    mean_loss = float("nan")
    model.train()
    for epoch in range(first_epoch, training.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        losses, rates = [], []
        for number in range(per_epoch):
            step = epoch * per_epoch + number
            seed_all(seed * 1_000_003 + step)
            chosen = order[number * training.batch_size : (number + 1) * training.batch_size]
            members = [rows[k] for k in chosen]
            if prune is not None:
                members = prune(model, members)
            loss = example_losses(model, collate(members, pad).to(device)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, training)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise _diverged(label, f"the loss of step {step + 1} of {total} is not finite", training.lr)
            rates.append(learning_rate(step + 1, total, training))
            progress(label, step + 1, total)
        mean_loss = float(np.mean(losses))
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise _diverged(label, f"a weight is not finite after epoch {epoch + 1}", training.lr)
        if at_epoch_end:
            model.eval()
            at_epoch_end(EpochEnd(epoch, (epoch + 1) * per_epoch, float(np.mean(rates)), mean_loss, model, optimizer))
            model.train()
    model.eval()
    return mean_loss


def _diverged(label: str, what: str, lr: float) -> InputError:
    return InputError(
        f"{label} diverged: {what}. Lower the learning rate (lr {lr:g} here), or look for a damaged model; "
        "checkpoints made before stay"
    )


@torch.no_grad()
def mean_token_loss(model: Any, tokenizer: Any, rows: Sequence[Encoded], batch_tokens: int = 4096) -> float:
    """Mean loss over all label tokens of the rows, in nats per token."""
    device, pad, total, count = best_device(), pad_id(tokenizer), 0.0, 0
    for batch in by_length([len(row.input_ids) for row in rows], batch_tokens):
        nll = token_losses(model, collate([rows[k] for k in batch], pad).to(device)).nll
        total += float(nll.double().sum())
        count += len(nll)
    return total / count
