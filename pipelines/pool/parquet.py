"""Rows of Parquet files. A file of a few kilobytes may be of gigabytes of text: it has a text once, and names it often.
Where that could be so, such a text is held once until its row is made; other files, nearly all, are read as they are,
which costs a third of the time."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from gradsift.pipelines.pool import unpack
from gradsift.pipelines.pool.cells import VALUE_BYTES, rows_of_batch
from gradsift.pipelines.pool.pages import most_named

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
    facts, columns = file.metadata, range(file.metadata.num_columns)
    said = unpack.Bounds(path, limit)
    for k in range(facts.num_row_groups):
        chunks = [facts.row_group(k).column(c) for c in columns]
        said.add(sum(max(one.total_uncompressed_size, one.num_values * VALUE_BYTES) for one in chunks))
    leaves = [file.schema.column(c) for c in columns]
    texts = [c for c in columns if leaves[c].physical_type == "BYTE_ARRAY" and leaves[c].logical_type.type in TEXTS]
    widest = max((one.length for one in leaves if one.physical_type == "FIXED_LEN_BYTE_ARRAY"), default=1)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, widest)))
    with path.open("rb") as handle:
        for k in range(facts.num_row_groups):
            group = facts.row_group(k)
            often = [leaves[c].path for c in texts if _often(handle, group.column(c), leaves[c], rows)]
            opened = pq.ParquetFile(path, read_dictionary=often, metadata=facts) if often else file
            for batch in opened.iter_batches(rows, row_groups=[k]):
                yield from rows_of_batch(batch)


def _often(handle: IO[bytes], chunk: pq.ColumnChunkMetaData, leaf: pq.ColumnSchema, rows: int) -> bool:
    """Whether the values of one batch that name a text may together be more than is free, and more than the column is:
    so much is held of a column that is read as a dictionary."""
    named, longest = most_named(handle, chunk)
    if not leaf.max_repetition_level:
        named = min(named, rows)
    held: int = chunk.total_uncompressed_size
    return named * longest > max(unpack.FREE_BYTES, held)
