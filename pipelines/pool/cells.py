"""Rows of Arrow tables as Python values, whatever their cells hold.

Arrow has values that Python has not: days after the year 9999, times in zones that nobody knows, a struct with a field
twice. Such a cell is `Odd`: what is known of it is kept where it is another column, and it is no text, so that a row
that would need it for its chat is refused. Cells of the JSON type, which `datasets` writes, are what their text says.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore.groups import spans
from gradsift.pipelines.pool.row_error import MAX_ROW_CHARS, Odd, refused

I64 = NDArray[np.int64]
PIECE_BYTES = 16 << 20  # of rows that are made at once
MAX_ROW_BYTES = 4 * MAX_ROW_CHARS  # as UTF-8 has at most
VALUE_BYTES = 8
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)

NO_VALUE = (ArithmeticError, LookupError, OSError, TypeError, ValueError, RuntimeError, pa.ArrowException)
OF_VALUES = ("UTF8", "acceptable range", "whole number of days", "does not fit in precision")  # Arrow's words
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def rows_of_batch(batch: pa.RecordBatch) -> Iterator[Any]:
    """The rows of a record batch, in order: {column: value}, or RowError for one that has text that is no UTF-8.

    A batch of ordinary cells becomes rows at once; of one that has others, each row that has them is made cell by cell.
    Memory: some MiB of rows, or one row.
    """
    sizes = row_bytes(batch)
    for first, end in spans(sizes.tolist(), batch.num_rows, PIECE_BYTES):
        if sizes[first] > MAX_ROW_BYTES:
            yield refused("too_long", f"a row of {sizes[first] >> 20:,} MiB (limit {MAX_ROW_BYTES >> 20})", "")
        else:
            yield from _rows(batch.slice(first, end - first))


def _plain(array: pa.Array) -> pa.Array:
    """An array whose texts are each there, as Python values are made of faster: a dictionary's are looked up one by
    one. Arrow's cast would make those of rows before and after too."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return array.dictionary_decode()
    if not len(array) or not _has(pa.types.is_dictionary, kind):
        return array
    absent = array.is_null() if array.null_count else None
    if pa.types.is_struct(kind):
        fields = [_plain(field) for field in array.flatten()]
        return pa.StructArray.from_arrays(fields, [kind.field(k).name for k in range(len(fields))], mask=absent)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        inner = _plain(array.values.slice(first, last - first))
        return type(array).from_arrays(pc.subtract(array.offsets, array.offsets[0]), inner, mask=absent)
    return array


def row_bytes(batch: pa.RecordBatch) -> I64:
    """[N] bytes of the texts of each row, with some for each of its other values: what it takes when it is made."""
    return _together(batch.columns, np.zeros(batch.num_rows, np.int64))


def _together(arrays: Iterable[pa.Array], total: I64) -> I64:
    for array in arrays:
        total += _bytes(array)
    return total


def _bytes(array: pa.Array) -> I64:
    """[N] the same of the values of one column."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes(array.storage)
    if pa.types.is_dictionary(kind):
        known = np.append(_bytes(array.dictionary), 0)  # null takes the last
        places: I64 = array.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
        return np.asarray(known[places])
    if pa.types.is_struct(kind):
        return _together(array.flatten(), np.full(len(array), VALUE_BYTES, np.int64))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = array.offsets.to_numpy().astype(np.int64)
        inner = array.values.slice(ends[0], ends[-1] - ends[0]) if len(ends) else array.values
        total = np.concatenate([[0], np.cumsum(_bytes(inner))])
        return np.asarray(np.diff(total[ends - ends[0]]) + VALUE_BYTES, np.int64)
    if pa.types.is_fixed_size_list(kind):
        inner = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return np.asarray(_bytes(inner).reshape(len(array), kind.list_size).sum(axis=1) + VALUE_BYTES, np.int64)
    if any(is_of(kind) for is_of in TEXTS):
        return np.asarray(pc.binary_length(array).fill_null(0), np.int64)
    wide = kind.byte_width if pa.types.is_fixed_size_binary(kind) else 0
    return np.full(len(array), VALUE_BYTES + wide)


def _rows(batch: pa.RecordBatch) -> Iterator[Any]:
    names = batch.schema.names
    if len(set(names)) == len(names) and not any(_has(_is_json, kind) for kind in batch.schema.types):
        try:
            plain = [_plain(column) for column in batch.columns]
            yield from (pa.record_batch(plain, names) if plain else batch).to_pylist()
        except NO_VALUE:
            yield from (_row(batch, position) for position in range(batch.num_rows))
        return
    yield from (_by_cells(batch, position) for position in range(batch.num_rows))


def require_whole(array: pa.Array) -> None:
    """Raise ArrowInvalid where an array says more than its memory holds, as a mapped file can: reading it would read
    elsewhere. A value that its type does not allow, such as text that is no UTF-8, is let pass: that costs its row."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        if not any(words in str(error) for words in OF_VALUES):
            raise
        for inner in _inner(array):  # what is around the value was looked at before it, what is beside it was not
            require_whole(inner)


