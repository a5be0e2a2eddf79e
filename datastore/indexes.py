"""Search indexes in the catalog: which there are, whether they still hold the rows of their space, and their files.

An index is a cache beside exact search (`datastore/search.py`): it can be dropped at any time and built again
(`datastore/index_build.py`). It is bound to the digests of the shards whose rows it holds, in order:

| state | shards of the space | what a search does (`datastore/index_search.py`) |
|---|---|---|
| `fresh` | those that it holds | asks it |
| `behind` | those, and new ones | asks it, and searches the new ones exactly |
| `stale` | one that it holds has left or was replaced | refuses it, with the command that refreshes it |

Its file is no shard: it is opened only after the digest of the very bytes that FAISS then reads was checked.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from gradsift.datastore import ann, files
from gradsift.datastore.ann import Kind, Plan
from gradsift.datastore.backend import StoredFile
from gradsift.datastore.engine import Engine, Row, Transaction
from gradsift.datastore.errors import BusyError, CorruptionError, InputError, UnavailableError
from gradsift.datastore.store import Store, stored_file

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "indexes"  # of the store: the kind of its files
PIECE = 4 << 20  # bytes of a file that are read at once
ADVICE = "`gradsift index refresh` builds it again from the rows; without --index a query searches them exactly."
State = Literal["fresh", "behind", "stale"]


@dataclass(frozen=True)
class Shard:
    """A shard of feature rows: its number, the digest of its file, and how many rows it has."""

    shard_id: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Measured:
    """An index against exact search, by questions that did not tune it.

    `recall`: share of the `k` nearest rows that it finds, of those with the exact cosines. `effort`: how far it looks
    (`ann`), the least that reached the aim with the tuning questions. `speedup`: time of exact search over its own, one
    question at a time, opened; `speedup_many`: all questions at once.
    """

    k: int
    recall: float
    effort: int
    speedup: float
    speedup_many: float
    questions: int
    of_targets: int  # questions that are rows of targets; the others are rows of the space, each left out of its answer


@dataclass(frozen=True)
class Index:
    """A committed index: of which rows, by what it was built, and how good it is."""

    index_id: int
    space_id: int
    name: str
    rows: int
    bytes: int
    sha256: str
    plan: Plan
    measured: Measured
    faiss: str
    shards: tuple[tuple[str, int], ...]  # (sha256, rows) of those that it holds, in the order of their rows
    created: float

    @property
    def kind(self) -> Kind:
        """Which of `ann.KINDS`."""
        return self.plan.kind


def shards_of(catalog: Engine | Transaction, space_id: int) -> list[Shard]:
    """The shards of a space, oldest first."""
    rows = catalog.rows(
        "SELECT DISTINCT s.shard_id, s.sha256, s.rows FROM unit AS u JOIN shard AS s USING (shard_id) "
        "WHERE u.space_id=? ORDER BY s.shard_id",
        (space_id,),
    )
    return [Shard(int(row["shard_id"]), row["sha256"], int(row["rows"])) for row in rows if row["rows"]]


def rows_of_shards(store: Store, space_id: int) -> dict[int, int]:
    """{shard: rows} that an index of a space is built from."""
    return {shard.shard_id: shard.rows for shard in shards_of(store.catalog, space_id)}


def find_space(store: Store, start: str) -> int:
    """The feature space whose fingerprint starts so. Raises InputError for none and for several."""
    rows = store.catalog.rows("SELECT space_id, fingerprint FROM feature_space ORDER BY space_id")
    matching = [int(row["space_id"]) for row in rows if start and str(row["fingerprint"]).startswith(start)]
    if len(matching) != 1:
        many = "several feature spaces have" if matching else "no feature space has"
        raise InputError(f"{many} a fingerprint that starts with {start!r}; `gradsift status` lists them")
    return matching[0]


def all_of(store: Store, space_id: int | None = None) -> list[Index]:
    """The indexes of a space, or of the store, by space and in the order of `ann.KINDS`."""
    where, values = ("", ()) if space_id is None else (" WHERE space_id=?", (space_id,))
    rows = store.catalog.rows(f"SELECT * FROM search_index{where}", values)
    return sorted((_index(store, row) for row in rows), key=lambda index: (index.space_id, ann.KINDS.index(index.kind)))


def get(store: Store, space_id: int, kind: str) -> Index | None:
    """The index of a kind over a space, if there is one."""
    row = store.catalog.one("SELECT * FROM search_index WHERE space_id=? AND kind=?", (space_id, kind))
    return None if row is None else _index(store, row)


def state(store: Store, index: Index) -> State:
    """Whether the space still has the rows that the index holds, and no others."""
    try:
        return "behind" if placed(store, index)[1] else "fresh"
    except InputError:
        return "stale"


def placed(store: Store, index: Index) -> tuple[list[int], list[Shard]]:
    """Numbers of the shards that the index holds, in its order, and the shards that came since.

    Raises InputError for a stale index.
    """
    now = {shard.sha256: shard for shard in shards_of(store.catalog, index.space_id)}
    try:
        held = [now.pop(digest).shard_id for digest, _ in index.shards]
    except KeyError:
        raise InputError(
            f"the {index.kind} index holds rows that were replaced or deleted since it was built. {ADVICE}"
        ) from None
    return held, list(now.values())


def read(store: Store, index: Index, dims: int) -> Any:
    """The FAISS index of a file, its bytes checked first (about 1 GB/s). Raises CorruptionError.

    Cost: the file is read twice by pieces, and digested each time; what FAISS makes of it stays in memory.
    """
    try:
        with _open(store, index) as file:
            return ann.read(_pieces(file, _check(file, index), index.name), index.plan, dims, index.rows, index.bytes)
    except CorruptionError as error:
        raise CorruptionError(f"the {index.kind} index: {error}. {ADVICE}") from None


def problem(store: Store, index: Index) -> str:
    """What is wrong with the file of an index, or ''."""
    try:
        store.backend.check(_file(index))
    except CorruptionError as error:
        return _without_advice(error)
    return ""


def _check(file: "pa.NativeFile", index: Index) -> list[bytes]:
    """The digest of all bytes up to the end of each piece of an index's file, which is what the catalog says."""
    if file.size() != index.bytes:
        raise CorruptionError(f"{index.name} has {file.size()} bytes, not {index.bytes}")
    whole, known = hashlib.sha256(), []
    while piece := file.read(PIECE):
        whole.update(piece)
        known.append(whole.digest())
    if whole.hexdigest() != index.sha256:
        raise CorruptionError(f"{index.name} does not match its digest (changed bytes)")
    return known


