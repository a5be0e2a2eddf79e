"""Batches: chats of similar length padded together, and the mean loss of each over its label tokens.

Legend: B examples, T tokens, L labelled positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipelines.encode import Encoded


@dataclass(frozen=True)
class Batch:
    """Padded tokens. `positions` counts real tokens only, so that padding on either side gives equal results."""

    input_ids: torch.Tensor  # [B, T] int64
    attention_mask: torch.Tensor  # [B, T] int64
    positions: torch.Tensor  # [B, T] int64
    labelled: torch.Tensor  # [B, T] bool

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(t.to(device) for t in vars(self).values()))


def collate(rows: Sequence[Encoded], pad_id: int, side: Literal["right", "left"] = "right") -> Batch:
    """Pad rows to the longest of them."""
    width = max(len(row.input_ids) for row in rows)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    mask, labelled = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        size = len(row.input_ids)
        part = slice(0, size) if side == "right" else slice(width - size, width)
        ids[number, part] = torch.tensor(row.input_ids)
        mask[number, part] = 1
        labelled[number, part] = torch.tensor(row.labelled)
    return Batch(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), labelled)


def pad_id(tokenizer: Any) -> int:
    """A token to pad with; it is masked, so any will do."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of similar length whose padded size stays within `batch_tokens`.

    A row longer than the budget gets a batch of its own. The order is a function of the lengths alone.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def token_losses(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats of every labelled token of a batch, and the example it belongs to ([L] both).

    The head sees only the positions that predict a labelled token: a hook on it picks them from the hidden
    states, so that the [B, T, V] logits never exist. Exact: a head acts on each position alone.
    """
    rows, before = batch.labelled[:, 1:].nonzero(as_tuple=True)  # position t predicts token t + 1
    head = model.get_output_embeddings()

    def pick(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (inputs[0][rows, before].unsqueeze(0),)

    handle = head.register_forward_pre_hook(pick)
    try:
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.positions,
            use_cache=False,
        ).logits
    finally:
        handle.remove()
    wanted = batch.input_ids[rows, before + 1]
    losses = torch.nn.functional.cross_entropy(logits[0].float(), wanted, reduction="none")
    return losses, rows


def example_losses(model: Any, batch: Batch) -> torch.Tensor:
    """[B] mean loss of each example over its label tokens; every row must have a label."""
    losses, rows = token_losses(model, batch)
    size = len(batch.input_ids)
    counts = torch.bincount(rows, minlength=size)
    return losses.new_zeros(size).index_add(0, rows, losses) / counts
