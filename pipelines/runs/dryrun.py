"""What a run would do: rows, bytes and minutes, from reading the sources and timing one real batch."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gradsift.datastore.chats import chars
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Example
from gradsift.pipelines.features.capture import backward, watched_layers
from gradsift.pipelines.features.fit import fit
from gradsift.pipelines.memory import default_budget
from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.encode import encode, template_notes
from gradsift.pipelines.model.labels import check_labels, measured_sets
from gradsift.pipelines.model.load import Loaded, best_device, load_base, load_lora, open_model
from gradsift.pipelines.model.positions import check_length
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Features, Recipe
from gradsift.pipelines.runs.held import Held, held_by
from gradsift.pipelines.select.need import planned, refused

SAMPLE = 256
PROBE_ROWS = 8
TEXT_COPIES = 3  # in the store, in exports, and while one is written
ROW_OVERHEAD_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """Estimates, before screening. Checkpoints that the store keeps and rows at them are not computed again; other work
    that it holds (plain rows alone, arms) is counted as if it did not. Without gradients there are no checkpoints, and
    the bytes are those of text; without a model there are no minutes either."""

    pool_rows: int
    pool_quarantined: int
    usable_share: float
    mean_tokens: float
    checkpoints: int
    arms: int
    bytes_needed: int
    bytes_free: int
    tokens_per_second: float
    minutes: dict[str, float]
    notes: list[str] = field(default_factory=list)  # of the model's weights in the rows, of methods that do not fit
    checkpoints_kept: int = 0
    rows_to_compute: int = 0  # of pool and targets, at all checkpoints
    rows_kept: int = 0  # of pool and targets, at all checkpoints, that the store has
    memory: dict[str, int] = field(default_factory=dict)  # bytes that each method will hold, and what it may


def _label_notes(recipe: Recipe, loaded: Loaded, vals: Mapping[str, Sequence[Example]]) -> list[str]:
    """What a run would say of targets that lose their labels; raises InputError where it would refuse them."""
    sets = {}
    for name, which in measured_sets(recipe):
        test = recipe.targets[name].test
        rows = vals[name] if which == "val" or test is None else read_source(test, recipe.seed)
        sets[f"targets.{name}.{which}"] = [row.messages for row in rows if isinstance(row, Example)]
    return check_labels(loaded.tokenizer, recipe.encoding, sets)


@dataclass(frozen=True)
class Probe:
    """What one real batch tells: real tokens per second, captured layers, hidden size."""

    tokens_per_second: float
    layers: int
    hidden: int
    notes: tuple[str, ...] = ()


def plan_run(recipe: Recipe, store: Path, new_warmup: bool | None = None) -> Plan:
    """Read the sources, encode a sample and time one forward and backward. Writes nothing. `new_warmup` as `curate` has
    it."""
    good, bad = _read(recipe)
    free = shutil.disk_usage(_existing(store)).free
    text = TEXT_COPIES * sum(chars(example.messages) for example in good)
    wanted = {
        name: [row for row in read_source(target.val, recipe.seed) if isinstance(row, Example)]
        for name, target in recipe.targets.items()
    }
    targets = {name: (len(rows), len({row.subtask for row in rows})) for name, rows in wanted.items()}
    if recipe.lm is None:
        memory, notes = _memory(recipe, len(good), targets)
        return Plan(len(good), len(bad), 1.0, 0.0, 0, 0, text, free, 0.0, {}, notes, memory=memory)
    loaded = open_model(recipe.model)
    check_length(recipe, loaded)
    lost = _label_notes(recipe, loaded, wanted)
    step = max(1, len(good) // SAMPLE)
    chats = [
        encode(loaded.tokenizer, one.messages, recipe.encoding.max_length, recipe.encoding.truncation)
        for one in good[::step]
    ]
    if recipe.needs_rows and chats and not any(chat.usable for chat in chats):
        counts = ", ".join(f"{n} {status}" for status, n in Counter(chat.status for chat in chats).items())
        raise InputError(
            f"none of {len(chats)} rows of the pool has a label ({counts}): raise encoding.max_length, or look at the "
            "chat template in the model's folder"
        )
    usable = [chat for chat in chats if chat.usable] or chats
    share, tokens = len(usable) / max(1, len(chats)), _mean([len(chat.input_ids) for chat in usable])
    probe = (
        _probe(recipe, loaded, usable[:PROBE_ROWS]) if any(chat.usable for chat in chats) else Probe(float("nan"), 0, 0)
    )
    speed = probe.tokens_per_second
    val = {row.example_id for rows in wanted.values() for row in rows}
    rows = len(good) * share
    checkpoints, minutes = int(recipe.needs_rows), {}
    held = Held()
    if recipe.needs_rows and recipe.warmup is not None:
        checkpoints = recipe.warmup.epochs
        held = held_by(store, recipe, loaded, good, sorted(val), new_warmup)
    if recipe.needs_rows and recipe.warmup is not None and held.checkpoints < checkpoints:
        warmup_rows = min(len(good), max(recipe.warmup.fraction * len(good), recipe.warmup.min_examples))
        minutes["warmup"] = warmup_rows * (checkpoints - held.checkpoints) * tokens / speed / 60
    of_pool, of_targets = len(good) * checkpoints - held.pool_rows, len(val) * checkpoints - held.target_rows
    computed = round(of_pool * share) + of_targets
    if recipe.needs_rows:
        minutes["gradients"] = computed * tokens / speed / 60
    arms = 0
    if recipe.validate_ is not None and recipe.selecting is not None:
        chosen = recipe.select.examples or (recipe.select.fraction or 0) * rows
        arms = len(recipe.validate_.seeds) * (1 + len(recipe.validate_.arms)) * len(recipe.targets)
        minutes["validate"] = arms * chosen * recipe.validate_.epochs * tokens / speed / 60
    plain = recipe.needs_plain and recipe.features.transform != "sgd"
    label_tokens = _mean([chat.n_label_tokens for chat in usable])
    width = row_bytes(recipe.features, probe, label_tokens, plain)
    needed = int(computed * width) if recipe.needs_rows else text
    memory, refusals = _memory(recipe, int(rows), targets, label_tokens, probe.layers)
    return Plan(
        len(good),
        len(bad),
        share,
        tokens,
        checkpoints,
        arms,
        needed,
        free,
        speed,
        minutes,
        [*template_notes(loaded.tokenizer), *lost, *probe.notes, *refusals],
        held.checkpoints,
        computed,
        held.pool_rows + held.target_rows,
        memory,
    )


def _memory(
    recipe: Recipe, rows: int, targets: Mapping[str, tuple[int, int]], label_tokens: float = 0.0, layers: int = 1
) -> tuple[dict[str, int], list[str]]:
    """{what: bytes} that the recipe's methods will hold, and what they may; and which of them would be refused."""
    plan, allowed = planned(recipe, rows, targets, label_tokens, layers), recipe.memory or default_budget()
    needs = {what: int(need) for what, (need, _, _) in plan.items()}
    return {**needs, "allowed": allowed}, [f"{what} would be refused: {why}" for what, why in refused(plan, allowed)]


