"""The local disk: making writes durable, telling a full disk from other errors, and the kind of file system."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from gradsift.datastore.errors import DiskError, InputError, StoreFullError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ROOM = 1 << 16  # bytes that are tried
Stamp = tuple[int, int, int, int]  # device, inode, size in bytes, time of the last writing in ns
WRITABLE = "Mount it so that this user may write there, or work on a copy of the store."
FAILS = (
    "the disk of {} fails ({}). Nothing committed is lost unless it has lost it: look at the system's log and at the "
    "disk, then run `gradsift verify`"
)
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "fuse.sshfs", "9p"}

# Tests put a function here that stops the process at a named step of a commit.
failpoint: Callable[[str], None] = lambda _step: None  # noqa: E731


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk (ENOSPC, EDQUOT, EFBIG) into StoreFullError, one that fails or refuses (EIO, EROFS, EACCES) into
    DiskError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise DiskError(FAILS.format(path.parent, error.strerror)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError(f"{path.parent} cannot be written to: {error.strerror}. {WRITABLE}") from error
        if error.errno not in DISK_FULL:
            raise
        raise StoreFullError(
            f"no space left while writing {path.parent} ({error.strerror}). Nothing committed is lost: "
            "free some space and run the same command again; it resumes."
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those that it is in, where they are not there: durably, as the files in it are to be."""
    for one in [*reversed(folder.parents), folder]:
        if not one.exists():
            one.mkdir(exist_ok=True)
            fsync_folder(one.parent)


def stamp(path: Path) -> Stamp | None:
    """What changes when somebody changes or replaces an ordinary file, at the cost of a system call; None where there
    is none. A link is none."""
    try:
        state = path.lstat()
    except (OSError, ValueError):
        return None
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) if S_ISREG(state.st_mode) else None


def followed(path: Path) -> Path:
    """A path, absolute and without links. Raises InputError for one that no file can have."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL; links in a circle
        raise InputError(f"{str(path)!r} cannot be the path of a file: {error}; give another") from None


def has_room(path: Path, size: int) -> bool:
    """Whether a file beside this one may grow beyond `size` bytes: neither the disk is full nor a quota or a limit of
    this process. It is tried, on a file of its own."""
    beside = path.with_name(f".tmp-{secrets.token_hex(16)}")
    try:
        with beside.open("xb") as handle:
            os.pwrite(handle.fileno(), bytes(ROOM), size)
            os.fsync(handle.fileno())
    except OSError as error:
        return error.errno not in DISK_FULL
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return True


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


def file_system_type(path: Path) -> str:
    """Type of the file system that holds a path, or '' where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best = ("", "")
    for line in mounts.read_text("utf-8", "replace").splitlines():
        _, point, kind, *_ = line.split()
        inside = str(path.resolve()) == point or str(path.resolve()).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def on_network(path: Path) -> bool:
    """Whether a path lies on a file system that several hosts can share."""
    return file_system_type(path) in NETWORK_FILE_SYSTEMS
