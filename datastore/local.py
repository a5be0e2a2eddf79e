"""Files in a local folder. A write is: temporary → fsync → sha256 → rename → fsync of the folder.

A file written here is not yet part of the store; the catalog row that follows makes it so.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gradsift.datastore import files, quick
from gradsift.datastore.backend import ADVICE, Backend, Fill, Listed, StoredFile
from gradsift.datastore.errors import CorruptionError

if TYPE_CHECKING:  # it takes a while to import, and a look at the catalog does not need it
    import pyarrow as pa

TMP_PREFIX = ".tmp-"


class LocalFiles(Backend):
    """The files below a folder, which is made when the first is written."""

    def __init__(self, root: Path, notes: Path | None = None) -> None:
        """`notes`: a file for quick digests (`datastore/quick.py`), where the catalog is no safer than these files."""
        self.root = root
        self.notes = None if notes is None else quick.Notes(notes)

    def write(self, kind: str, suffix: str, fill: Fill) -> StoredFile:
        """Write a new file `kind/<random hex><suffix>` durably and return its name and digest.

        On any error the temporary file is removed. Raises StoreFullError when the disk is full.
        """
        folder = self.root / kind
        token = secrets.token_hex(16)
        temporary, final = folder / f"{TMP_PREFIX}{token}", folder / f"{token}{suffix}"
        with files.disk_errors(final):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as handle:
                    fill(handle)
                    files.failpoint("written")
                    handle.flush()
                    os.fsync(handle.fileno())
                files.failpoint("synced")
                size, (sha, quickly) = temporary.stat().st_size, quick.both(temporary)
                temporary.rename(final)
                files.failpoint("renamed")
                files.fsync_folder(folder)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
        if self.notes is not None:
            self.notes.note(sha, quickly)
        return StoredFile(f"{kind}/{final.name}", size, sha)

    def there(self, file: StoredFile) -> bool:
        """Whether a file is there with its size."""
        try:
            return self._path(file.name).stat().st_size == file.bytes
        except (CorruptionError, FileNotFoundError):
            return False

    def check(self, file: StoredFile) -> None:
        """Read a file (about 1 GB/s) and compare it with its record; raises CorruptionError, naming the file."""
        path = self._path(file.name)
        size = path.stat().st_size
        if size != file.bytes:
            raise CorruptionError(f"{file.name} has {size} bytes, not {file.bytes}. {ADVICE}")
        try:
            digest, quickly = quick.both(path)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise CorruptionError(f"{file.name} cannot be read from its disk any more. {ADVICE}") from error
        if digest != file.sha256:
            raise CorruptionError(f"{file.name} does not match its digest (changed bytes). {ADVICE}")
        if self.notes is not None:
            self.notes.note(digest, quickly)

    def ready(self, file: StoredFile) -> None:
        """Read a file, at the speed of memory where a process on this host has checked it before, else `check`."""
        noted = None if self.notes is None else self.notes.of(file.sha256)
        if noted is not None:
            path = self._path(file.name)
            with suppress(OSError):
                if path.stat().st_size == file.bytes and quick.quick_digest(path) == noted:
                    return
        self.check(file)

    def open(self, file: StoredFile) -> "pa.NativeFile":
        """A file's bytes for reading, with seek. Check it first."""
        import pyarrow as pa

        return pa.OSFile(str(self._path(file.name)))

    def map(self, file: StoredFile) -> "pa.NativeFile":
        """A memory map of a file; what was read from it stays valid after it is closed. Check it first."""
        import pyarrow as pa

        return pa.memory_map(str(self._path(file.name)))

    def delete(self, name: str) -> None:
        """Delete a file; names that lead elsewhere (a forged catalog, a link) are left alone."""
        parts = PurePosixPath(name).parts
        if len(parts) != 2 or ".." in parts:
            return
        path = self.root / name
        if path.parent.resolve() == self.root.resolve() / parts[0]:  # else the folder is a link
            path.unlink(missing_ok=True)

    def list(self, kind: str) -> Iterator[Listed]:
        """Files of a kind, by name, finished or not."""
        folder = self.root / kind
        if not folder.is_dir() or folder.is_symlink():
            return
        now = time.time()
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):  # a writer may just have renamed it
                if path.is_file():
                    state = path.stat()
                    finished = not path.name.startswith(TMP_PREFIX)
                    yield Listed(f"{kind}/{path.name}", state.st_size, now - state.st_mtime, finished)

    def keep(self, known: Callable[[], Collection[str]]) -> None:
        """There are no copies, but there may be notes of files that are gone."""
        if self.notes is not None and self.notes.are_many():
            self.notes.keep(known())

    def _path(self, name: str) -> Path:
        path = self.root / name
        if path.is_symlink() or not path.resolve().is_relative_to(self.root.resolve()):
            raise CorruptionError(f"{name} leads out of the store; refusing to read it")
        if not path.is_file():
            raise CorruptionError(f"{name} is in the catalog but its file is missing. {ADVICE}")
        return path
