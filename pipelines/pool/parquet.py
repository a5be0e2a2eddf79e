"""Rows of Parquet files. A value that a file has once, and names often, is held once until its row is made: a file of
a few kilobytes may be of gigabytes of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gradsift.pipelines.pool.cells import VALUE_BYTES, row_bytes, rows_of_batch
from gradsift.pipelines.pool.unpack import UNPACK_LIMIT, Bounds

BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20  # of a batch's values of fixed width
TEXTS = ("STRING", "NONE")  # columns of bytes that Arrow keeps as a dictionary


def rows_of_parquet(path: Path, limit: int = UNPACK_LIMIT) -> Iterator[Any]:
    """The rows of a file, in order, or RowError for one that cannot be had. Memory: a page of each column, and a batch
    of rows without the texts that several have.

    Raises InputError for a file whose columns, or whose rows one after the other, are more than `limit` times its size
    (`unpack`), OSError or ArrowException for one that cannot be read.
    """
    file = pq.ParquetFile(path)
    facts, columns = file.metadata, range(file.metadata.num_columns)
    said = Bounds(path, limit)
    for k in range(facts.num_row_groups):
        chunks = [facts.row_group(k).column(c) for c in columns]
        said.add(sum(max(one.total_uncompressed_size, one.num_values * VALUE_BYTES) for one in chunks))
    leaves = [file.schema.column(c) for c in columns]
    texts = [one.path for one in leaves if one.physical_type == "BYTE_ARRAY" and one.logical_type.type in TEXTS]
    widest = max((one.length for one in leaves if one.physical_type == "FIXED_LEN_BYTE_ARRAY"), default=1)
    file = pq.ParquetFile(path, read_dictionary=texts, metadata=facts)
    made = Bounds(path, limit)
    for batch in file.iter_batches(max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, widest)))):
        made.add(int(row_bytes(batch).sum()))
        yield from rows_of_batch(batch)