def _inner(array: pa.Array) -> list[pa.Array]:
    if isinstance(array, pa.StructArray):
        return [array.field(k) for k in range(array.type.num_fields)]
    if isinstance(array, pa.DictionaryArray):
        return [array.dictionary]
    return [array.values] if hasattr(array, "values") else []


def _has(what: Callable[[pa.DataType], bool], kind: pa.DataType) -> bool:
    inner = getattr(kind, "num_fields", 0)
    return what(kind) or any(_has(what, kind.field(k).type) for k in range(inner))


def _is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.JsonType)


def _row(batch: pa.RecordBatch, position: int) -> Any:
    try:
        return batch.slice(position, 1).to_pylist()[0]
    except NO_VALUE:
        return _by_cells(batch, position)


def _by_cells(batch: pa.RecordBatch, position: int) -> Any:
    try:
        return as_object((name, _value(batch.column(k)[position])) for k, name in enumerate(batch.schema.names))
    except UnicodeDecodeError as error:
        return refused("invalid_utf8", str(error), "")


def as_object(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of fields; of a name that stands more than once, what is there is one odd cell."""
    values: dict[str, list[Any]] = {}
    for name, value in fields:
        values.setdefault(name, []).extend([] if value is None else [value])
    return {name: (there[0] if len(there) == 1 else Odd(there)) if there else None for name, there in values.items()}


def _value(cell: pa.Scalar) -> Any:
    """A cell as a Python value. Raises UnicodeDecodeError for text that is no UTF-8."""
    if not cell.is_valid:
        return None
    kind = cell.type
    if isinstance(cell, pa.MapScalar):
        return [(_value(pair[0]), _value(pair[1])) for pair in cell.values]
    if isinstance(cell, pa.StructScalar):
        return as_object((kind.field(k).name, _value(cell[k])) for k in range(kind.num_fields))
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar | pa.ListViewScalar):
        return [_value(inner) for inner in cell.values]
    if isinstance(kind, pa.JsonType):
        return _parsed(cell.value.as_py())
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except NO_VALUE:
        inner = getattr(cell, "value", None)
        return _value(inner) if isinstance(inner, pa.Scalar) else Odd(_known(cell))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _known(cell: pa.Scalar) -> Any:
    """What can be said of a cell that is no Python value: seconds of a duration, else text. A time in a zone that
    nobody knows is that of UTC with the zone's name, as RFC 9557 writes it; of one out of range the number is told."""
    kind = cell.type
    if pa.types.is_duration(kind):
        return cell.value / PER_SECOND[kind.unit]
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    try:
        if zone is None:
            return cell.cast(pa.string()).as_py()
        moment = pa.scalar(cell.value, pa.timestamp(kind.unit)).cast(pa.string()).as_py()
        return moment if moment.startswith("<") else f"{moment.replace(' ', 'T')}Z[{zone}]"
    except NO_VALUE:
        return f"<{kind}>"
