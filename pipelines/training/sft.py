"""The downstream trainer of validation: transformers' Trainer, with this project's labels and token masks.

The loss of a batch is the mean over examples of each one's mean over label tokens (`loss: ce`), the quantity whose
gradients the store holds; `dft` weighs each token by its own probability, not differentiated: −Σ sg[p]·log p (Dynamic
Fine-Tuning, Wu et al. 2025, arXiv 2508.05629). Head and loss run on label tokens only (pipelines/model/head.py).

Off by default, and the same for all arms when on: optimizers without a learning rate (DoG with iterate averaging,
D-Adaptation), to see whether the arms keep their order, and GradES (matrices whose weights have stopped moving are
frozen after a share α of the steps; the released code monitors the ℓ1 change of weights, the paper's text gradients).
"""

import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gradsift.datastore.arms import TrainLog
from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_means, token_losses, weighted
from gradsift.pipelines.model.load import load_trainable, seed_all
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import GradES, Sft
from gradsift.pipelines.training.loop import BETAS, EPS

Prune = Callable[[Any, list[Encoded]], list[Encoded]]
"""Gives the rows of a batch (fewer, or with fewer labels) that a step trains on, as the model is before it."""
EARLY_STEPS = 100


@dataclass(frozen=True)
class Reported:
    """Trackers that see a training, and what it is called there. They change nothing of it."""

    to: Sequence[str]
    project: str
    name: str


def fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    training: Sft,
    seed: int,
    *,
    steps: int | None = None,
    prune: Prune | None = None,
    reported: Reported | None = None,
) -> TrainLog:
    """Train the model's trainable parameters in place, for the recipe's epochs or a number of steps (the schedule
    decays to zero at its end either way); leaves the model in eval mode. Deterministic for a seed on one machine.
    `reported`: trackers of transformers' trainer that get each step's loss, rate and gradient norm.

    Raises InputError where an optimizer needs a package that is not installed (the extra `lrfree`).
    """
    seed_all(seed)
    loss = _BatchLoss(tokenizer, training.loss, prune)
    freezer = _Freezer(model, training.grades) if training.grades else None
    log: list[list[float]] = []
    _reset_peak()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = _trainer_class()(
            model=model,
            args=_arguments(training, seed, steps, folder, reported),
            train_dataset=list(rows),
            data_collator=lambda part: {"rows": part},
            callbacks=[_logger(log, freezer)],
            optimizers=(_optimizer(model, training), None),
        )
        trainer.remove_callback(_printer())
        trainer.batch_loss = loss
        trainer.at_once = training.micro_batch_size or training.batch_size
        averager = _averager(model, training)
        if averager is not None:
            trainer.add_callback(averager)
        with _told(reported):
            trainer.train()
        if averager is not None:
            averager.put()
    model.eval()
    norms = [row[2] for row in log[:EARLY_STEPS]]
    return TrainLog(
        steps=int(trainer.state.global_step),
        label_tokens=loss.label_tokens,
        tokens=loss.tokens,
        seconds=round(time.perf_counter() - start, 3),
        peak_bytes=_peak_bytes(),
        early_grad_norm=sum(norms) / max(1, len(norms)),
        last_loss=log[-1][1] if log else float("nan"),
        frozen=freezer.frozen if freezer else 0,
        curve=_thinned(log),
    )


def trained(
    work: Work,
    rows: Sequence[Encoded],
    training: Sft,
    seed: int,
    *,
    steps: int | None = None,
    prune: Prune | None = None,
    reported: Reported | None = None,
) -> tuple[Any, TrainLog | None]:
    """The recipe's model (or its adapter, as the seed draws it) after `fit`; as it is, and no log, without rows."""
    model = load_trainable(work.model, work.recipe.model, work.recipe.lora, seed, training.mode)
    if not rows:
        return model, None
    tokenizer = work.model.tokenizer
    return model, fit(model, tokenizer, rows, training, seed, steps=steps, prune=prune, reported=reported)


