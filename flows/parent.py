"""Processes that end with the one that started them, however that one ends: `kill -9` leaves none behind.

The module needs the standard library alone. Run as a program, it is Prefect's temporary server (`flows/server.py`):

    python -P parent.py PARENT PORT
"""

import os
import sys
import threading
import time
from collections.abc import Callable

EVERY_SECONDS = 0.5


def end_with(parent: int, end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call `end`, in a thread, as soon as this process is not a child of `parent` any more.

    By looking, not by PR_SET_PDEATHSIG: that is of Linux alone, and comes when the *thread* ends that started it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_SECONDS)
        end()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def main() -> None:
    """Serve Prefect's API on a port of the loopback, as its own temporary server does, as long as the parent lives."""
    parent, port = map(int, sys.argv[1:])
    end_with(parent)
    import uvicorn  # takes seconds, with what it serves: the parent may end meanwhile

    made = "prefect.server.api.server:create_app"
    uvicorn.run(made, factory=True, host="127.0.0.1", port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    main()
