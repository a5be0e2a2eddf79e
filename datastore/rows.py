"""Feature rows: how a vector is stored, and the Arrow shard it lives in with the signals of the same pass.

A row keeps a unit vector u and the norm it had: unit × norm is the raw projected gradient. Stored as integers q and a
scale 1/‖q‖, so that a stored row is exactly a unit row:

| dtype | q | bytes | RMS error of a cosine at D = 4,096 |
|---|---|---|---|
| `int8` | round(127·u/max|u|) | D | below 1e-3 |
| `int4` | round(2.8·√D·u), cut at ±7 (2.5 times the RMS of u); two to a byte, the even dim low | D/2 | about 2e-3 |
| `f16` | u itself, scale 1 | 2·D | below 1e-4 |

against 1/√D = 1.6e-2 of the projection itself. Legend: N rows, D projected dims.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RowDtype = Literal["int8", "int4", "f16"]
_ARROW: dict[str, pa.DataType] = {"int8": pa.int8(), "int4": pa.uint8(), "f16": pa.float16()}
_DTYPES: dict[str, RowDtype] = {"int8": "int8", "uint8": "int4", "float16": "f16"}
_ROW_COLUMNS = ["example_id", "vector", "scale", "norm"]
Array = NDArray[np.generic]
Source = AbstractContextManager[pa.NativeFile]  # of a shard, as `Store.map` gives it


@dataclass(frozen=True)
class FeatureBlock:
    """Rows of one shard, or a part of one. `vectors` is a view of the mapped file: do not write to it."""

    example_ids: list[str]
    vectors: Array  # [N, D] int8 or float16, or [N, D/2] uint8 for int4
    scale: NDArray[np.float32]  # [N]
    norm: NDArray[np.float32]  # [N] length of the projected gradient before normalisation
    signals: pa.Table  # one row each, no ids; columns as pipelines/features/extract.py lists them

    @property
    def dtype(self) -> RowDtype:
        """How the vectors are stored."""
        return _DTYPES[str(self.vectors.dtype)]

    def integers(self) -> Array:
        """[N, D] the stored numbers, unpacked: int8, or float16."""
        return unpack_int4(self.vectors) if self.vectors.dtype == np.uint8 else self.vectors

    def unit(self) -> NDArray[np.float32]:
        """[N, D] float32 unit rows (up to the rounding of the stored dtype)."""
        return self.integers().astype(np.float32) * self.scale[:, None]

    def raw(self) -> NDArray[np.float32]:
        """[N, D] float32 rows with the length they had."""
        return self.unit() * self.norm[:, None]

    def signal(self, name: str) -> NDArray[np.generic]:
        """A signal with one number for each row [N], or one vector of fixed length [N, …]."""
        column = self.signals[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def token_signal(self, name: str) -> list[NDArray[np.float32]]:
        """A signal with one number for each label token of each row."""
        column = self.signals[name].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return np.split(values, np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))[:-1])

    def take(self, keep: NDArray[np.int64]) -> "FeatureBlock":
        """The rows at the given positions."""
        ids = [self.example_ids[i] for i in keep]
        return FeatureBlock(
            ids, self.vectors[keep], self.scale[keep], self.norm[keep], self.signals.take(pa.array(keep))
        )


def quantise(unit: NDArray[np.float32], dtype: RowDtype) -> tuple[Array, NDArray[np.float32]]:
    """[N, D] unit rows → stored vectors and [N] scales. D must be even for int4."""
    if dtype == "f16":
        return unit.astype(np.float16), np.ones(len(unit), np.float32)
    if dtype == "int4":
        step = 7.0 / (2.5 / unit.shape[1] ** 0.5)
        q = np.rint(unit * step).clip(-7, 7).astype(np.int8)
    else:
        peak = np.abs(unit).max(axis=1, initial=0.0, keepdims=True)
        q = np.rint(unit * (127.0 / peak)).astype(np.int8)
    # Scaled by what was kept, so that a stored row is exactly a unit row: its cosine with itself is 1.
    scale = 1.0 / np.linalg.norm(q.astype(np.float32), axis=1)
    return (pack_int4(q) if dtype == "int4" else q), scale.astype(np.float32)


def pack_int4(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[N, D] numbers in −7…7 → [N, D/2] bytes, each number plus 8 in four bits, the even dim low."""
    nibbles = (q + 8).astype(np.uint8)
    return nibbles[:, ::2] | (nibbles[:, 1::2] << np.uint8(4))


