"""What a shard must be, beside having the bytes that the catalog has a digest of.

A digest says that a file is the one that was committed. Who can write the catalog, of a store that came from elsewhere
say, can have it say so of any bytes, and a reader that trusts offsets in them reads outside its memory. So what a file
of its kind must have is looked at when a process first opens it: columns and types, and of files that are mapped, that
every offset stays inside and that texts are UTF-8. What only shows when rows are read, `Reading` tells as damage, too.

Cost: of mapped rows, their ids once; of Parquet, the file's foot.
"""

from types import TracebackType
from typing import TYPE_CHECKING

from gradsift.datastore.errors import CorruptionError

if TYPE_CHECKING:  # it takes a while to import, and a look at the catalog does not need it
    import pyarrow as pa

VECTORS = ("int8", "uint8", "halffloat")
MESSAGES = "list<item: struct<role: string, content: string>>"


class Reading:
    """An open shard, for `with`, which closes it: what a reader raises over bytes that are no such file becomes a
    CorruptionError that names it."""

    def __init__(self, what: str, file: "pa.NativeFile") -> None:
        self._what, self._file = what, file

    def __enter__(self) -> "pa.NativeFile":
        return self._file

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None and is_unreadable(error):
            raise CorruptionError(f"{self._what} cannot be read: {first_line(error)}. Run `gradsift verify`") from error


def is_unreadable(error: BaseException) -> bool:
    """Whether this is what readers of files raise over bytes that are none of theirs, and no error of a disk."""
    import pyarrow as pa

    if isinstance(error, OSError):
        return error.errno is None  # as Arrow says what is wrong with a file
    return isinstance(error, pa.ArrowException | UnicodeDecodeError | SystemError)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def require(kind: str, file: "pa.NativeFile") -> None:
    """Raise CorruptionError where a file is not what a shard of its kind is. Does not close it."""
    try:
        if kind == "features":
            _require_rows(file)
        elif kind in ("examples", "scores"):
            _require_table(kind, file)
    except Exception as error:
        if isinstance(error, KeyError) or is_unreadable(error):
            raise CorruptionError(f"it is no file of {kind}: {first_line(error)}. Run `gradsift verify`") from error
        raise


def _require_rows(file: "pa.NativeFile") -> None:
    import pyarrow as pa

    opened = pa.ipc.open_file(file)
    schema = opened.schema
    vector = schema.field("vector").type
    plain = {name: str(schema.field(name).type) for name in ("example_id", "scale", "norm")}
    if not pa.types.is_fixed_size_list(vector) or str(vector.value_type) not in VECTORS:
        raise pa.ArrowInvalid(f"vectors of {vector}")
    if plain != {"example_id": "string", "scale": "float", "norm": "float"}:
        raise pa.ArrowInvalid(f"columns of {plain}")
    for text in (schema.metadata or {}).values():
        text.decode()
    for k in range(opened.num_record_batches):
        opened.get_batch(k).validate(full=True)


def _require_table(kind: str, file: "pa.NativeFile") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    wanted = {"example_id": "string"} | ({"messages": MESSAGES} if kind == "examples" else {})
    for name, of in wanted.items():
        found = str(schema.field(name).type).replace("large_", "").replace("<element", "<item")
        if found != of:
            raise pa.ArrowInvalid(f"{name} is {found}")
