"""Warm-up checkpoints: one safetensors file each, with adapter and Adam moments keyed by parameter name.

Tensors are `adapter/<name>`, `exp_avg/<name>` and `exp_avg_sq/<name>`; the catalog row holds the step and the
mean learning rate of the interval that ended there. safetensors only: reading one runs no code.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save

from gradsift.datastore.engine import Row, Transaction
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.store import Store

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint. `mean_lr` is the mean over the interval's steps, after each step."""

    checkpoint_id: int
    ordinal: int
    step: int
    mean_lr: float
    digest: str
    shard_id: int


@dataclass(frozen=True)
class CheckpointState:
    """Tensors of a checkpoint by parameter name, f32."""

    adapter: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors


def tensors_digest(state: CheckpointState) -> str:
    """sha256 over names, shapes and bytes, independent of file layout."""
    sha = hashlib.sha256()
    for key, value in sorted(_flatten(state).items()):
        sha.update(f"{key}:{value.shape}\n".encode())
        sha.update(np.ascontiguousarray(value, "<f4").tobytes())
    return sha.hexdigest()


def commit(store: Store, warmup: str, ordinal: int, step: int, mean_lr: float, state: CheckpointState) -> None:
    """Commit a checkpoint of a warm-up run; does nothing if that ordinal exists already."""
    digest = tensors_digest(state)

    def record(db: Transaction, shard_id: int) -> bool:
        return bool(
            db.execute(
                "INSERT INTO checkpoint (warmup, ordinal, step, mean_lr, digest, shard_id) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (warmup, ordinal, step, mean_lr, digest, shard_id),
            )
        )

    commit_state(store, state, record)


def commit_state(
    store: Store,
    state: CheckpointState,
    record: Callable[[Transaction, int], bool | None],
    replaces: Sequence[int] = (),
) -> None:
    """Commit tensors as a file, with what `record` writes, in the place of shards that it `replaces` (see
    `Store.commit_file`)."""
    content = save(_flatten(state))
    store.commit_file(
        "checkpoint",
        ".safetensors",
        len(state.adapter),
        lambda handle: _write(handle, content),
        record,
        replaces=replaces,
    )


def _write(handle: BinaryIO, content: bytes) -> None:
    handle.write(content)


def _flatten(state: CheckpointState) -> Tensors:
    groups = {"adapter": state.adapter, "exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
    return {f"{g}/{name}": value for g, tensors in groups.items() for name, value in tensors.items()}


def listed(store: Store, warmup: str) -> list[Checkpoint]:
    """Committed checkpoints of a warm-up run, oldest first."""
    return [
        _checkpoint(row)
        for row in store.catalog.rows("SELECT * FROM checkpoint WHERE warmup=? ORDER BY ordinal", (warmup,))
    ]


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(row["checkpoint_id"], row["ordinal"], row["step"], row["mean_lr"], row["digest"], row["shard_id"])


def load(store: Store, checkpoint: Checkpoint) -> CheckpointState:
    """Tensors of a checkpoint; raises CorruptionError when the file is damaged."""
    try:
        with store.open(checkpoint.shard_id) as file:
            tensors = load_tensors(file.read())
    except SafetensorError as error:
        raise CorruptionError(f"shard {checkpoint.shard_id} is not a checkpoint: {error}") from error

    def group(prefix: str) -> Tensors:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return CheckpointState(group("adapter/"), group("exp_avg/"), group("exp_avg_sq/"))


def by_digest(store: Store, digest: str) -> Checkpoint:
    """The checkpoint with this tensor digest; raises InputError when the store has none."""
    row = store.catalog.one("SELECT * FROM checkpoint WHERE digest=? ORDER BY checkpoint_id", (digest,))
    if row is None:
        raise InputError(f"checkpoint {digest[:12]} is not in {store.root}; run the recipe again")
    return _checkpoint(row)
