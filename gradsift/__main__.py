"""Entry point: run the command line and turn errors into one clear message and a documented exit code."""

import atexit
import errno
import json
import os
import select
import sys
from typing import TextIO

from gradsift.datastore.errors import GradsiftError, StoreFullError

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_REFUSES = (errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE)
NO_READER_EXIT = 141  # as a shell says it of a program that SIGPIPE ended


def main() -> None:
    """Run `gradsift`; exits with the code that docs/reference.md lists."""
    unread = list[bool]()
    # registered first, it runs last: threads that still read for an answer which nobody wants must not see Python end
    atexit.register(lambda: os._exit(NO_READER_EXIT) if unread else None)
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
            app(exit_on_error=False)
        finally:
            print(end="", flush=True)  # not as Python ends, when none of these could tell what is wrong
    except CycloptsError:
        sys.exit(USAGE_EXIT)  # cyclopts has printed what is wrong
    except GradsiftError as error:
        sys.exit(_report(str(error), error.exit_code))
    except OSError as error:
        if error.errno not in (*DISK_FULL, *DISK_REFUSES):
            raise
        sys.exit(_report(_of_disk(error), StoreFullError.exit_code))
    except KeyboardInterrupt:
        sys.exit(_report("stopped; run the same command again to go on", INTERRUPTED_EXIT))


def _of_disk(error: OSError) -> str:
    if error.errno in DISK_FULL:
        return "no space left on the disk; free some and run again"
    return (
        f"{error.filename or 'a file'} cannot be used: {error.strerror}. Nothing committed is lost: see to the disk, "
        "and to who may write there, and run the same command again; it goes on"
    )


def _report(message: str, code: int) -> int:
    if "--json" in sys.argv and not getattr(sys.modules.get("gradsift.cli.show"), "answered", False):
        print(json.dumps({"error": message, "exit_code": code}), flush=True)
    sys.stderr.write(f"error: {_harmless(message)}\n")
    return code


def _harmless(message: str) -> str:
    """A message in which what a terminal would obey, or not show, is spelled out: names in it may be of any file."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)


if __name__ == "__main__":
    main()
