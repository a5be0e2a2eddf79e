"""Answers as a table of Arrow: a line for each neighbour of each question, for Parquet and for data frames."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.datastore.errors import InputError
from gradsift.pipelines.query.answers import Answer

SCHEMA = pa.schema(
    {
        "question": pa.int32(),
        "asked": pa.string(),
        "space": pa.string(),
        "rank": pa.int32(),
        "example_id": pa.string(),
        "similarity": pa.float64(),
        "source": pa.string(),
        "user": pa.string(),
        "assistant": pa.string(),
        "layers": pa.map_(pa.string(), pa.float64()),
        "score": pa.float64(),
    }
)


def as_table(answer: Answer) -> pa.Table:
    """One line for each hit: `question` (from 0) and `asked` say what it answers, `layers` is null where rows are not
    by module, `score` but for words."""
    lines = [
        {
            "question": number,
            "asked": one.question,
            "space": one.space,
            "rank": hit.rank,
            "example_id": hit.example_id,
            "similarity": hit.similarity,
            "source": hit.source,
            "user": hit.user,
            "assistant": hit.assistant,
            "layers": list(hit.layers.items()) or None,
            "score": hit.score,
        }
        for number, one in enumerate([answer, *answer.more])
        for hit in one.hits
    ]
    return pa.Table.from_pylist(lines, SCHEMA)


def write(answer: Answer, path: Path) -> None:
    """Write `as_table` to a Parquet file. Raises InputError where it cannot be written."""
    try:
        pq.write_table(as_table(answer), path, compression="zstd")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