def unpack_int4(packed: Array) -> NDArray[np.int8]:
    """The inverse of `pack_int4`."""
    raw = packed.view(np.uint8)
    q = np.empty((len(raw), 2 * raw.shape[1]), np.int8)
    q[:, ::2], q[:, 1::2] = (raw & 15).astype(np.int8), (raw >> 4).astype(np.int8)
    q -= 8
    return q


def make_block(
    example_ids: Sequence[str], projected: NDArray[np.float32], signals: pa.Table, dtype: RowDtype
) -> FeatureBlock:
    """Normalise and quantise [N, D] projected gradients. Rows must be finite and non-zero."""
    norm = np.linalg.norm(projected.astype(np.float64), axis=1)
    if not (np.isfinite(norm).all() and (norm > 0).all()):
        raise ValueError("rows must be finite and non-zero before they are stored")
    vectors, scale = quantise((projected / norm[:, None]).astype(np.float32), dtype)
    return FeatureBlock(list(example_ids), vectors, scale, norm.astype(np.float32), signals)


def join_blocks(blocks: Sequence[FeatureBlock]) -> FeatureBlock:
    """The rows of several blocks of one space, in order; copies them."""
    return FeatureBlock(
        [i for b in blocks for i in b.example_ids],
        np.concatenate([b.vectors for b in blocks]),
        np.concatenate([b.scale for b in blocks]),
        np.concatenate([b.norm for b in blocks]),
        pa.concat_tables([b.signals for b in blocks]),
    )


def write_block(block: FeatureBlock, fingerprint: str, handle: BinaryIO) -> None:
    """Write a block as one uncompressed Arrow IPC file (mappable; zstd saves little on such rows)."""
    flat = pa.array(np.ascontiguousarray(block.vectors).reshape(-1), _ARROW[block.dtype])
    table = pa.table(
        {
            "example_id": pa.array(block.example_ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, block.vectors.shape[1]),
            "scale": pa.array(block.scale, pa.float32()),
            "norm": pa.array(block.norm, pa.float32()),
            **{name: block.signals[name] for name in block.signals.column_names},
        }
    ).replace_schema_metadata((block.signals.schema.metadata or {}) | {"gradsift.space": fingerprint})
    with pa.ipc.new_file(handle, table.schema) as writer:
        writer.write_table(table)


def read_block(source: Source) -> tuple[str, FeatureBlock]:
    """Fingerprint and rows of a shard whose digest was checked; of a memory map, vectors are not copied unless several
    record batches must be joined (see `read_blocks`). Closes it."""
    with source as opened:
        table = pa.ipc.open_file(opened).read_all()
    return _fingerprint(table.schema), _block(table)


def read_blocks(source: Source) -> tuple[str, Iterator[FeatureBlock]]:
    """Fingerprint and rows of a shard whose digest was checked, one block for each record batch: a merged shard has
    several of bounded size. Of a memory map, vectors are never copied. Closes it."""
    with source as opened:
        file = pa.ipc.open_file(opened)
        batches = [file.get_batch(k) for k in range(file.num_record_batches)]
    return _fingerprint(file.schema), (_block(pa.Table.from_batches([batch])) for batch in batches)


def _fingerprint(schema: pa.Schema) -> str:
    metadata: dict[bytes, bytes] = schema.metadata or {}
    return metadata.get(b"gradsift.space", b"").decode()


def _block(table: pa.Table) -> FeatureBlock:
    batch = table.combine_chunks()
    vector = batch["vector"].chunk(0) if batch.num_rows else pa.array([], batch.schema.field("vector").type)
    flat = vector.flatten().to_numpy(zero_copy_only=False)
    return FeatureBlock(
        batch["example_id"].to_pylist(),
        flat.reshape(-1, vector.type.list_size),
        batch["scale"].to_numpy(),
        batch["norm"].to_numpy(),
        table.drop_columns(_ROW_COLUMNS),
    )
