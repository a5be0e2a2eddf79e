"""Losses of the pool before and after training on the target alone, for the score `loss_drop` (arXiv 2605.09404).

The adapter starts as the warm-up's does and trains on the target's rows with the recipe's `warmup` settings (the
defaults where there is no warm-up). Cost: that training and two forward passes over the pool. Nothing is kept but the
selection.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Training

F64 = NDArray[np.float64]


def pool_losses(work: Work, target: Dataset) -> Callable[[Sequence[str]], tuple[F64, F64]]:
    """A function of [N] pool ids that gives their [N] losses before and after; nothing is done before it is called."""

    def measure(ids: Sequence[str]) -> tuple[F64, F64]:
        # They load torch, which takes seconds, and which no other score needs.
        from gradsift.pipelines.model.load import load_lora
        from gradsift.pipelines.model.losses import row_losses
        from gradsift.pipelines.training.loop import Report, train

        recipe, loaded = work.recipe, work.model
        _, rows = usable_chats(work, target.example_ids)
        kept, pool = usable_chats(work, ids)
        if not rows or len(kept) != len(ids):
            raise InputError(f"target {target.name!r} or the pool has rows without a label token")
        model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
        before = row_losses(model, loaded.tokenizer, pool, recipe.features.batch_tokens)
        report = Report(f"training on {target.name} alone", work.progress)
        train(model, loaded.tokenizer, rows, recipe.warmup or Training(), recipe.seed, report)
        return before, row_losses(model, loaded.tokenizer, pool, recipe.features.batch_tokens)

    return measure
