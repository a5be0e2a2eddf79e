"""Other columns of a row: what did not become part of the chat, its source or its licence, as plain JSON values.

JSON values stay as they are. Of other kinds, which Parquet and `datasets` have: dates and times are ISO 8601 text,
durations seconds, decimals and UUIDs text, bytes base64; NaN is null, an infinity text. A column that is null is left
out.
"""

import base64
import math
from collections.abc import Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from gradsift.pipelines.pool.row_error import MAX_DEPTH, TOO_DEEP, Odd, RowError
from gradsift.pipelines.recipe import Source


def other_columns(row: Mapping[str, Any], used: Collection[str], source: Source) -> dict[str, Any]:
    """Columns of a row that nothing `used`, those that the source wants to keep. Raises RowError for one that is nested
    too deeply."""
    keep = source.keep
    if keep is False:
        return {}
    wanted = {name: row[name] for name in row if name not in used and (keep is True or name in keep)}
    plain = {str(name): _plain(value) for name, value in wanted.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any, left: int = MAX_DEPTH) -> Any:
    """A value as JSON has it, nested at most so deep: what is read must be written, wherever the call stands."""
    if not left:
        raise RowError("bad_field", TOO_DEEP)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, left - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, left - 1) for inner in value]
    if isinstance(value, Odd):
        return _plain(value.known, left - 1)
    return _of_other_kind(value)


def _of_other_kind(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    return f"<{type(value).__name__}>"
