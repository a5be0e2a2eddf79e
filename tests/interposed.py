"""File operations of this process below a folder, counted: at the n-th it dies, fails, has another clock, or is looked at.

What Python does is seen: open, write, fsync, rename, unlink, mkdir and the like, pyarrow's files as they are opened,
commits of SQLite, requests to S3, and the named steps of a commit (`files.failpoint`). What SQLite and pyarrow write inside
of C is not: a process that is killed at any time (`tests/crash/test_kills.py`) may die there.

Only for a process of its own that ends with `os._exit` (tests/forked.py): nothing is ever put back.
"""

import builtins
import errno
import io
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import botocore.client
import pyarrow as pa

from gradsift.datastore import features, files

CHANGES = ("create", "write", "fsync", "rename", "unlink", "rmdir", "mkdir", "commit", "failpoint", "request")
SQLITE = {"ENOSPC": "SQLITE_FULL", "EIO": "SQLITE_IOERR_WRITE", "EACCES": "SQLITE_READONLY"}
real = {
    name: getattr(os, name) for name in ("open", "fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir")
}
real_open, real_time, real_osfile = io.open, time.time, pa.OSFile


class Watch:
    """`at`: the operation, from 1, at which `what` happens: "kill", "half" (killed when half of a write is done),
    "clock" (it jumps by `jump` seconds from then on), or the name of an errno, with which the operation fails; with
    `kinds` only operations of these kinds count."""

    def __init__(self, root, log, *, at=0, what="", jump=0.0, kinds=(), keeper=None):
        self.root, self.log = Path(root).resolve(), Path(log)
        self.at, self.what, self.jump, self.kinds, self.keeper = at, what, jump, tuple(kinds), keeper
        self.seen, self.units, self.clock = [], 0, 0.0
        self._lock, self._aside = threading.RLock(), False

    def path_of(self, path, dir_fd=None):
        """The path below the folder, or None for another's."""
        if isinstance(path, int):
            path = _opened(path)
            if not path.is_absolute():  # a pipe
                return None
        path = Path.cwd() / ("" if dir_fd is None else _opened(dir_fd)) / os.fsdecode(path)
        path = path.resolve() if path.is_relative_to("/dev/fd") else path.parent.resolve() / path.name
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None

    def reach(self, kind, name):
        """An operation is about to be done."""
        with self._lock:
            if name is None or self._aside or (self.kinds and kind not in self.kinds):
                return
            self.seen.append((kind, str(name)))
            if self.keeper is not None:
                self.keep(self.keeper.reach, len(self.seen), kind)
            if len(self.seen) != self.at:
                return
            if self.what == "kill":
                self.die()
            if self.what == "clock":
                self.clock = self.jump
            elif self.what != "half":
                fail(self.what, kind, name)

    def keep(self, do, *arguments):
        """Have the keeper do something, whose own operations do not count."""
        with self._lock:
            self._aside = True
            do(*arguments)
            self._aside = False

    def is_half(self):
        return self.what == "half" and len(self.seen) == self.at

    def die(self):
        self.note()
        os.kill(os.getpid(), signal.SIGKILL)

    def note(self):
        """Write what was seen to the log: a line for each operation, the number of computed units first."""
        with real_open(self.log, "w") as handle:
            handle.write("\n".join([str(self.units), *(f"{kind} {name}" for kind, name in self.seen)]))


def _opened(handle):
    return Path(f"/proc/self/fd/{handle}").readlink()


def fail(what, kind, name):
    if kind == "commit":
        error = sqlite3.OperationalError(f"injected {what}")
        error.sqlite_errorname = SQLITE[what]
        raise error
    raise OSError(getattr(errno, what), os.strerror(getattr(errno, what)), str(name))


def install(watch):
    """Put `watch` between this process and its files."""
    io.open = open_of(watch)
    builtins.open = io.open
    os.open = os_open_of(watch)
    for name, kind in {"rename": "rename", "replace": "rename", "unlink": "unlink", "remove": "unlink",
                       "rmdir": "rmdir", "mkdir": "mkdir"}.items():  # fmt: skip
        setattr(os, name, changing(watch, kind, real[name]))
    os.fsync = fsync_of(watch)
    pa.OSFile = osfile_of(watch)
    time.time = lambda: real_time() + watch.clock
    files.failpoint = lambda step: watch.reach("failpoint", step)
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **{"factory": connection_of(watch), **options})
    request = botocore.client.BaseClient._make_api_call

    def requested(client, name, options):
        watch.reach("request", name)
        return request(client, name, options)

    botocore.client.BaseClient._make_api_call = requested
    commit = features.commit_unit

    def counted(*arguments, **options):
        watch.units += 1
        return commit(*arguments, **options)

    features.commit_unit = counted


def open_of(watch):
    class Written(io.FileIO):
        """An unbuffered file whose writes are counted."""

        def write(self, data):
            watch.reach("write", watch.path_of(self.fileno()))
            if watch.is_half():
                super().write(memoryview(data).cast("B")[: max(1, len(data) // 2)])
                watch.die()
            return super().write(data)

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        name = watch.path_of(file)
        if name is None:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not set(mode) & set("wax+"):
            watch.reach("open", name)
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        watch.reach("create", name)
        raw = Written(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    return opened


def os_open_of(watch):
    def opened(path, flags, mode=0o777, *, dir_fd=None):
        name = watch.path_of(path, dir_fd)
        watch.reach("create" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "open", name)
        return real["open"](path, flags, mode, dir_fd=dir_fd)

    return opened


def changing(watch, kind, do):
    def done(path, *arguments, dir_fd=None, src_dir_fd=None, **options):
        watch.reach(kind, watch.path_of(path, dir_fd if dir_fd is not None else src_dir_fd))
        if dir_fd is not None:
            options["dir_fd"] = dir_fd
        if src_dir_fd is not None:
            options["src_dir_fd"] = src_dir_fd
        return do(path, *arguments, **options)

    return done


def fsync_of(watch):
    def synced(handle):
        number = handle if isinstance(handle, int) else handle.fileno()
        name = watch.path_of(number)
        watch.reach("fsync", name)
        real["fsync"](number)
        if watch.keeper is not None and name is not None:
            watch.keep(watch.keeper.synced, number)

    return synced


def osfile_of(watch):
    def opened(path, mode="rb"):
        watch.reach("open" if mode == "rb" else "create", watch.path_of(path))
        return real_osfile(path, mode)

    return opened


def connection_of(watch):
    class Watched(sqlite3.Connection):
        def execute(self, text, *arguments):
            if text == "COMMIT":
                watch.reach("commit", "catalog")
            return super().execute(text, *arguments)

    return Watched
