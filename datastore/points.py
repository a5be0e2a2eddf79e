"""The checkpoints of a run that is over, as points at which its gradient rows are: which spaces hold the pool's rows,
those of the plain gradient, and those that questions are of."""

from dataclasses import dataclass

from gradsift.datastore import checkpoints, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store

PLAIN = "sgd"  # the transform of rows that are the gradient itself
NO_LOSS = {"ok", "zero", "no_labels", "unrenderable"}  # statuses of a space that lacks no row that another one has


@dataclass(frozen=True)
class Point:
    """Rows of one checkpoint: the pool's space that is searched, the space that questions are of."""

    space: int
    asked: int
    ordinal: int


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


def plain_space(store: Store, train: int) -> int | None:
    """The space of plain rows that go with a space of the pool's: itself where that is plain, None where none is."""
    spec = features.space_spec(store, train)
    if spec["transform"] == PLAIN:
        return train
    return features.space_by_fingerprint(store, fingerprint({**spec, "transform": PLAIN, "signals": None}))


def searched(store: Store, last: Run, ordinals: list[int | None], pool: int | None) -> list[Point]:
    """Where questions to a run's rows are asked, at these checkpoints (None: the last): of the pool's plain rows, where
    there are some of all members of the pool (None: of all rows) at each of them, else of its own rows.

    Raises as `space_at`.
    """
    spaces = [space_at(last, ordinal) for ordinal in ordinals]
    asked = {row.checkpoint: row.space_id for row in last.result.rows if row.role == "target"}
    plain = [_whole_plain(store, last, space, pool) for space, _ in spaces]
    return [
        Point(p if p is not None and None not in plain else space, asked[ordinal], ordinal)
        for p, (space, ordinal) in zip(plain, spaces, strict=True)
    ]


def is_plain(store: Store, point: Point) -> bool:
    """Whether the pool's rows are as a question is: of the same transform and loss."""
    pool, asked = (features.space_spec(store, space) for space in (point.space, point.asked))
    return bool((pool["transform"], pool["loss"]) == (asked["transform"], asked["loss"]))


def _whole_plain(store: Store, last: Run, train: int, pool: int | None) -> int | None:
    plain = plain_space(store, train)
    if plain is None or _is_whole(store, last, plain, pool) or features.covers(store, train, plain, pool):
        return plain
    return None


def _is_whole(store: Store, last: Run, space: int, pool: int | None) -> bool:
    """Whether a run left a plain row of each member of its pool that can have one, and none has left since: all that
    a short question can tell. `features.covers` looks at every row."""
    for row in last.result.rows:
        if (row.role, row.space_id, row.dataset_id) == ("plain", space, pool) and not row.statuses.keys() - NO_LOSS:
            return row.statuses.get("ok") == features.count(store, space)
    return False
