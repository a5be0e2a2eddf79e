"""What a host keeps of a dataset, so that a question about it need not read it all again: a cache, no part of a store.

    kept/<kind>-<digest of the dataset>-<sha256 of the file>

in the host's own folder of the store. A file is of the members of one dataset, by their digest, so it is never stale;
it is written aside and renamed when it is whole, and its bytes are checked on first use in a process. There is one of a
kind: a new one takes the place of the others, and any may be deleted at any time.

What was deleted is in no such file. A deletion makes each dataset that held the example void, in the transaction that
takes it out; `collect`, which a deletion and `gradsift gc` call, drops what is of no dataset that stands, and what was
being written. Who writes looks once more before it renames, while no `collect` can run in this folder: either it sees
that its dataset is void, or `collect` comes later and sees the file.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gradsift.datastore import examples, files, inside
from gradsift.datastore.errors import BusyError
from gradsift.datastore.identity import digest_file
from gradsift.datastore.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "kept"
TMP_PREFIX = ".tmp-"
_OURS = re.compile(rf"[a-z0-9]+-[0-9a-f]{{64}}-[0-9a-f]{{64}}|{re.escape(TMP_PREFIX)}[0-9a-f]{{32}}")


def key_of(store: Store, dataset_id: int) -> str:
    """The digest of a dataset, or of what is left of it where examples of it were deleted. Raises InputError."""
    row = store.catalog.one("SELECT digest, void FROM dataset WHERE dataset_id=?", (dataset_id,))
    if row is not None and row["void"] is None:
        return str(row["digest"])
    return examples.standing(store, dataset_id).digest


def open_kept(store: Store, kind: str, key: str) -> "pa.NativeFile | None":
    """A map of the file of a kind and of a dataset's digest, its bytes checked first (about 1 GB/s); None where there
    is none. One that is damaged is deleted: it is made again."""
    for path in _entries(store):
        if path.name.startswith(f"{kind}-{key}-"):
            with suppress(FileNotFoundError):  # another process has a new one
                if digest_file(path) == path.name.rpartition("-")[2]:
                    return _map(path)
                path.unlink()
    return None


def keep(store: Store, kind: str, key: str, fill: Callable[[BinaryIO], None]) -> "pa.NativeFile":
    """Write the file of a kind and of a dataset's digest, in the place of all others of the kind; returns a map of it.

    Raises BusyError where an example of the dataset was deleted meanwhile, StoreFullError where there is no space.
    """
    folder = inside.require(store.root, store.root / FOLDER)
    temporary = folder / f"{TMP_PREFIX}{secrets.token_hex(16)}"
    with files.disk_errors(temporary):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as handle:
                fill(handle)
            files.failpoint("filled")
            with _alone(store):
                final = folder / f"{kind}-{key}-{digest_file(temporary)}"
                if key not in _standing(store):
                    raise BusyError(f"examples were deleted from {store.root} meanwhile; run this again")
                temporary.rename(final)
                for path in _entries(store):
                    if path.name.startswith(f"{kind}-") and path != final:
                        path.unlink(missing_ok=True)
                return _map(final)
        except FileNotFoundError:
            raise BusyError(f"a deletion from {store.root} took away what was being written; run this again") from None
        finally:
            temporary.unlink(missing_ok=True)


def collect(store: Store, grace: float) -> list[tuple[str, int]]:
    """Delete what `garbage` lists; returns it."""
    if not _is_there(store):
        return []
    with _alone(store):
        gone = garbage(store, grace)
        for name, _ in gone:
            (store.root / name).unlink(missing_ok=True)
    return gone


def garbage(store: Store, grace: float) -> list[tuple[str, int]]:
    """(name, bytes) of what is of no dataset that stands, and of what has been half written for `grace` seconds."""
    entries = _entries(store)
    standing = _standing(store) if entries else set()
    found = []
    for path in entries:
        with suppress(FileNotFoundError):  # a writer may just have renamed it
            state = path.stat()
            unfinished = path.name.startswith(TMP_PREFIX)
            if time.time() - state.st_mtime > grace if unfinished else path.name.split("-")[1] not in standing:
                found.append((f"{FOLDER}/{path.name}", state.st_size))
    return found


def _standing(store: Store) -> set[str]:
    return {row["digest"] for row in store.catalog.rows("SELECT digest FROM dataset WHERE void IS NULL")}


def _entries(store: Store) -> list[Path]:
    """Our files in the folder; a link, or whatever else lies there, is left alone."""
    if not _is_there(store):
        return []
    entries = (store.root / FOLDER).iterdir()
    return sorted(p for p in entries if _OURS.fullmatch(p.name) and p.is_file() and not p.is_symlink())


def _map(path: Path) -> "pa.NativeFile":
    import pyarrow as pa

    return pa.memory_map(str(path))


def _is_there(store: Store) -> bool:
    folder = store.root / FOLDER
    return folder.is_dir() and not folder.is_symlink()


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """While no other process of this host renames or collects here. The system lets the lock go with its process."""
    lock = inside.opened(store.root, f"{FOLDER}/.lock", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open(lock, "a") as handle:  # noqa: PTH123 - a handle
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
