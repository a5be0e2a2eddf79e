"""Rows of tables, CSV and TSV: every row as an object, with the number of the line that it begins on.

Cells are text; an empty one is missing. A table whose first line has more semicolons than commas is separated by
semicolons. A quote that nobody closes costs the row that it stands in: what it took of the lines that follow is given
back and read again. What is read again is bounded, too: where many rows of a file do this, rows of one line alone are
read for a while, so that the time of a file grows with its size.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gradsift.datastore.errors import InputError
from gradsift.pipelines.pool.cells import as_object
from gradsift.pipelines.pool.row_error import CROWDED, MAX_FIELD_CHARS, MAX_ROW_CHARS, crowded, refused

LINE_CHARS = 64  # what a line costs beside its characters, while the row that it is of is read
FREE_AGAIN = 64 << 20  # characters that may be read again, whatever the file
AGAIN = 4  # and times those that were read


def rows_of_table(path: Path, handle: IO[bytes], *, tabs: bool) -> Iterator[tuple[int, Any]]:
    """(number of its first line, row or RowError) of the rows of a table. Raises InputError where its first line does
    not name the columns."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    text = io.TextIOWrapper(handle, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(path, _Lines(text), tabs=tabs)
    finally:
        text.detach()  # whoever opened the file closes it


def _rows(path: Path, lines: "_Lines", *, tabs: bool) -> Iterator[tuple[int, Any]]:
    first = lines.first()
    separator = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
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
            yield number, refused("broken_row", str(error), lines.give_back().encode(errors="replace"))
            continue
        if cells is None:
            return
        if cells:
            yield number, _row(names, cells, lines.of_row)


class _Cut(str):
    """The start of a line that is too long to be read."""


class _Lines:
    """Lines of a table, for a reader that takes as many as a row needs. A row that is broken gives back all but its
    first."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._waiting, self._text = deque[str](), text
        self._number = 0
        self._taken = self._again = 0  # characters that were read, and read again
        self._held = 0
        self.of_row: list[str] = []

    def first(self) -> str:
        """The first line, which stays to be read."""
        if line := self._read():
            self._waiting.append(line)
        return line

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        if not line:
            raise StopIteration
        if self.of_row and self._held + len(line) > self._most():
            self._waiting.appendleft(line)
            raise csv.Error("a quote that is not closed soon enough")
        self.of_row.append(line)
        self._held += len(line) + LINE_CHARS
        if isinstance(line, _Cut):
            raise csv.Error(f"a line over {MAX_ROW_CHARS >> 20} Mi characters")
        if crowded(line):
            raise csv.Error(CROWDED)
        return line

    def _most(self) -> int:
        """Characters that a row of several lines may have."""
        return MAX_ROW_CHARS if self._again < FREE_AGAIN + AGAIN * self._taken else 0

    def _read(self) -> str:
        line = self._text.readline(MAX_ROW_CHARS)
        self._taken += len(line)
        if len(line) < MAX_ROW_CHARS or line.endswith(("\n", "\r")):
            return line
        while (rest := self._text.readline(MAX_ROW_CHARS)) and not rest.endswith(("\n", "\r")):
            pass
        return _Cut(line[:400])

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self._number += len(self.of_row)
        self.of_row.clear()
        self._held = 0
        return self._number + 1

    def give_back(self) -> str:
        """Give back all lines of a row but its first, which is returned."""
        first, *others = self.of_row
        self._waiting.extendleft(reversed(others))
        self._again += sum(map(len, others)) + LINE_CHARS * len(others)
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
