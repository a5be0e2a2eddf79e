"""Why a row of a source cannot be used, and the checks of text that every shape makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_FIELD_CHARS = 1_000_000
MAX_ROW_CHARS = 64 << 20  # of a row as it is read, and of its chat and other columns together
MAX_VALUES = 2_000_000  # of a row; each takes up to a hundred bytes, and may be written with three
CROWDED = f"a row of more than {MAX_VALUES:,} values"
MAX_DEPTH = 100  # objects and lists in each other: what is read can be written, however deep the stack is by then
TOO_DEEP = f"a field is nested too deeply (limit {MAX_DEPTH})"


class RowError(Exception):
    """Why a row cannot be used: a short `reason` code and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def is_deep(value: Any, left: int = MAX_DEPTH) -> bool:
    """Whether JSON values are nested more than so deep."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not left or any(is_deep(one, left - 1) for one in inner)


def crowded(text: str) -> bool:
    """Whether a JSON text, or a line of a table, may be of more than `MAX_VALUES` values: by its commas and brackets,
    which a very long text may have, too."""
    return len(text) > MAX_VALUES and sum(map(text.count, ",;\t[{")) > MAX_VALUES


def refused(reason: str, detail: str, raw: bytes | str) -> RowError:
    """A row that was refused before it was an object: `raw` is what stood there, of which the start is kept."""
    error = RowError(reason, detail)
    start = raw[:400]
    error.args = (detail, (start if isinstance(start, str) else start.decode("utf-8", "replace")).strip())
    return error


@dataclass(frozen=True)
class Odd:
    """A cell of a row that is no one value of Python's; `known` is what can be said of it, in plain values."""

    known: Any

    def __str__(self) -> str:
        return str(self.known)


def checked_text(value: Any, what: str) -> str:
    """The value, if it is text that can be stored. Raises RowError."""
    if value is None:
        raise RowError("missing_field", f"{what} is missing")
    if not isinstance(value, str):
        found = repr(value.known)[:80] if isinstance(value, Odd) else type(value).__name__
        raise RowError("bad_field", f"{what} must be text, not {found}")
    if len(value) > MAX_FIELD_CHARS:
        raise RowError("too_long", f"{what} has {len(value):,} characters (limit {MAX_FIELD_CHARS:,})")
    if "\x00" in value:
        raise RowError("nul", f"{what} contains a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError("surrogate", f"{what} contains a lone surrogate") from None
    return value
