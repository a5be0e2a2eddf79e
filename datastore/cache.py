"""Copies of files on this host, by the sha256 of their bytes: read from there, fetched once, shared by all processes.

A copy is complete or not there: it is written aside, digested, then renamed. It is no part of a store: the folder may
be deleted at any time, and a copy that does not match its name is dropped. The least recently used go when there are
more bytes than GRADSIFT_CACHE_BYTES (50 GB); what a process has open it can read to the end.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gradsift.datastore import files, inside
from gradsift.datastore.errors import InputError

TMP_PREFIX = ".tmp-"
LIMIT = "GRADSIFT_CACHE_BYTES"
DEFAULT_BYTES = 50_000_000_000
_OURS = re.compile(rf"[0-9a-f]{{64}}|{re.escape(TMP_PREFIX)}[0-9a-f]{{32}}")  # whatever else lies there is left alone


class Cache:
    """The copies in a folder, which is made when the first is written. Raises CorruptionError where it is a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = inside.require(folder.parent, folder)
        self.limit = _limit()

    def path(self, sha256: str) -> Path:
        """Where a copy is, or would be."""
        return self.folder / sha256

    def touch(self, sha256: str) -> None:
        """Note that a copy is used now, as the time of its reading: that of its writing would say it was changed."""
        with suppress(OSError):
            path = self.path(sha256)
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def drop(self, sha256: str) -> None:
        """Delete a copy, if it is there."""
        self.path(sha256).unlink(missing_ok=True)

    @contextmanager
    def aside(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file to write a copy to, which is deleted at the end unless `admit` took it.

        It is locked meanwhile: the system lets a lock go with its process, and so `keep` tells a file that is being
        written from what a killed process left. Raises StoreFullError when there is no space.
        """
        path = self.folder / f"{TMP_PREFIX}{secrets.token_hex(16)}"
        with files.disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = _locked(path)
            try:
                with handle:
                    yield path, handle
            finally:
                path.unlink(missing_ok=True)

    def admit(self, path: Path, sha256: str) -> None:
        """Make a file of `aside` the copy of this digest, which the caller has checked."""
        path.rename(self.path(sha256))
        self._evict(sha256)

    def keep(self, known: Collection[str]) -> None:
        """Delete all copies but those of these digests, and what killed processes left half written."""
        for entry in self._entries():
            if entry.name.startswith(TMP_PREFIX):
                _delete_abandoned(Path(entry.path))
            elif entry.name not in known:
                self.drop(entry.name)

    def _evict(self, newest: str) -> None:
        copies = []
        for entry in self._entries():
            if not entry.name.startswith(TMP_PREFIX):
                with suppress(FileNotFoundError):  # another process may have dropped it
                    state = entry.stat(follow_symlinks=False)
                    copies.append((max(state.st_atime, state.st_mtime), entry.name, state.st_size))
        excess = sum(size for _, _, size in copies) - self.limit
        for _, name, size in sorted(copies):
            if excess <= 0:
                return
            if name != newest:
                self.drop(name)
                excess -= size

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return [
                    entry for entry in entries if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []


def _limit() -> int:
    text = os.environ.get(LIMIT, "")
    if text and not text.isdigit():
        raise InputError(f"{LIMIT} is {text!r}; give a number of bytes, such as {DEFAULT_BYTES}")
    return int(text) if text else DEFAULT_BYTES


def _locked(path: Path) -> BinaryIO:
    """A new file, open for writing and reading, and locked."""
    while True:
        handle = path.open("w+b")
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle.fileno()).st_nlink:
            return handle
        handle.close()  # somebody took it for an abandoned one before it was locked


def _delete_abandoned(path: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
