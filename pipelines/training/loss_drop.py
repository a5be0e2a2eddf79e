"""Losses of the pool before and after training on the target alone, for the score `loss_drop` (arXiv 2605.09404).

The adapter starts as the warm-up's does and trains on the target's rows with the recipe's `warmup` settings (the
defaults where there is no warm-up). Cost: that training and two forward passes over the pool. Nothing is kept but the
selection.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.store import Store
from gradsift.pipelines.model.batches import by_length, collate, pad_id
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import Loaded, best_device, load_lora
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Recipe, Training
from gradsift.pipelines.training.loop import train
from gradsift.pipelines.training.warmup import usable_chats

F64 = NDArray[np.float64]


def pool_losses(
    store: Store, recipe: Recipe, loaded: Loaded, target: Dataset, progress: Progress
) -> Callable[[Sequence[str]], tuple[F64, F64]]:
    """A function of [N] pool ids that gives their [N] losses before and after; nothing is done before it is called."""

    def measure(ids: Sequence[str]) -> tuple[F64, F64]:
        _, rows = usable_chats(store, loaded, recipe, list(target.example_ids))
        kept, pool = usable_chats(store, loaded, recipe, list(ids))
        if not rows or len(kept) != len(ids):
            raise InputError(f"target {target.name!r} or the pool has rows without a label token")
        model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
        before = _losses(model, loaded.tokenizer, pool, recipe.features.batch_tokens)
        label = f"training on {target.name} alone"
        train(model, loaded.tokenizer, rows, recipe.warmup or Training(), recipe.seed, progress=progress, label=label)
        return before, _losses(model, loaded.tokenizer, pool, recipe.features.batch_tokens)

    return measure


@torch.no_grad()
def _losses(model: Any, tokenizer: Any, rows: Sequence[Encoded], batch_tokens: int) -> F64:
    model.eval()
    out = np.zeros(len(rows))
    for part in by_length([len(row.input_ids) for row in rows], batch_tokens):
        batch = collate([rows[k] for k in part], pad_id(tokenizer)).to(best_device())
        out[part] = example_losses(model, batch).double().cpu().numpy()
    return out
