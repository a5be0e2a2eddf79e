"""Rows of a list that stands in one JSON text, one after the other, read as a stream.

A row that is JSON and that cannot be held (nested too deeply, a number of thousands of digits, more than
`MAX_ROW_CHARS`) costs itself alone, and so does one with bytes that are not UTF-8. Where the list itself is broken,
nothing says where the next row begins: that is an error of the file.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from gradsift.pipelines.pool.row_error import CROWDED, MAX_ROW_CHARS, crowded, refused

CHUNK_BYTES = 1 << 18
MARGIN = 16  # characters at the end of what was read that may be the start of something longer
_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = re.compile(r'["\[\]{},]')
_GOES_ON = re.compile(r"[-+.0-9eE]*\Z")  # of a number that was cut: `1` and `.`, `1.5` and `e+`
_IN_TEXT = re.compile(r'["\\]')
_NO_UTF8 = re.compile("[\udc80-\udcff]")


class NoList(ValueError):
    """A JSON text that does not begin as a list does."""


def rows_of_list(handle: IO[bytes]) -> Iterator[Any]:
    """The rows of a JSON text that is a list, in order, or RowError for one that cannot be had. Raises ValueError where
    the text is no list. Memory: twice the longest row, and a buffer."""
    text = _Text(handle)
    if text.next() != "[":
        raise NoList
    text.at += 1
    mark = text.next()
    while mark != "]":
        yield _row(text)
        mark = text.next()
        if mark == ",":
            text.at += 1
            text.next()
        elif mark != "]":
            raise text.broken("Expecting ',' delimiter", text.at)
    text.at += 1
    if text.next():
        raise text.broken("Extra data", text.at)


class _Text:
    """A window of the text: `held` is what is in memory, `at` the place in it that comes next."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._passed = 0  # characters before what is held
        self.held, self.at = "", 0
        self.whole = True  # all that was read is UTF-8

    def more(self) -> bool:
        """Read on, as much again as is waiting; what was passed is let go. False at the end."""
        waiting = self.held[self.at :]
        data = self._handle.read(max(CHUNK_BYTES, min(len(waiting), MAX_ROW_CHARS - len(waiting))))
        new = self._decoder.decode(data, final=not data)
        self.whole = self.whole and (new.isascii() or not _NO_UTF8.search(new))
        self._passed += self.at
        self.held, self.at = waiting + new, 0
        return bool(data)

    def next(self) -> str:
        """The next character that is not a space, at which the place is then; "" at the end."""
        while True:
            found = _SPACE.match(self.held, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def pass_over(self) -> None:
        """Go to the comma or bracket that follows a row, however long that is."""
        depth, quoted = 0, False
        while True:
            found = (_IN_TEXT if quoted else _MARKS).search(self.held, self.at)
            if not found:
                self.at = len(self.held)
                if not self.more():
                    raise self.broken("Expecting ',' delimiter", self.at)
                continue
            mark, self.at = found[0], found.end()
            if mark == "\\":
                self.at += bool(self.at < len(self.held) or self.more())
            elif mark == '"':
                quoted = not quoted
            elif not depth and mark in ",]":
                self.at -= 1
                return
            else:
                depth += (mark in "[{") - (mark in "]}")

    def broken(self, why: str, at: int) -> ValueError:
        """The error of a text that is broken at a place of what is held."""
        return ValueError(f"{why} at character {self._passed + at}")


def _row(text: _Text) -> Any:
    """The row that begins at the place, which is behind it then."""
    decode = json.JSONDecoder().raw_decode
    while True:
        start = text.held[text.at : text.at + 400]
        try:
            row, end = decode(text.held, text.at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos > len(text.held) - MARGIN
            if not (cut and text.more()):
                raise text.broken(error.msg, error.pos) from None
        except (ValueError, RecursionError) as error:
            text.pass_over()
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            return refused("broken_json", why, start)
        else:
            if not _GOES_ON.match(text.held, end) or not text.more():
                odd = not text.whole and _NO_UTF8.search(text.held, text.at, end)
                text.at = end
                return refused("invalid_utf8", "bytes that are not UTF-8", start) if odd else row
        if len(text.held) > MAX_ROW_CHARS or crowded(text.held):
            why = CROWDED if len(text.held) <= MAX_ROW_CHARS else f"a row over {MAX_ROW_CHARS >> 20} Mi characters"
            text.pass_over()
            return refused("too_long", why, start)
