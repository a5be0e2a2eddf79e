"""Files in a local folder. A write is: temporary → fsync → sha256 → rename → fsync of the folder.

A file written here is not yet part of the store; the catalog row that follows makes it so.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gradsift.datastore import files, inside, quick
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
        self._ready: dict[str, files.Stamp] = {}  # of files that this process has found whole, as they were then

    def write(self, kind: str, suffix: str, fill: Fill) -> StoredFile:
        """Write a new file `kind/<random hex><suffix>` durably and return its name and digest.

        On any error the temporary file is removed. Raises StoreFullError when the disk is full.
        """
        token = secrets.token_hex(16)
        temporary, final = f"{TMP_PREFIX}{token}", f"{token}{suffix}"
        inside.parts_of(self.root, f"{kind}/{final}")
        with files.disk_errors(self.root / kind / final), inside.folder(self.root, kind, make=True) as folder:
            try:
                new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | inside.FLAGS, 0o666, dir_fd=folder)
                with open(new, "w+b") as handle:  # noqa: PTH123 - a handle
                    fill(handle)
                    files.failpoint("written")
                    handle.flush()
                    os.fsync(handle.fileno())
                files.failpoint("synced")
                with inside.path_of(self.root, f"{kind}/{temporary}") as path:
                    size, (sha, quickly) = path.stat().st_size, quick.both(path)
                os.rename(temporary, final, src_dir_fd=folder, dst_dir_fd=folder)
                files.failpoint("renamed")
                os.fsync(folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
        if self.notes is not None:
            self.notes.note(sha, quickly)
        return StoredFile(f"{kind}/{final}", size, sha)

    def there(self, file: StoredFile) -> bool:
        """Whether a file is there with its size."""
        try:
            with self._path(file.name) as path:
                return path.stat().st_size == file.bytes
        except CorruptionError:
            return False

    def check(self, file: StoredFile) -> None:
        """Read a file (about 1 GB/s) and compare it with its record; raises CorruptionError, naming the file."""
        try:
            with self._path(file.name) as path:
                size = path.stat().st_size
                if size != file.bytes:
                    raise CorruptionError(f"{file.name} has {size} bytes, not {file.bytes}. {ADVICE}")
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
        """Read a file, at the speed of memory where a process on this host has checked it before, else `check`; not at
        all where `is_ready`."""
        if self.is_ready(file):
            return
        stamp = files.stamp(self.root / file.name)  # before it is read: who writes to it meanwhile changes it
        self._read(file)
        if stamp is not None:
            self._ready[file.name] = stamp

    def is_ready(self, file: StoredFile) -> bool:
        """Whether this process has found it whole and its inode, size and time are as they were then."""
        known = self._ready.get(file.name)
        return known is not None and known == files.stamp(self.root / file.name)

    def _read(self, file: StoredFile) -> None:
        noted = None if self.notes is None else self.notes.of(file.sha256)
        if noted is not None:
            with self._path(file.name) as path, suppress(OSError):
                if path.stat().st_size == file.bytes and quick.quick_digest(path) == noted:
                    return
        self.check(file)

    def open(self, file: StoredFile) -> "pa.NativeFile":
        """A file's bytes for reading, with seek. Check it first."""
        import pyarrow as pa

        with self._path(file.name) as path:
            return pa.OSFile(str(path))

    def map(self, file: StoredFile) -> "pa.NativeFile":
        """A memory map of a file; what was read from it stays valid after it is closed. Check it first."""
        import pyarrow as pa

        with self._path(file.name) as path:
            return pa.memory_map(str(path))

    def delete(self, name: str) -> None:
        """Delete a file; names that lead elsewhere (a forged catalog, a link) are left alone."""
        if len(PurePosixPath(name).parts) == 2:
            with suppress(CorruptionError):
                inside.unlink(self.root, name)

    def list(self, kind: str) -> Iterator[Listed]:
        """Files of a kind, by name, finished or not."""
        with suppress(FileNotFoundError, CorruptionError), inside.folder(self.root, kind) as folder:
            now = inside.clock_of(folder)
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                with suppress(FileNotFoundError):  # a writer may just have renamed it
                    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(state.st_mode):
                        finished = not name.startswith(TMP_PREFIX)
                        yield Listed(f"{kind}/{name}", state.st_size, now - state.st_mtime, finished)

    def keep(self, known: Callable[[], Collection[str]]) -> None:
        """There are no copies, but there may be notes of files that are gone."""
        if self.notes is not None and self.notes.are_many():
            self.notes.keep(known())

    @contextmanager
    def _path(self, name: str) -> Iterator[Path]:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(inside.path_of(self.root, name))
            except FileNotFoundError:
                raise CorruptionError(f"{name} is in the catalog but its file is missing. {ADVICE}") from None
            yield path
