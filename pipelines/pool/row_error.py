"""Why a row of a source cannot be used, and the checks of text that every shape makes."""

from typing import Any

MAX_FIELD_CHARS = 1_000_000


class RowError(Exception):
    """Why a row cannot be used: a short `reason` code and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def checked_text(value: Any, what: str) -> str:
    """The value, if it is text that can be stored. Raises RowError."""
    if value is None:
        raise RowError("missing_field", f"{what} is missing")
    if not isinstance(value, str):
        raise RowError("bad_field", f"{what} must be text, not {type(value).__name__}")
    if len(value) > MAX_FIELD_CHARS:
        raise RowError("too_long", f"{what} has {len(value):,} characters (limit {MAX_FIELD_CHARS:,})")
    if "\x00" in value:
        raise RowError("nul", f"{what} contains a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError("surrogate", f"{what} contains a lone surrogate") from None
    return value
