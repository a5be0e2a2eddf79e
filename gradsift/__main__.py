"""Entry point: run the command line and turn errors into one clear message and a documented exit code."""

import atexit
import errno
import json
import os
import select
import signal
import sys
import threading
import traceback
from typing import TextIO

from gradsift.datastore.errors import DiskError, GradsiftError, InputError, StoreFullError
from gradsift.datastore.files import DISK_FULL

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130
NO_READER_EXIT = 141  # as a shell says it of a program that SIGPIPE ended
TERMINATED_EXIT = 143  # and of one that SIGTERM did

OF_PATHS = (  # errors of a path that somebody gave
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY,
    errno.EXDEV,
)  # fmt: skip
DISK_REFUSES = (errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE)


_ended_by = list[int]()  # SIGTERM, noted apart: what is raised while SQLite calls Python comes out as another error


def main() -> None:
    """Run `gradsift`; exits with the code that docs/reference.md lists."""
    unread = list[bool]()
    # registered first, it runs last: threads that still read for an answer which nobody wants must not see Python end
    atexit.register(lambda: os._exit(NO_READER_EXIT) if unread else None)
    listens = threading.current_thread() is threading.main_thread()
    listens = listens and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if listens:
        _ended_by.clear()
        signal.signal(signal.SIGTERM, _terminate)
    try:
        _run()
    except BrokenPipeError:
        if not (_has_no_reader(sys.stdout) or _has_no_reader(sys.stderr)):
            raise  # of another pipe
        unread.append(True)
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # as Rich ends where nobody reads
            raise
        unread.append(True)
    finally:
        if listens:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, _frame: object) -> None:
    """Stop the command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one waits for nothing
    _ended_by.append(number)
    raise KeyboardInterrupt


def _has_no_reader(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    asked = select.poll()
    asked.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _run() -> None:
    from cyclopts import CycloptsError

    from gradsift.cli import app

    try:
        try:
            app(exit_on_error=False, error_formatter=_panel)
        finally:
            print(end="", flush=True)  # not as Python ends, when none of these could tell what is wrong
    except CycloptsError:
        sys.exit(USAGE_EXIT)  # cyclopts has printed what is wrong
    except GradsiftError as error:
        sys.exit(_report(str(error), error.exit_code))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        code = TERMINATED_EXIT if _ended_by else INTERRUPTED_EXIT
        sys.exit(_report("stopped; run the same command again to go on", code))
    except Exception as error:  # noqa: BLE001 - told with all that is known of it
        if isinstance(error, OSError) and (of_disk := _of_disk(error)):
            sys.exit(_report(*of_disk))
        sys.stderr.write(_visible(traceback.format_exc()))  # a fault of ours: what is needed to find it
        sys.exit(_report("this is a fault of gradsift; please report what is above", GradsiftError.exit_code))


def _of_disk(error: OSError) -> tuple[str, int] | None:
    """What to say of a file system that refused or failed, and the exit code; None for an error of something else."""
    if error.errno in DISK_FULL:
        return "no space left on the disk; free some and run again", StoreFullError.exit_code
    if error.errno in DISK_REFUSES:
        said = (
            f"{error.filename or 'a file'} cannot be used: {error.strerror}. Nothing committed is lost: see to the "
            "disk, and to who may write there, and run the same command again; it goes on"
        )
        return said, DiskError.exit_code
    if error.filename is not None and error.errno in OF_PATHS:
        return f"{error.filename}: {error.strerror}; name another path, or make this one usable", InputError.exit_code
    return None


def _report(message: str, code: int) -> int:
    if "--json" in sys.argv and not getattr(sys.modules.get("gradsift.cli.show"), "answered", False):
        print(json.dumps({"error": message, "exit_code": code}), flush=True)
    sys.stderr.write(f"error: {_visible(message)}\n")
    return code


def _panel(error: object) -> object:
    from cyclopts import CycloptsPanel

    return CycloptsPanel(_visible(str(error)))


def _visible(message: str) -> str:
    from gradsift.pipelines.tables import visible

    return visible(message)


if __name__ == "__main__":
    main()