def _read(recipe: Recipe) -> tuple[list[Example], list[BadRow]]:
    rows = [row for source in recipe.pool for row in read_source(source, recipe.seed)]
    good = list({row.example_id: row for row in rows if isinstance(row, Example)}.values())
    return good, [row for row in rows if isinstance(row, BadRow)]


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


def _existing(path: Path) -> Path:
    for folder in (path, *path.resolve().parents):
        if folder.exists():
            return folder
    return Path(tempfile.gettempdir())


def row_bytes(features: Features, probe: Probe, label_tokens: float, plain: bool = False) -> float:
    """Mean bytes of a stored row with its signals, and of the plain row beside it."""
    dims = features.projector.dim * (probe.layers if features.projector.per_module else 1)
    vector = ROW_OVERHEAD_BYTES + dims * {"int4": 0.5, "int8": 1, "f16": 2}[features.row_dtype]
    return (
        vector * (2 if plain else 1)
        + 4 * label_tokens * features.signals.tokens
        + 2 * probe.hidden * features.signals.embedding
        + 4 * probe.layers * features.signals.module_norms
    )


def _probe(recipe: Recipe, loaded: Loaded, chats: list[Any]) -> Probe:
    """Speed of one forward and backward, the second time (the first warms up)."""
    features = recipe.features
    if recipe.warmup is None and features.parameters == "linear":
        model = load_base(loaded, recipe.model)
    else:
        model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
    layers = watched_layers(model, features.parameters, features.layers)
    found = fit(model, layers)
    batch = collate(chats if found.together else chats[:1], pad_id(loaded.tokenizer)).to(best_device())
    seconds = 1.0
    for _ in range(2):
        start = time.perf_counter()
        losses, _ = backward(model, batch, layers, lambda _name, _delta, _x: None, by_autograd=found.by_autograd)
        torch.isfinite(losses).all().item()  # waits for the device
        seconds = time.perf_counter() - start
    tokens, hidden = float(batch.attention_mask.sum()), int(model.config.get_text_config().hidden_size)
    return Probe(tokens / seconds, len(layers), hidden, tuple(found.notes()))
