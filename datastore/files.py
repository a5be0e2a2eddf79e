"""The commit protocol for files: temporary → fsync → sha256 → rename → fsync of the folder.

A file written here is not yet part of the store; the catalog row that follows makes it so. Every byte
that the store writes goes through `write_file`, and every byte that it reads through `check_file`.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gradsift.datastore.errors import CorruptionError, StoreFullError
from gradsift.datastore.identity import digest_file

TMP_PREFIX = ".tmp-"

# Tests put a function here that stops the process at a named step of the protocol.
failpoint: Callable[[str], None] = lambda _step: None  # noqa: E731


@dataclass(frozen=True)
class WrittenFile:
    """A durable file, not yet committed. `name` is its path below the root."""

    name: str
    bytes: int
    sha256: str


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk (ENOSPC, EDQUOT, EFBIG) into StoreFullError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StoreFullError(
            f"no space left while writing {path.parent} ({error.strerror}). Nothing committed is lost: "
            "free some space and run the same command again; it resumes."
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_path(path: Path) -> None:
    """Make a written file durable."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_file(root: Path, kind: str, suffix: str, fill: Callable[[BinaryIO], None]) -> WrittenFile:
    """Write a new file `kind/<random hex><suffix>` durably and return its name and digest.

    `fill` writes the content to a binary handle. On any error the temporary file is removed.
    Raises StoreFullError when the disk is full.
    """
    folder = root / kind
    token = secrets.token_hex(16)
    temporary, final = folder / f"{TMP_PREFIX}{token}", folder / f"{token}{suffix}"
    with disk_errors(final):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as handle:
                fill(handle)
                failpoint("written")
                handle.flush()
                os.fsync(handle.fileno())
            failpoint("synced")
            size, sha = temporary.stat().st_size, digest_file(temporary)
            temporary.rename(final)
            failpoint("renamed")
            fsync_folder(folder)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return WrittenFile(f"{kind}/{final.name}", size, sha)


def check_file(root: Path, name: str, size: int, sha256: str) -> Path:
    """Path of a committed file whose bytes are what the catalog says.

    Raises CorruptionError, naming the file, when it is missing, cut, changed, or not inside the root.
    """
    path = root / name
    advice = "Run `gradsift verify --drop` to forget it; the next run computes it again."
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise CorruptionError(f"{name} leads out of the store; refusing to read it")
    if not path.is_file():
        raise CorruptionError(f"{name} is in the catalog but its file is missing. {advice}")
    if path.stat().st_size != size:
        raise CorruptionError(f"{name} has {path.stat().st_size} bytes, not {size}. {advice}")
    if digest_file(path) != sha256:
        raise CorruptionError(f"{name} does not match its digest (changed bytes). {advice}")
    return path