def _pieces(file: "pa.NativeFile", known: Sequence[bytes], name: str) -> Iterator[bytes]:
    """The pieces of a file that was checked, each checked again: whoever has the file open may write to it meanwhile,
    and a copy of all would take as much memory as the index."""
    file.seek(0)
    whole = hashlib.sha256()
    for digest in known:
        piece = file.read(PIECE)
        whole.update(piece)
        if whole.digest() != digest:
            raise CorruptionError(f"{name} was changed while it was read")
        yield piece


def _open(store: Store, index: Index) -> "pa.NativeFile":
    try:
        return store.backend.open(_file(index))
    except CorruptionError as error:
        raise CorruptionError(_without_advice(error)) from None


def _file(index: Index) -> StoredFile:
    if not index.name.startswith(f"{FOLDER}/"):
        raise CorruptionError(f"{index.name} is no file of an index")
    return StoredFile(index.name, index.bytes, index.sha256)


def _without_advice(error: CorruptionError) -> str:
    return str(error).partition(". ")[0]  # the advice there is for shards


def commit(
    store: Store, space_id: int, fill: Callable[[BinaryIO], None], plan: Plan, measured: Measured,
    shards: Sequence[Shard],
) -> Index:  # fmt: skip
    """Write the file of an index and make it the space's index of its kind, in the place of the one before.

    Raises BusyError when one of its shards has left meanwhile: nothing is changed then.
    """
    store.require_own_files()
    written = store.backend.write(FOLDER, ".faiss", fill)

    def put(db: Transaction) -> None:
        if _has(db, written.name):  # the answer to an earlier try was lost
            return
        if not set(shards) <= set(shards_of(db, space_id)):
            raise BusyError("the rows were changed while the index was built; build it again")
        db.execute("DELETE FROM search_index WHERE space_id=? AND kind=?", (space_id, plan.kind))
        _insert(db, space_id, (written.name, written.bytes, written.sha256), plan, measured, shards)
        files.failpoint("recorded")

    try:
        store.catalog.again(put)
    except BaseException as error:
        if not _committed(store, written.name, error):
            store.backend.delete(written.name)
        raise
    files.failpoint("committed")
    store.sweep()
    made = get(store, space_id, plan.kind)
    assert made is not None  # noqa: S101 - it was committed just now
    return made


