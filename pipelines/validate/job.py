"""One run of a validation: an arm trained at a learning rate, measured on every target, and recorded.

The measure is the mean loss over all label tokens of the test rows (nats), with the loss of each row kept for the
intervals, and where a target has a metric, generated answers. An arm that diverges is recorded as such. A `Job` is a
piece of the run's work: it pickles, and whoever can open the store can do it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradsift.datastore import arms
from gradsift.datastore.arms import ArmResult, Measured, TrainLog
from gradsift.datastore.chats import Messages
from gradsift.datastore.identity import Spec, digest_ids, fingerprint
from gradsift.pipelines.model.chats import Chats, chats_of
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.losses import row_losses, token_mean
from gradsift.pipelines.model.pieces import let_go
from gradsift.pipelines.model.work import Order, Work
from gradsift.pipelines.recipe import Recipe, Sft
from gradsift.pipelines.training.prune import dynamic
from gradsift.pipelines.training.sft import Reported, trained
from gradsift.pipelines.training.spec import SFT_VERSION, training_spec
from gradsift.pipelines.validate.answers import answer
from gradsift.pipelines.validate.arms import QTUNING, Arm
from gradsift.pipelines.validate.harness import folder_digest, scores


@dataclass(frozen=True)
class Bench:
    """A set of rows to measure on: encoded, and as chats where answers are generated."""

    name: str
    digest: str
    rows: list[Encoded]
    chats: list[Messages]
    metric: str
    max_new_tokens: int


@dataclass(frozen=True)
class Benches:
    """What every run is measured on, by target."""

    tests: Mapping[str, Bench]
    vals: Mapping[str, Bench]


@dataclass(frozen=True)
class Job:
    """One training and its measures: an arm at a learning rate, for a number of steps or the recipe's epochs."""

    name: str
    order: Order
    arm: Arm
    lr: float
    steps: int | None
    benches: Benches
    rows = 1
    alone = True  # training draws from the process's generators

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.order.recipe

    def run(self, work: Work) -> None:
        """Do it and record it, unless that has been done."""
        let_go(work)  # a worker's model of gradients: training has its own
        run(work, self, chats_of(work))

    @property
    def training(self) -> Sft:
        """How it trains."""
        settings = self.recipe.validation
        return Sft(**(settings.model_dump(include=set(Sft.model_fields), exclude={"preset"}) | {"lr": self.lr}))


def key_of(work: Work, job: Job) -> str:
    """What the result is recorded under."""
    return fingerprint(_spec(work, job))


def recorded(work: Work, job: Job) -> ArmResult | None:
    """The result of a job that has been done, or None."""
    return arms.find(work.store, key_of(work, job), ArmResult)


def run(work: Work, job: Job, chats: Chats) -> ArmResult:
    """The recorded result of a job, made if it is not there."""
    done_before = recorded(work, job)
    if done_before is not None:
        return done_before
    arm, spec = job.arm, _spec(work, job)
    rows = chats.masked(arm.example_ids, arm.masks)
    model, log = _trained(work, job, rows)
    result = _finite(
        ArmResult(
            examples=len(rows),
            label_tokens=sum(row.n_label_tokens for row in rows),
            train=log,
            tests={name: _measured(work, model, bench) for name, bench in job.benches.tests.items()},
            vals={name: _loss(work, model, bench) for name, bench in job.benches.vals.items()},
            lm_eval=_harness(work, model, job),
        )
    )
    arms.save(work.store, fingerprint(spec), arm.name, ",".join(arm.targets), arm.seed, spec, result)
    return result


def _spec(work: Work, job: Job) -> Spec:
    """All that a job's result depends on."""
    settings, arm = job.recipe.validation, job.arm
    spec = {
        **training_spec(work),
        "sft": SFT_VERSION,
        "training": job.training.model_dump() if arm.example_ids else {"mode": job.training.mode},
        "steps": job.steps if arm.example_ids else None,
        "examples": digest_ids(arm.example_ids),
        "masks": fingerprint(arm.masks) if arm.masks else None,
        "qtuning": settings.qtuning.model_dump() if arm.name == QTUNING and settings.qtuning else None,
        "seed": arm.seed,
        "tests": {
            target: [bench.digest, bench.metric, bench.max_new_tokens] for target, bench in job.benches.tests.items()
        },
        "vals": {target: bench.digest for target, bench in job.benches.vals.items()},
    }
    if arm.example_ids and (settings.micro_batch_size or settings.batch_size) < settings.batch_size:
        spec["accumulation"] = 2  # before, parts of unlike size counted alike
    asked = settings.lm_eval
    if asked is None:
        return spec
    benchmarks = asked.model_dump(exclude={"include_path"}) | {"files": folder_digest(asked.include_path)}
    return {**spec, "lm_eval": benchmarks}


def _trained(work: Work, job: Job, rows: Sequence[Encoded]) -> tuple[Any, TrainLog | None]:
    settings, arm = job.recipe.validation, job.arm
    pruned = settings.qtuning if arm.name == QTUNING else None
    prune = dynamic(pruned, work.model.tokenizer) if pruned else None
    return trained(work, rows, job.training, arm.seed, steps=job.steps, prune=prune, reported=_reported(job))


def _reported(job: Job) -> Reported | None:
    """Which trackers see it train, as RECIPE/ARM/SEED: with the targets of an arm that is for some, and the rate where
    several are tried."""
    settings, arm, recipe = job.recipe.validation, job.arm, job.recipe.name
    if not settings.report_to:
        return None
    some = set(arm.targets) != set(job.benches.tests)
    parts = [recipe, arm.name, *(["+".join(arm.targets)] if some else []), str(arm.seed)]
    parts += [f"{job.lr:g}"] if len(settings.lrs) > 1 else []
    return Reported(settings.report_to, recipe, "/".join(parts))


def _measured(work: Work, model: Any, bench: Bench) -> Measured:
    tokenizer, recipe = work.model.tokenizer, work.recipe
    items = row_losses(model, tokenizer, bench.rows, recipe.features.batch_tokens)
    measured = Measured(token_mean(items, bench.rows), items.tolist(), [row.n_label_tokens for row in bench.rows])
    if bench.metric == "loss":
        return measured
    answers = answer(model, tokenizer, bench.chats, bench.metric, bench.max_new_tokens, recipe.encoding.max_length)
    return replace(
        measured,
        scores=answers.scores,
        score=float(np.mean(answers.scores)),
        response_tokens=float(np.mean(answers.lengths)),
    )


def _loss(work: Work, model: Any, bench: Bench) -> float:
    items = row_losses(model, work.model.tokenizer, bench.rows, work.recipe.features.batch_tokens)
    return token_mean(items, bench.rows)


def _harness(work: Work, model: Any, job: Job) -> dict[str, float] | None:
    asked = job.recipe.validation.lm_eval
    if asked is None:
        return None
    return scores(model, work.model.tokenizer, asked.tasks, asked.include_path, asked.limit)


def _finite(result: ArmResult) -> ArmResult:
    """The result; where training diverged, without its figures and marked so."""
    numbers = [measured.loss for measured in result.tests.values()] + list(result.vals.values())
    if not np.isfinite(numbers).all():
        return replace(result, diverged=True, tests={}, vals={}, train=None)
    if result.train is None:
        return result

    def known(value: float | None) -> float | None:
        return value if value is not None and np.isfinite(value) else None

    log = result.train
    curve = [[known(value) for value in point] for point in log.curve]
    log = replace(log, curve=curve, early_grad_norm=known(log.early_grad_norm), last_loss=known(log.last_loss))
    return replace(result, train=log)
