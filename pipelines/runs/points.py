"""The checkpoints of a run that is over, as points at which its gradient rows are. Loads no model."""

from gradsift.datastore import checkpoints, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store


def space_at(last: Run, checkpoint: int | None) -> tuple[int, int]:
    """(the pool's feature space, its checkpoint) of a run, the last checkpoint where none is asked for. Raises
    InputError for an unknown one, and for a run without gradients."""
    ordinals = [row.checkpoint for row in last.result.pool_rows]
    if not ordinals:
        raise InputError("the store's last run computed no gradients; run a recipe whose method needs them")
    wanted = max(ordinals) if checkpoint is None else checkpoint
    if wanted not in ordinals:
        raise InputError(f"there is no checkpoint {wanted}; this store has {sorted(ordinals)}")
    return next(row.space_id for row in last.result.pool_rows if row.checkpoint == wanted), wanted


def mean_lr(store: Store, space_id: int) -> float:
    """Mean learning rate of the checkpoint that a space is of."""
    return checkpoints.by_digest(store, features.space_spec(store, space_id)["checkpoint"]).mean_lr
