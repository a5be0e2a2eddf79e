"""How fast the stages of a run are here, measured on a few of its own rows: each by the code that the stage runs.

Nothing is kept. A few seconds for a small model; for a large one, about a dozen batches.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.datastore.chats import Messages
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.generate import BATCH_TOKENS, greedy
from gradsift.pipelines.model.load import adapter_arrays, load_base, load_lora, load_trainable
from gradsift.pipelines.model.losses import row_losses
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Sft, Training
from gradsift.pipelines.training.loop import Report, train
from gradsift.pipelines.training.sft import fit

LENGTHS = (0.05, 0.5, 0.95)  # quantiles of the rows' lengths that are measured
STEP_SECONDS = 2.0  # of one training step, about: fewer rows are taken where a whole batch would be slower
STILL = 1e-9  # a learning rate that leaves the model as it is


@dataclass(frozen=True)
class Curve:
    """Seconds of a row by its tokens, as measured at some lengths: between them on a line, beyond the last in
    proportion."""

    tokens: Sequence[float]
    seconds: Sequence[float]

    def mean(self, lengths: Sequence[int]) -> float:
        """Mean seconds of rows of these lengths, 0 of none."""
        if not lengths or not self.tokens:
            return 0.0
        given = np.asarray(lengths, np.float64)
        on_line = np.interp(given, self.tokens, self.seconds)
        return float(np.mean(on_line * np.maximum(1.0, given / self.tokens[-1])))


NO_CURVE = Curve((), ())


@dataclass(frozen=True)
class Pace:
    """Seconds of training: of one row in a step, and of what a training run takes beside its steps, the first time in a
    process and later; and of loading the model that is trained."""

    row: float = 0.0
    first: float = 0.0
    start: float = 0.0
    load: float = 0.0


@dataclass(frozen=True)
class Speeds:
    """What was measured, in seconds, zero where the recipe needs nothing of the kind: `first_load` of a model in a
    process (imports and looking at the model too) and a `load` later; gradient rows; a warm-up row; an arm's training;
    a row's forward pass; and the `answers` of all test rows of a run."""

    first_load: float = 0.0
    load: float = 0.0
    gradient: Curve = NO_CURVE
    warmup_row: float = 0.0
    arm: Pace = Pace()
    forward: Curve = NO_CURVE
    answers: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What the probe saw of the model: captured layers, hidden size, and what there is to say of it."""

    layers: int = 0
    hidden: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """Test rows of which a run generates answers: the chats, and the most tokens of one."""

    chats: Sequence[Messages]
    most: int


def probe(
    work: Work, pool: Sequence[Encoded], tests: Sequence[Encoded], answers: Sequence[Answers], *, trains: bool
) -> tuple[Speeds, Seen]:
    """Measure what a recipe's run does with these usable rows: gradients and warm-up where it needs them, validation
    (on `tests`) where it `trains` arms."""
    recipe, tokenizer = work.recipe, work.model.tokenizer
    start = time.perf_counter()
    model = _fresh(work)
    first = time.perf_counter() - start
    load = warmup_row = 0.0
    gradient, seen = NO_CURVE, Seen()
    if recipe.needs_rows:
        start = time.perf_counter()
        extractor = Extractor(make_job(work, Checkpoint(0, 0, 1, 1.0, "", 0), _state(model)))
        load = time.perf_counter() - start
        model = extractor.model
        plain = recipe.needs_plain and recipe.features.transform != "sgd"

        def rows(part: Sequence[Encoded]) -> None:
            extractor.extract([str(k) for k in range(len(part))], part, plain=plain)

        gradient = measured(rows, pool, extractor.batch_tokens)
        hidden = int(model.config.get_text_config().hidden_size)
        seen = Seen(len(extractor.layers), hidden, tuple(extractor.fit.notes()))
        if recipe.warmup is not None:
            warmup_row = _warmup_row(model, tokenizer, pool, recipe.warmup, gradient)
    forward, arm, generated = NO_CURVE, Pace(), 0.0
    if trains and tests:
        batch = recipe.features.batch_tokens
        forward = measured(lambda part: row_losses(model, tokenizer, part, batch), tests, batch)
        arm = _pace(work, pool, 3 * forward.mean([len(row.input_ids) for row in pool]))
        generated = sum(_generation(work, model, part) for part in answers)
    return Speeds(first, load, gradient, warmup_row, arm, forward, generated), seen


def measured(run: Callable[[Sequence[Encoded]], object], rows: Sequence[Encoded], batch_tokens: int) -> Curve:
    """Seconds of a row at some of the rows' lengths, in batches as a stage makes them: rows of like length, up to
    `batch_tokens`."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    points: dict[float, float] = {}
    for share in (LENGTHS[0], *LENGTHS):  # the first batch of all is slower
        at = round(share * (len(ordered) - 1))
        count = max(1, batch_tokens // len(ordered[at].input_ids))
        near = ordered[max(0, at - count + 1) : at + 1]
        part = [near[k % len(near)] for k in range(count)]
        points[float(np.mean([len(row.input_ids) for row in part]))] = timed(lambda: run(part)) / count
    tokens = sorted(points)
    return Curve(tokens, [points[length] for length in tokens])


def timed(action: Callable[[], object], times: int = 3, enough: float = 0.5) -> float:
    """Mean seconds of an action, done up to `times` times until `enough` seconds have passed."""
    start, done = time.perf_counter(), 0
    while done < times and (done == 0 or time.perf_counter() - start < enough):
        action()
        done += 1
    return (time.perf_counter() - start) / done


def _fresh(work: Work) -> Any:
    recipe = work.recipe
    if recipe.needs_rows and recipe.warmup is None and recipe.features.parameters == "linear":
        return load_base(work.model, recipe.model)
    return load_lora(work.model, recipe.model, recipe.lora, recipe.seed)


def _state(model: Any) -> CheckpointState:
    """The adapter as it is, and moments of no meaning."""
    if not any(p.requires_grad for p in model.parameters()):
        return CheckpointState({}, {}, {})
    adapter = adapter_arrays(model)
    ones = {name: np.ones_like(values) for name, values in adapter.items()}
    return CheckpointState(adapter, ones, ones)


def _some(rows: Sequence[Encoded], count: int) -> list[Encoded]:
    return [rows[k % len(rows)] for k in range(count)]


def _size(batch: int, row_seconds: float) -> int:
    """Rows of a step that is measured."""
    return max(1, min(batch, int(STEP_SECONDS / max(row_seconds, 1e-6))))


def _warmup_row(model: Any, tokenizer: Any, rows: Sequence[Encoded], training: Training, gradient: Curve) -> float:
    size = _size(training.batch_size, gradient.mean([len(row.input_ids) for row in rows]))
    settings = Training(**(training.model_dump(include=set(Training.model_fields)) | _still(size)))
    stamps: list[float] = []

    def step(stage: str, done: int, total: int | None) -> None:  # noqa: ARG001 - a Progress
        stamps.append(time.perf_counter())

    train(model, tokenizer, _some(rows, 4 * size), settings, 0, Report("a probe", step))
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1) / size


