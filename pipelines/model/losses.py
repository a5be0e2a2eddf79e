"""Losses of chats, without gradients. Legend: I chats."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.pipelines.model.batches import by_length, collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses

F64 = NDArray[np.float64]


@torch.no_grad()
def row_losses(model: Any, tokenizer: Any, rows: Sequence[Encoded], batch_tokens: int) -> F64:
    """[I] mean loss of each chat over its label tokens, in nats; leaves the model in eval mode. One forward each."""
    model.eval()
    losses = np.zeros(len(rows))
    for part in by_length([len(row.input_ids) for row in rows], batch_tokens):
        batch = collate([rows[k] for k in part], pad_id(tokenizer)).to(best_device())
        losses[part] = example_losses(model, batch).double().cpu().numpy()
    return losses


def token_mean(losses: F64, rows: Sequence[Encoded]) -> float:
    """Mean over all label tokens of the chats, in nats per token, from the mean of each."""
    return float(np.average(losses, weights=[row.n_label_tokens for row in rows]))
