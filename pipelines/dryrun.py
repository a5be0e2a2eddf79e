"""What a run would do: rows, bytes and minutes, from reading the sources and timing one real batch."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datastore.examples import BadRow, Example
from pipelines import model as m
from pipelines import recipe as r
from pipelines.batches import collate, pad_id
from pipelines.capture import per_example_gradients
from pipelines.encode import encode
from pipelines.sources import read_source

SAMPLE = 256
PROBE_ROWS = 8
ROW_OVERHEAD_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """Estimates for an empty store; work that a store holds already is not done again."""

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


def plan_run(recipe: r.Recipe, store: Path) -> Plan:
    """Read the sources, encode a sample and time one forward and backward. Writes nothing."""
    loaded = m.open_model(recipe.model)
    good, bad = _read(recipe)
    step = max(1, len(good) // SAMPLE)
    chats = [encode(loaded.tokenizer, e.messages, recipe.encoding.max_length) for e in good[::step]]
    usable = [c for c in chats if c.usable] or chats
    share, tokens = len(usable) / max(1, len(chats)), _mean([len(c.input_ids) for c in usable])
    speed = _probe(recipe, loaded, usable[:PROBE_ROWS]) if any(c.usable for c in chats) else float("nan")
    val_rows = sum(len([x for x in read_source(t.val) if isinstance(x, Example)]) for t in recipe.targets.values())
    rows = len(good) * share
    warmup_rows = min(len(good), max(recipe.warmup.fraction * len(good), recipe.warmup.min_examples))
    minutes = {
        "warmup": warmup_rows * recipe.warmup.epochs * tokens / speed / 60,
        "gradients": (rows + val_rows) * recipe.warmup.epochs * tokens / speed / 60,
    }
    arms = 0
    if recipe.validate_ is not None:
        chosen = recipe.select.examples or (recipe.select.fraction or 0) * rows
        arms = len(recipe.validate_.seeds) * (1 + len(recipe.validate_.arms)) * len(recipe.targets)
        minutes["validate"] = arms * chosen * recipe.validate_.epochs * tokens / speed / 60
    width = recipe.features.projector.dim * (1 if recipe.features.row_dtype == "int8" else 2)
    needed = int((rows + val_rows) * recipe.warmup.epochs * (width + ROW_OVERHEAD_BYTES))
    return Plan(
        len(good),
        len(bad),
        share,
        tokens,
        recipe.warmup.epochs,
        arms,
        needed,
        shutil.disk_usage(_existing(store)).free,
        speed,
        minutes,
    )


def _read(recipe: r.Recipe) -> tuple[list[Example], list[BadRow]]:
    rows = [row for source in recipe.pool for row in read_source(source, recipe.seed)]
    good = list({x.example_id: x for x in rows if isinstance(x, Example)}.values())
    return good, [x for x in rows if isinstance(x, BadRow)]


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


def _existing(path: Path) -> Path:
    for folder in (path, *path.resolve().parents):
        if folder.exists():
            return folder
    return Path(tempfile.gettempdir())


def _probe(recipe: r.Recipe, loaded: m.Loaded, chats: list[Any]) -> float:
    """Real tokens per second of one forward and backward, the second time (the first warms up)."""
    model = m.load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
    batch = collate(chats, pad_id(loaded.tokenizer)).to(m.device())
    seconds = 1.0
    for _ in range(2):
        start = time.perf_counter()
        losses = per_example_gradients(model, batch, lambda _name, _gradient: None)
        torch.isfinite(losses).all().item()  # waits for the device
        seconds = time.perf_counter() - start
    return float(batch.attention_mask.sum()) / seconds