def _still(size: int) -> dict[str, float]:
    return {"epochs": 1, "batch_size": size, "lr": STILL}


def _pace(work: Work, rows: Sequence[Encoded], row_seconds: float) -> Pace:
    """Three trainings: the first in this process, another, and a longer one."""
    recipe, tokenizer = work.recipe, work.model.tokenizer
    settings = recipe.validation
    start = time.perf_counter()
    model = load_trainable(work.model, recipe.model, recipe.lora, recipe.seed, settings.mode)
    load = time.perf_counter() - start
    size = _size(settings.batch_size, row_seconds)
    own = settings.model_dump(include=set(Sft.model_fields), exclude={"preset", "grades"})
    training = Sft(**(own | _still(size)))

    def seconds(steps: int) -> float:
        return float(fit(model, tokenizer, _some(rows, 8 * size), training, 0, steps=steps).seconds)

    first, again = seconds(1), seconds(1)
    steps = 9 if again < STEP_SECONDS else 4
    step = max(1e-6, (seconds(steps) - again) / (steps - 1))
    return Pace(step / size, max(0.0, first - step), max(0.0, again - step), load)


def _generation(work: Work, model: Any, answers: Answers) -> float:
    """Seconds of the answers of all these chats, if each batch has one that is as long as it may be."""
    tokenizer, most = work.model.tokenizer, answers.most
    length = work.recipe.encoding.max_length
    never = [len(tokenizer) + 1_000_000]  # no token: every answer is as long as it may be
    prompts = [chat[:-1] for chat in answers.chats]
    mean = np.mean([_tokens(tokenizer, chat, length) for chat in prompts[:32]])
    at_once = max(1, min(len(prompts), int(BATCH_TOKENS / (mean + most))))

    def seconds(new: int) -> float:
        part = prompts[:at_once]
        return timed(lambda: greedy(model, tokenizer, part, new, length, batch_tokens=1 << 30, stops=never), 2, 0.2)

    few, more = min(4, most), min(12, most)
    short = seconds(few)
    token = max(0.0, (seconds(more) - short) / (more - few)) if more > few else 0.0
    return len(prompts) / at_once * (short + (most - few) * token)


def _tokens(tokenizer: Any, chat: Messages, most: int) -> int:
    return min(most, sum(len(tokenizer(turn["content"]).input_ids) + 4 for turn in chat))
