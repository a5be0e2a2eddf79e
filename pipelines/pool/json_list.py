"""Rows of a list that stands in one JSON text, one after the other.

A row that is JSON and that Python does not hold (nested too deeply, a number of thousands of digits) costs itself
alone, and so does one with bytes that are not UTF-8. Where the list itself is broken, nothing says where the next row
begins: that is an error of the file.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from gradsift.pipelines.pool.row_error import refused

_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def is_list(content: bytes) -> bool:
    """Whether a JSON text begins as a list does."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"[")


def rows_of_list(content: bytes) -> Iterator[Any]:
    """The rows of a JSON text that is a list, in order, or RowError for one that cannot be had. Raises ValueError where
    the text is no list. Cost: the text in memory, and a row."""
    text = content.decode("utf-8-sig", "surrogateescape")
    whole = text.isascii() or not re.search("[\udc80-\udcff]", text)
    decode = json.JSONDecoder().raw_decode
    at = _next(text, text.index("[") + 1)
    more = text[at : at + 1] != "]"
    while more:
        start = at
        try:
            row, at = decode(text, start)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            at = _end(text, start)
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            row = refused("broken_json", why, text[start:at])
        if not whole and re.search("[\udc80-\udcff]", text[start:at]):
            row = refused("invalid_utf8", "bytes that are not UTF-8", text[start:at])
        yield row
        at = _next(text, at)
        more = text[at : at + 1] == ","
        if more:
            at = _next(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if _next(text, at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)


def _next(text: str, at: int) -> int:
    """The place of what comes next that is not a space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _end(text: str, at: int) -> int:
    """Where the row that begins at a place ends: before the comma or bracket that follows it."""
    depth = 0
    for mark in _MARKS.finditer(text, at):
        if not depth and mark[0] in (",", "]"):
            return mark.start()
        depth += (mark[0] in ("[", "{")) - (mark[0] in ("]", "}"))
    raise json.JSONDecodeError("Expecting ',' delimiter", text, len(text))
