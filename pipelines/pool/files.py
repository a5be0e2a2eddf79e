"""Files of rows: JSON lines, JSON, Parquet, CSV and TSV, packed or not → raw rows, in one stream.

Memory is a buffer and a few times the longest row, which may have `MAX_ROW_CHARS`, and of Parquet the pages that are
read. A file is read as bytes line by line, so that the line number of a bad row is right whatever is in it.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradsift.datastore.errors import InputError
from gradsift.pipelines.pool.csv_rows import rows_of_table
from gradsift.pipelines.pool.json_list import NoList, rows_of_list
from gradsift.pipelines.pool.parquet import rows_of_parquet
from gradsift.pipelines.pool.row_error import CROWDED, MAX_ROW_CHARS, crowded, refused
from gradsift.pipelines.pool.unpack import PACKED, UNPACK_LIMIT, open_file

KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
Raw = tuple[str, int, Any]  # file, line or row number from 1, row or RowError


def bare_name(path: Path) -> str:
    """The name of a file without its kind."""
    name = path.name
    for suffix in (*PACKED, *KINDS):
        name = name.removesuffix(suffix)
    return name


def kind_of(path: Path) -> str:
    """What a file is, by its name: one of `KINDS`, or "" for one that is not read."""
    name = path.name
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    kind = next((s for s in KINDS if name.endswith(s)), "")
    return "" if kind == ".parquet" and name != path.name else kind  # Parquet packs its own columns


def rows_of(path: Path, unpack_limit: int = UNPACK_LIMIT) -> Iterator[Raw]:
    """The raw rows of a file. Raises InputError for one of no known kind, where the file itself cannot be read, and
    where it unpacks to more than so many times its size (`unpack`)."""
    kind = kind_of(path)
    if not kind:
        raise InputError(f"{path} is of no known kind ({', '.join(KINDS)}, also .gz and .zst)")
    try:
        if kind == ".parquet":
            rows = rows_of_parquet(path, unpack_limit)
            yield from ((str(path), number, row) for number, row in enumerate(rows, 1))
            return
        with open_file(path, unpack_limit) as handle:
            yield from _READERS[kind](path, handle)
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _jsonl_rows(path: Path, handle: Any) -> Iterator[Raw]:
    number = 0
    while line := handle.readline(MAX_ROW_CHARS):
        number += 1
        if len(line) == MAX_ROW_CHARS and not line.endswith(b"\n"):
            while (rest := handle.readline(MAX_ROW_CHARS)) and not rest.endswith(b"\n"):
                pass
            yield str(path), number, refused("too_long", f"a line over {MAX_ROW_CHARS >> 20} MiB", line[:200])
        elif line.strip():
            yield str(path), number, _parse(line)


def _json_rows(path: Path, handle: Any) -> Iterator[Raw]:
    try:
        yield from ((str(path), number, row) for number, row in enumerate(rows_of_list(handle), 1))
    except NoList:
        raise InputError(
            f"{path} must hold a list of rows: this is other JSON, or not valid JSON; use .jsonl for one row a line"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _parse(line: bytes) -> Any:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return refused("invalid_utf8", f"invalid UTF-8 at byte {error.start}", line)
    if crowded(text):
        return refused("too_long", CROWDED, line)
    try:
        return json.loads(text)
    except RecursionError:
        return refused("broken_json", "nested too deeply", line)
    except ValueError as error:
        return refused("broken_json", str(error), line)


def _cells(path: Path, handle: Any) -> Iterator[Raw]:
    rows = rows_of_table(path, handle, tabs=kind_of(path) == ".tsv")
    yield from ((str(path), number, row) for number, row in rows)


_READERS: dict[str, Callable[[Path, Any], Iterator[Raw]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _cells,
    ".tsv": _cells,
}
