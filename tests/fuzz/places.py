"""Where targets put what they read: a folder of this process in memory, and a store that a run made."""

import atexit
import gzip
import itertools
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fuzz.drive import ROOT

from gradsift.datastore.identity import digest_bytes
from gradsift.datastore.store import Store

NUMBERS = itertools.count()


@cache
def folder() -> Path:
    """A folder that goes with this process."""
    made = Path(tempfile.mkdtemp(prefix="gradsift-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def file(name: str, data: bytes) -> Path:
    """A file of this name, below that folder, that holds these bytes."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    return path


@cache
def old_store() -> Store:
    """A store that a run of an older version made, with rows of several kinds, selections and checkpoints; the catalog
    writes without waiting for a disk."""
    with tarfile.open(ROOT / "tests" / "fixtures" / "store-0.2.tar.xz") as packed:
        packed.extractall(folder() / "old", filter="data")
    store = Store(folder() / "old" / "store")
    atexit.register(store.close)
    return store


def shards(kind: str) -> list[tuple[int, str]]:
    """(number, name of the file) of the store's shards of a kind, the smallest first."""
    rows = old_store().catalog.rows("SELECT shard_id, name FROM shard WHERE kind=? ORDER BY bytes, shard_id", (kind,))
    return [(int(row["shard_id"]), str(row["name"])) for row in rows]


@cache
def bytes_of(name: str) -> bytes:
    """What a file of the store holds, before anything was put in its place."""
    return (old_store().root / name).read_bytes()


@contextmanager
def forged(shard_id: int, data: bytes) -> Iterator[None]:
    """While bytes stand in the place of a shard, and the catalog says that they are right: who can write it can do so."""
    store = old_store()
    (row,) = store.catalog.rows("SELECT kind, name, bytes, sha256 FROM shard WHERE shard_id=?", (shard_id,))
    data = data or b"\0"
    name = f"{row['kind']}/{next(NUMBERS):032x}{Path(row['name']).suffix}"  # what a process has read, it knows by name
    (store.root / name).write_bytes(data)
    _say(shard_id, name, len(data), digest_bytes(data))
    try:
        yield
    finally:
        _say(shard_id, row["name"], row["bytes"], row["sha256"])
        (store.root / name).unlink()


def _say(shard_id: int, *values: object) -> None:
    with old_store().catalog.write() as db:
        db.execute("UPDATE shard SET name=?, bytes=?, sha256=? WHERE shard_id=?", (*values, shard_id))


def packed(data: bytes) -> bytes:
    """gzip of some bytes, the same whenever it is made."""
    return gzip.compress(data, mtime=0)
