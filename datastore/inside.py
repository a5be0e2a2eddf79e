"""Files below a folder that a stranger may have filled, opened without following a link.

A store can be given: what lies in its folder, and every name in its catalog, may be forged. A link in it (`scores ->
elsewhere`, `reports/NAME.html -> a file of somebody's`), a name such as `../x`, a pipe that never ends: each would lead
whoever opens it somewhere else. So what is below a store's root is opened here, part by part from a handle of the root
(`openat` with `O_NOFOLLOW`): a link is never followed, wherever on the way and whenever it was put there, and nothing
but a plain file is opened. The way to the root itself is the user's, links and all.
"""

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gradsift.datastore import files
from gradsift.datastore.errors import BusyError, CorruptionError

FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | FLAGS


def parts_of(root: Path, name: str) -> list[str]:
    """The parts of a name below a folder. Raises CorruptionError for one that leads out of it, or that no file of the
    store can have (parts that are empty or hold NUL)."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise CorruptionError(f"{name!r} is no name of a file in {root}: it leads out of the store; refusing to use it")
    return parts


@contextmanager
def folder(root: Path, name: str = "", *, make: bool = False) -> Iterator[int]:
    """A handle of a folder below `root` (`""`: of itself), which is made where it is not there and `make` says so.

    Raises CorruptionError where a part of the way is a link or no folder, FileNotFoundError where there is none.
    """
    if make:
        files.make_folder(root)
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts_of(root, name) if name else ():
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
                    os.fsync(at)
            below = _open(root, name, part, FOLDER, at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def clock_of(folder: int) -> float:
    """The time of the file system, by which it stamps files: a shared folder's is its server's, and this host's clock
    may be another. Where nothing can be written, this host's."""
    name = f".tmp-{secrets.token_hex(16)}"
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o600, dir_fd=folder)
        os.unlink(name, dir_fd=folder)
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
    except OSError:
        return time.time()


def opened(root: Path, name: str, flags: int = os.O_RDONLY, *, make: bool = False) -> int:
    """A handle of a plain file below `root`, as `os.open` gives one; `make`: its folder, where that is not there.

    Raises CorruptionError where it, or a folder on the way, is a link or anything else than a plain file.
    """
    above, _, last = name.rpartition("/")
    parts_of(root, name)
    with folder(root, above, make=make) as at:
        handle = _open(root, name, last, flags | FLAGS | os.O_NONBLOCK, at)  # a pipe is opened, and refused, at once
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise CorruptionError(_led_out(root, name))


@contextmanager
def path_of(root: Path, name: str) -> Iterator[Path]:
    """A path by which this process opens that very file within the block, for libraries that want a path. Raises as
    `opened`."""
    handle = opened(root, name)
    try:
        yield Path(f"/dev/fd/{handle}")
    finally:
        os.close(handle)


def read_text(root: Path, name: str) -> str:
    """The text of a file. Raises as `opened`, and UnicodeDecodeError."""
    with open(opened(root, name), encoding="utf-8") as file:
        return file.read()


def write_text(root: Path, name: str, text: str) -> None:
    """Write a file whole or not at all, in the place of what has its name: also of a link, which is not followed.
    Raises as `folder`, and StoreFullError."""
    above, _, last = name.rpartition("/")
    parts_of(root, name)
    aside = f".tmp-{secrets.token_hex(16)}"
    with files.disk_errors(root / name), folder(root, above, make=True) as at:
        try:
            new = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666, dir_fd=at)
            with open(new, "w", encoding="utf-8") as file:  # noqa: PTH123 - a handle
                file.write(text)
            try:
                os.rename(aside, last, src_dir_fd=at, dst_dir_fd=at)
            except FileNotFoundError:
                raise BusyError(f"a deletion took {name} in {root} away while it was written; run this again") from None
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=at)
            raise


def unlink(root: Path, name: str) -> None:
    """Delete a file, or a link; nothing where there is none. Raises as `folder`."""
    above, _, last = name.rpartition("/")
    parts_of(root, name)
    with suppress(FileNotFoundError), folder(root, above) as at:
        os.unlink(last, dir_fd=at)


def require(root: Path, path: Path) -> Path:
    """`path`, for libraries that open what is below it by its name. Raises CorruptionError where it, or a folder on the
    way to it, is a link below `root`; what is elsewhere is its user's, also if `..` leads there."""
    top, whole = Path(os.path.normpath(root.absolute())), path.absolute()
    at = Path(whole.anchor)
    for part in whole.parts[1:]:
        at = at.parent if part == ".." else at / part
        if top in at.parents and at.is_symlink():
            raise CorruptionError(_led_out(root, str(at.relative_to(top))))
    return path


def has_links(path: Path) -> bool:
    """Whether a folder, or anything below it, is a link. Cost: a listing of all."""
    if path.is_symlink():
        return True
    return any(entry.is_symlink() for entry in path.rglob("*")) if path.is_dir() else False


def _open(root: Path, name: str, part: str, flags: int, at: int) -> int:
    try:
        return os.open(part, flags, 0o666, dir_fd=at)
    except FileNotFoundError:
        raise
    except OSError as error:
        if _is_no_link(part, flags, at):
            raise
        raise CorruptionError(_led_out(root, name)) from error


def _is_no_link(part: str, flags: int, at: int) -> bool:
    """Whether what could not be opened is what was wanted, a folder or a plain file, so that something else failed."""
    try:
        mode = os.stat(part, dir_fd=at, follow_symlinks=False).st_mode
    except OSError:
        return True
    return stat.S_ISDIR(mode) if flags & os.O_DIRECTORY else stat.S_ISREG(mode)


def _led_out(root: Path, name: str) -> str:
    return (
        f"{root / name} leads out of the store, or is no plain file (it is a link, or lies behind one): nothing is "
        "read or written there. Look what it is, and remove it"
    )
