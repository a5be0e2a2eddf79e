"""The local disk: making writes durable, telling a full disk from other errors, and the kind of file system."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gradsift.datastore.errors import StoreFullError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "fuse.sshfs", "9p"}

# Tests put a function here that stops the process at a named step of a commit.
failpoint: Callable[[str], None] = lambda _step: None  # noqa: E731


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk (ENOSPC, EDQUOT, EFBIG) into StoreFullError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
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