def _logger(log: list[list[float]], freezer: "_Freezer | None") -> Any:
    """A callback that fills the curve's rows and lets GradES look at each step."""
    from transformers import TrainerCallback

    class Log(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                log.append([state.global_step, logs["loss"], float(logs.get("grad_norm", 0.0)), logs["learning_rate"]])

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            if freezer is not None and freezer.step(state.global_step / state.max_steps):
                control.should_training_stop = True

    return Log()


@dataclass
class _BatchLoss:
    """The loss of a batch, after pruning, with counts of what was trained on."""

    tokenizer: Any
    kind: str
    prune: Prune | None
    label_tokens: int = 0
    tokens: int = 0

    def __call__(self, model: Any, rows: list[Encoded]) -> torch.Tensor:
        if self.prune is not None:
            rows = self.prune(model, rows)
        batch = collate(rows, pad_id(self.tokenizer)).to(best_device())
        nll = token_losses(model, batch).nll
        self.label_tokens += int(batch.counts.sum())
        self.tokens += sum(len(row.input_ids) for row in rows)
        return example_means(weighted(nll, self.kind), batch).mean()


def _trainer_class() -> Any:
    from transformers import Trainer

    class SftTrainer(Trainer):  # type: ignore[misc]
        batch_loss: _BatchLoss
        at_once: int

        def training_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            """A batch in parts of at most `at_once` rows, each by its share of them: the parts are not to be seen."""
            model.train()
            rows, loss = inputs["rows"], torch.zeros((), device=best_device())
            for start in range(0, len(rows), self.at_once):
                part = rows[start : start + self.at_once]
                of_part = self.batch_loss(model, part) * (len(part) / len(rows))
                self.accelerator.backward(of_part)
                loss += of_part.detach()
            return loss

        def floating_point_ops(self, _inputs: Any) -> int:
            return 0

    return SftTrainer


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


@contextmanager
def _told(reported: Reported | None) -> Iterator[None]:
    """What trackers print goes to standard error: standard output is for what was asked."""
    if reported is None:
        yield
        return
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            if "wandb" in reported.to:  # its run would go on with the next training of this process
                import_module("wandb").finish()


def _arguments(training: Sft, seed: int, steps: int | None, folder: str, reported: Reported | None) -> Any:
    from transformers import TrainingArguments

    names = {"run_name": reported.name, "project": reported.project} if reported else {}
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=training.batch_size,
        num_train_epochs=training.epochs,
        max_steps=steps or -1,
        learning_rate=training.lr,
        lr_scheduler_type="constant" if training.optimizer != "adamw" else "linear",
        warmup_steps=training.warmup_ratio if training.optimizer == "adamw" else 0,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm if training.optimizer == "adamw" else 0.0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPS,
        seed=seed,
        data_seed=seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=list(reported.to) if reported else "none",
        **names,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=best_device().type == "cpu",
        dataloader_pin_memory=False,
    )


def _optimizer(model: Any, training: Sft) -> Any:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.lr, betas=BETAS, eps=EPS, weight_decay=training.weight_decay)
    try:
        if training.optimizer == "dog":
            from dog import DoG

            return DoG(parameters, weight_decay=training.weight_decay)
        from dadaptation import DAdaptAdam
    except ImportError:
        raise InputError(f"optimizer `{training.optimizer}` needs a package: pip install 'gradsift[lrfree]'") from None
    return DAdaptAdam(parameters, lr=1.0, betas=BETAS, eps=EPS, weight_decay=training.weight_decay, decouple=True)


def _averager(model: Any, training: Sft) -> Any:
    """DoG's guarantees are for the average of its iterates: polynomial decay averaging (γ = 8) of trainable weights."""
    if training.optimizer != "dog":
        return None
    from transformers import TrainerCallback

    parameters = [p for p in model.parameters() if p.requires_grad]
    means = [p.detach().clone() for p in parameters]
    gamma = 8.0

    class Average(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            share = 1 - (gamma + 1) / (gamma + state.global_step)
            for mean, parameter in zip(means, parameters, strict=True):
                mean.mul_(share).add_(parameter.detach(), alpha=1 - share)

        def put(self) -> None:
            with torch.no_grad():
                for mean, parameter in zip(means, parameters, strict=True):
                    parameter.copy_(mean)

    return Average()


class _Freezer:
    """GradES: after a share of the steps, freeze matrices whose summed absolute change in a step is below τ."""

    def __init__(self, model: Any, settings: GradES) -> None:
        self.settings, self.frozen = settings, 0
        self._live = {n: p for n, p in model.named_parameters() if p.requires_grad and p.ndim == 2}
        self._last = {n: p.detach().clone() for n, p in self._live.items()}

    def step(self, done: float) -> bool:
        """Look at one step's changes; True when nothing is left to train."""
        for name, parameter in list(self._live.items()):
            change = float((parameter.detach() - self._last[name]).abs().sum())
            self._last[name].copy_(parameter.detach())
            if done >= self.settings.alpha and change < self.settings.tau:
                parameter.requires_grad_(False)
                parameter.grad = None
                del self._live[name]
                self.frozen += 1
        return not self._live


def _thinned(log: list[list[float]], most: int = 200) -> list[list[float]]:
    """At most about 200 points of a curve, the last one included."""
    step = max(1, -(-len(log) // most))
    kept = log[::step]
    return kept if not log or kept[-1] is log[-1] else [*kept, log[-1]]


def _reset_peak() -> None:
    """Let the peak be that of what follows, where the system can (CUDA; Linux, which resets VmHWM)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def _peak_bytes() -> int:
    """Peak memory since the reset: of the GPU's allocator, or of the whole process (elsewhere than on Linux: ever)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError):
        peak = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.M)
        if peak:
            return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
