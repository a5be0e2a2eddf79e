"""Row groups of Parquet shards, bounded in rows and in bytes: one of them is what is read for one example.

Arrow counts the bytes of a text column in 32 bits. A column that lies in another, as the texts of chats do, cannot be
read where it has more than 2 GiB, although it can be written. Groups of `GROUP_BYTES`, or of one row that has more,
stay far below it. Versions before wrote groups of rows alone: `read` gives a large one in pieces.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

GROUP_ROWS = 4096
GROUP_BYTES = 16 << 20
PIECE_ROWS = 64  # of a group that Arrow does not read at once


def spans(sizes: Iterable[int], rows: int, total: int) -> Iterator[tuple[int, int]]:
    """(first, after the last) of runs of at most so many rows and, unless one row alone has more, of this total."""
    first = held = end = 0
    for end, size in enumerate(sizes, 1):
        if end - 1 > first and (end - 1 - first == rows or held + size > total):
            yield first, end - 1
            first, held = end - 1, 0
        held += size
    if end > first:
        yield first, end


def joined(tables: Iterable[pa.Table], rows: int | None = None) -> Iterator[pa.Table]:
    """Tables in one piece each, of about `GROUP_BYTES` and of so many rows, if given; empty ones are left out."""
    pending: list[pa.Table] = []
    for table in tables:
        waiting = sum(t.num_rows for t in pending)
        full = sum(t.nbytes for t in pending) + table.nbytes > GROUP_BYTES
        if pending and (full or (rows is not None and waiting + table.num_rows > rows)):
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
        if table.num_rows:
            pending.append(table)
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def write(tables: Iterable[pa.Table], schema: pa.Schema, handle: BinaryIO) -> None:
    """Write tables as one Parquet file, small ones together. Memory: two groups."""
    with pq.ParquetWriter(handle, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in joined(tables, GROUP_ROWS):
            writer.write_table(table)


def opened(source: pa.NativeFile) -> pq.ParquetFile:
    """A shard's Parquet file; its pages are checked against their sums when they are read."""
    return pq.ParquetFile(source, page_checksum_verification=True)


def read(file: pq.ParquetFile, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(row of its first, table) of the groups of a file, in order; only of those that hold one of the sorted `rows`, if
    given."""
    first = 0
    for k in range(file.num_row_groups):
        after = first + file.metadata.row_group(k).num_rows
        if rows is None or np.searchsorted(rows, first) < np.searchsorted(rows, after):
            start = first
            for table in pieces(file, k):
                yield start, table
                start += table.num_rows
        first = after


def pieces(file: pq.ParquetFile, group: int) -> Iterator[pa.Table]:
    """A row group, in several tables where it is large."""
    facts = file.metadata.row_group(group)
    if facts.total_byte_size <= 4 * GROUP_BYTES:
        try:
            yield file.read_row_group(group)
        except pa.ArrowNotImplementedError:  # more than 2 GiB: a text that is repeated is small in the file
            rows = PIECE_ROWS
        else:
            return
    else:
        rows = max(1, facts.num_rows * GROUP_BYTES // facts.total_byte_size)
    yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(rows, row_groups=[group]))
