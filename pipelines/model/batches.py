"""Batches: chats of similar length padded together, with the places of their label tokens.

Legend: B examples, T tokens, L labelled positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from gradsift.pipelines.model.encode import Encoded


@dataclass(frozen=True)
class Batch:
    """Padded tokens. `positions` counts real tokens only, so that padding on either side gives equal results.

    The label tokens are listed here, on the CPU, so that a GPU need not be asked how many there are.
    """

    input_ids: torch.Tensor  # [B, T] int64
    attention_mask: torch.Tensor  # [B, T] int64
    positions: torch.Tensor  # [B, T] int64
    rows: torch.Tensor  # [L] int64: the example of each label token
    before: torch.Tensor  # [L] int64: the position that predicts it, one before its own
    wanted: torch.Tensor  # [L] int64: the token itself
    slots: torch.Tensor  # [L] int64: the number of each label token within its example, from 0
    counts: torch.Tensor  # [B] int64: label tokens of each example
    widest: int  # the largest of `counts`
    padding: Literal["right", "left"] = "right"

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; copies to a GPU are asynchronous, from pinned memory."""
        if device.type == "cpu":
            return self
        tensors: dict[str, Any] = {k: t for k, t in vars(self).items() if torch.is_tensor(t)}
        return replace(self, **{k: t.pin_memory().to(device, non_blocking=True) for k, t in tensors.items()})


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
    owner, before = labelled[:, 1:].nonzero(as_tuple=True)  # position t predicts token t + 1
    counts = torch.bincount(owner, minlength=len(rows))
    slots = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    positions, wanted = (mask.cumsum(1) - 1).clamp(min=0), ids[owner, before + 1]
    return Batch(ids, mask, positions, owner, before, wanted, slots, counts, int(counts.max()), side)


def pad_id(tokenizer: Any) -> int:
    """A token to pad with; it is masked, so any will do."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of similar length whose padded size stays within `batch_tokens`, longest first.

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
