"""Feature rows: how a vector is stored, and the Arrow shard it lives in.

A row keeps a unit vector and the norm it had: unit × norm is the raw projected gradient. `int8` rows hold
q = round(127·u/max|u|) with scale 1/‖q‖ (error of a cosine below the projection's own 1/√D); `f16` rows hold u with
scale 1. Legend: N rows, D projected dims.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RowDtype = Literal["int8", "f16"]
_ARROW: dict[str, pa.DataType] = {"int8": pa.int8(), "f16": pa.float16()}
Array = NDArray[np.generic]


@dataclass(frozen=True)
class FeatureBlock:
    """Rows of one shard, or a part of one. `vectors` is a view of the mapped file: do not write to it."""

    example_ids: list[str]
    vectors: Array  # [N, D] int8 or float16
    scale: NDArray[np.float32]  # [N]
    norm: NDArray[np.float32]  # [N] length of the projected gradient before normalisation
    grad_norm: NDArray[np.float32]  # [N] length of the (transformed) gradient before projection
    loss: NDArray[np.float32]  # [N] mean over label tokens, nats
    n_label_tokens: NDArray[np.int32]  # [N]

    def unit(self) -> NDArray[np.float32]:
        """[N, D] float32 unit rows (up to the rounding of the stored dtype)."""
        return self.vectors.astype(np.float32) * self.scale[:, None]

    def take(self, keep: NDArray[np.int64]) -> "FeatureBlock":
        """The rows at the given positions."""
        return FeatureBlock(
            [self.example_ids[i] for i in keep],
            self.vectors[keep],
            self.scale[keep],
            self.norm[keep],
            self.grad_norm[keep],
            self.loss[keep],
            self.n_label_tokens[keep],
        )


def quantise(unit: NDArray[np.float32], dtype: RowDtype) -> tuple[Array, NDArray[np.float32]]:
    """[N, D] unit rows → stored vectors and [N] scales."""
    if dtype == "f16":
        return unit.astype(np.float16), np.ones(len(unit), np.float32)
    peak = np.abs(unit).max(axis=1, initial=0.0, keepdims=True)
    vectors = np.rint(unit * (127.0 / peak)).astype(np.int8)
    # Scaled by what was kept, so that a stored row is exactly a unit row: its cosine with itself is 1.
    scale = 1.0 / np.linalg.norm(vectors.astype(np.float32), axis=1)
    return vectors, scale.astype(np.float32)


def make_block(
    example_ids: Sequence[str],
    projected: NDArray[np.float32],
    grad_norm: NDArray[np.float32],
    loss: NDArray[np.float32],
    n_label_tokens: NDArray[np.int32],
    dtype: RowDtype,
) -> FeatureBlock:
    """Normalise and quantise [N, D] projected gradients. Rows must be finite and non-zero."""
    norm = np.linalg.norm(projected.astype(np.float64), axis=1)
    if not (np.isfinite(norm).all() and (norm > 0).all()):
        raise ValueError("rows must be finite and non-zero before they are stored")
    vectors, scale = quantise((projected / norm[:, None]).astype(np.float32), dtype)
    return FeatureBlock(list(example_ids), vectors, scale, norm.astype(np.float32), grad_norm, loss, n_label_tokens)


def write_block(block: FeatureBlock, fingerprint: str, handle: BinaryIO) -> None:
    """Write a block as one uncompressed Arrow IPC file (mappable; zstd saves little on such rows)."""
    dims = block.vectors.shape[1]
    kind = _ARROW["int8" if block.vectors.dtype == np.int8 else "f16"]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(block.vectors).reshape(-1), kind), dims)
    table = pa.table(
        {
            "example_id": pa.array(block.example_ids, pa.string()),
            "vector": vectors,
            "scale": pa.array(block.scale, pa.float32()),
            "norm": pa.array(block.norm, pa.float32()),
            "grad_norm": pa.array(block.grad_norm, pa.float32()),
            "loss": pa.array(block.loss, pa.float32()),
            "n_label_tokens": pa.array(block.n_label_tokens, pa.int32()),
        }
    ).replace_schema_metadata({"gradsift.space": fingerprint})
    with pa.ipc.new_file(handle, table.schema) as writer:
        writer.write_table(table)


def read_block(path: Path) -> tuple[str, FeatureBlock]:
    """Fingerprint and rows of a shard whose digest was checked; vectors are mapped, not copied."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    batch = table.combine_chunks()
    vector = batch["vector"].chunk(0) if batch.num_rows else pa.array([], batch.schema.field("vector").type)
    dims = vector.type.list_size
    flat = vector.flatten().to_numpy(zero_copy_only=False)

    def column(name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = batch[name].to_numpy()
        return values

    block = FeatureBlock(
        batch["example_id"].to_pylist(),
        flat.reshape(-1, dims),
        column("scale"),
        column("norm"),
        column("grad_norm"),
        column("loss"),
        batch["n_label_tokens"].to_numpy(),
    )
    return (table.schema.metadata or {}).get(b"gradsift.space", b"").decode(), block
