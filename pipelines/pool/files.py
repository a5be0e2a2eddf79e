"""Files of rows: JSON lines, JSON, Parquet, CSV and TSV, packed or not → raw rows, in one stream.

Memory is one batch, and all of a `.json`. A file is read as bytes line by line, so that the line number of a bad row is
right whatever is in it. Cells of tables are text; an empty one is missing. A table whose first line has more semicolons
than commas is separated by semicolons.
"""

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from gradsift.datastore.errors import InputError
from gradsift.pipelines.pool.cells import as_object, rows_of_batch
from gradsift.pipelines.pool.json_list import is_list, rows_of_list
from gradsift.pipelines.pool.row_error import MAX_FIELD_CHARS, RowError, refused

KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
PACKED = (".gz", ".zst")
MAX_LINE_BYTES = 64 << 20
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


def rows_of(path: Path) -> Iterator[Raw]:
    """The raw rows of a file. Raises InputError for one of no known kind, and where the file itself cannot be read."""
    kind = kind_of(path)
    if not kind:
        raise InputError(f"{path} is of no known kind ({', '.join(KINDS)}, also .gz and .zst)")
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path)
            return
        with _open(path) as handle:
            yield from _READERS[kind](path, handle)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path.open("rb")))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """A zstd file of one or more frames; unlike zstandard's reader, a cut file is an EOFError."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._left, self._ready = raw, b"", b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            data = self._left or self._raw.read(1 << 17)
            self._left = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the compressed data is cut short")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def _jsonl_rows(path: Path, handle: Any) -> Iterator[Raw]:
    number = 0
    while line := handle.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield str(path), number, refused("too_long", f"a line over {MAX_LINE_BYTES >> 20} MiB", line[:200])
        elif line.strip():
            yield str(path), number, _parse(line)


def _json_rows(path: Path, handle: Any) -> Iterator[Raw]:
    content = handle.read()
    if not is_list(content):
        other = _parse(content)
        why = f"is not valid JSON: {other.detail}" if isinstance(other, RowError) else "must hold a list of rows"
        raise InputError(f"{path} {why}; use .jsonl for one row a line")
    try:
        yield from ((str(path), number, row) for number, row in enumerate(rows_of_list(content), 1))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _parse(line: bytes) -> Any:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return refused("invalid_utf8", f"invalid UTF-8 at byte {error.start}", line)
    try:
        return json.loads(text)
    except RecursionError:
        return refused("broken_json", "nested too deeply", line)
    except ValueError as error:
        return refused("broken_json", str(error), line)


def _parquet_rows(path: Path) -> Iterator[Raw]:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches(1024):
        for row in rows_of_batch(batch):
            number += 1
            yield str(path), number, row


def _table_rows(path: Path, handle: Any) -> Iterator[Raw]:
    """Rows of a table as objects; the number is that of the row's first line. A quote that nobody closes costs the row
    that it stands in."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    text = io.TextIOWrapper(handle, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _cells(path, text)
    finally:
        text.detach()  # whoever opened the file closes it


def _cells(path: Path, text: io.TextIOWrapper) -> Iterator[Raw]:
    first = text.readline(MAX_LINE_BYTES)
    separator = "\t" if kind_of(path) == ".tsv" else ";" if first.count(";") > first.count(",") else ","
    lines = _Lines(first, text)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{path}: the first line does not name the columns: {error}") from error
    while True:
        number = lines.begin()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield str(path), number, refused("broken_row", str(error), lines.give_back().encode(errors="replace"))
            continue
        if cells is None:
            return
        if cells:
            yield str(path), number, _row(names, cells, lines.of_row)


class _Lines:
    """Lines of a table, for a reader that takes as many as a row needs. A row that is broken gives back all but its
    first: a quote that nobody closes takes what follows for its own."""

    def __init__(self, first: str, text: io.TextIOWrapper) -> None:
        self._waiting, self._text = deque([first] if first else []), text
        self._number = 0
        self.of_row: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._text.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        self.of_row.append(line)
        return line

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self._number += len(self.of_row)
        self.of_row.clear()
        return self._number + 1

    def give_back(self) -> str:
        """Give back all lines of a row but its first, which is returned."""
        first, *others = self.of_row
        self._waiting.extendleft(reversed(others))
        self.of_row[:] = [first]
        return first


def _row(names: list[str], cells: list[str], lines: list[str]) -> Any:
    raw = "".join(lines)
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            return refused("invalid_utf8", "bytes that are not UTF-8", raw.encode("utf-8", "surrogateescape"))
    if len(cells) != len(names):
        words = f"{len(cells)} cells; the first line names {len(names)} columns"
        return refused("broken_row", words, raw.encode())
    return as_object((name, cell or None) for name, cell in zip(names, cells, strict=True))


_READERS: dict[str, Callable[[Path, Any], Iterator[Raw]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _table_rows,
    ".tsv": _table_rows,
}
