"""Rows of Parquet files. A file of a few kilobytes may be of gigabytes of text: it has a text once, and names it often.
Where that could be so, such a text is held once until its row is made; other files, nearly all, are read as they are,
which costs a third of the time."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.pipelines.pool import unpack
from gradsift.pipelines.pool.cells import VALUE_BYTES, rows_of_batch
from gradsift.pipelines.pool.pages import Chunk, chunks, most_named

BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20  # of a batch's values of fixed width
TEXTS = ("STRING", "NONE")  # columns of bytes that Arrow keeps as a dictionary


def rows_of_parquet(path: Path, limit: int = unpack.UNPACK_LIMIT) -> Iterator[Any]:
    """The rows of a file, in order, or RowError for one that cannot be had. Memory: a page of each column, and a batch
    of rows; what a batch has by name of each column of texts is at most 64 MiB, or what its row group has of it.

    Raises InputError for a file whose columns are more than `limit` times its size (`unpack`); a text that several rows
    name counts once. OSError or ArrowException for one that cannot be read.
    """
    file = pq.ParquetFile(path)
    leaves = [file.schema.column(c) for c in range(file.metadata.num_columns)]
    texts = [c for c, x in enumerate(leaves) if x.physical_type == "BYTE_ARRAY" and x.logical_type.type in TEXTS]
    widest = max((one.length for one in leaves if one.physical_type == "FIXED_LEN_BYTE_ARRAY"), default=1)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, widest)))
    with path.open("rb") as handle:
        groups, said = chunks(handle), unpack.Bounds(path, limit)
        for group in groups:
            if len(group) != len(leaves):
                raise pa.ArrowInvalid(f"a row group has {len(group)} columns, the file {len(leaves)}")
            said.add(sum(max(one.unpacked, one.num_values * VALUE_BYTES) for one in group))
        for k, group in enumerate(groups):
            often = [leaves[c].path for c in texts if _often(handle, group[c], leaves[c], rows)]
            opened = pq.ParquetFile(path, read_dictionary=often, metadata=file.metadata) if often else file
            for batch in opened.iter_batches(rows, row_groups=[k]):
                yield from rows_of_batch(batch)


def _often(handle: IO[bytes], chunk: Chunk, leaf: pq.ColumnSchema, rows: int) -> bool:
    """Whether the values of one batch that name a text may together be more than is free, and more than the column is:
    so much is held of a column that is read as a dictionary."""
    named, longest = most_named(handle, chunk)
    if not leaf.max_repetition_level:
        named = min(named, rows)
    held: int = chunk.unpacked
    return named * longest > max(unpack.FREE_BYTES, held)