def _insert(
    db: Transaction, space_id: int, file: tuple[str, int, str], plan: Plan, measured: Measured, shards: Sequence[Shard]
) -> None:
    name, size, sha256 = file
    rows = sum(shard.rows for shard in shards)
    settings = {"plan": {k: v for k, v in asdict(plan).items() if k != "kind"}, "faiss": ann.version()}
    (row,) = db.rows(
        "INSERT INTO search_index (space_id, kind, name, rows, bytes, sha256, settings, measured, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING index_id",
        (space_id, plan.kind, name, rows, size, sha256, json.dumps(settings), json.dumps(asdict(measured)),
         db.now()),
    )  # fmt: skip
    db.executemany(
        "INSERT INTO search_index_shard VALUES (?, ?, ?, ?)",
        ((row["index_id"], place, shard.sha256, shard.rows) for place, shard in enumerate(shards)),
    )


def _has(db: Engine | Transaction, name: str) -> bool:
    return db.one("SELECT 1 FROM search_index WHERE name=?", (name,)) is not None


def _committed(store: Store, name: str, error: BaseException) -> bool:
    try:
        if not isinstance(error, UnavailableError):
            return _has(store.catalog, name)
        with store.catalog.write() as db:  # behind the lost transaction, which the server may not have ended yet
            return _has(db, name)
    except Exception:  # noqa: BLE001 - an orphan is harmless, a deleted file is not
        return True


def merged(db: Transaction, space_id: int, old: Sequence[int], new: int) -> None:
    """Shards of a space became one, which holds all their rows in this order, and are about to leave: an index that has
    them one after the other stays what it is, any other becomes stale."""
    named = {row["shard_id"]: row for row in db.rows("SELECT shard_id, sha256, rows FROM shard WHERE kind='features'")}
    gone = [named[number]["sha256"] for number in old if named[number]["rows"]]
    for index in db.rows("SELECT index_id FROM search_index WHERE space_id=?", (space_id,)):
        held = db.rows(
            "SELECT ordinal, sha256, rows FROM search_index_shard WHERE index_id=? ORDER BY ordinal",
            (index["index_id"],),
        )
        start = next((k for k, row in enumerate(held) if row["sha256"] == gone[0]), None) if gone else None
        if start is None or [row["sha256"] for row in held[start : start + len(gone)]] != gone:
            continue
        if sum(row["rows"] for row in held[start : start + len(gone)]) != named[new]["rows"]:
            continue  # rows without an example were left out: the others have other positions now
        first, last = held[start]["ordinal"], held[start + len(gone) - 1]["ordinal"]
        db.execute(
            "DELETE FROM search_index_shard WHERE index_id=? AND ordinal BETWEEN ? AND ?",
            (index["index_id"], first, last),
        )
        db.execute(
            "INSERT INTO search_index_shard VALUES (?, ?, ?, ?)",
            (index["index_id"], first, named[new]["sha256"], named[new]["rows"]),
        )


def drop(store: Store, space_ids: Sequence[int] | None = None, kind: str | None = None) -> list[Index]:
    """Drop the indexes of spaces (of all), of a kind (of all): their rows and their files, at once; returns them.

    A deletion calls it, so that no vector of a deleted example is left in a file.
    """
    gone = [
        index
        for index in all_of(store)
        if (space_ids is None or index.space_id in space_ids) and kind in (None, index.kind)
    ]
    with store.catalog.write() as db:  # a trigger dooms the files
        db.executemany("DELETE FROM search_index WHERE index_id=?", [(index.index_id,) for index in gone])
        files.failpoint("index dropped")
    store.sweep()
    return gone


def names(store: Store) -> set[str]:
    """Names of the files of all indexes."""
    return {str(row["name"]) for row in store.catalog.rows("SELECT name FROM search_index")}


def _index(store: Store, row: Row) -> Index:
    settings: Mapping[str, Any] = json.loads(row["settings"])
    held = store.catalog.rows(
        "SELECT sha256, rows FROM search_index_shard WHERE index_id=? ORDER BY ordinal", (row["index_id"],)
    )
    file = stored_file(row)
    return Index(
        index_id=int(row["index_id"]),
        space_id=int(row["space_id"]),
        name=file.name,
        rows=int(row["rows"]),
        bytes=file.bytes,
        sha256=file.sha256,
        plan=Plan(kind=cast("Kind", row["kind"]), **settings["plan"]),
        measured=Measured(**json.loads(row["measured"])),
        faiss=settings["faiss"],
        shards=tuple((str(shard["sha256"]), int(shard["rows"])) for shard in held),
        created=float(row["created"]),
    )
