"""The command that serves the local page."""

import os
import sys
import threading
from typing import Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, StorePath, app, quiet_libraries


@app.command
def explore(
    *,
    store: StorePath = DEFAULT_STORE,
    port: int = 8642,
    host: str = "127.0.0.1",
    token: Flag = False,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    model: Annotated[bool, Parameter(negative="--no-model")] = True,
) -> None:
    """Look at a store in the browser: a local page that only reads, until it is stopped (Ctrl-C).

    Parameters
    ----------
    port
        Where to listen; 0 takes a free port.
    host
        The address to listen on. On any other than the loopback, who opens the page needs the token in its URL.
    token
        Ask for a token on the loopback, too: on a machine with other users.
    browser
        Open the page in the browser, where there is a screen.
    model
        Let a question of text load the model of the rows, which is kept for the next.
    """
    from gradsift import api
    from gradsift.cli import show

    quiet_libraries()

    def ready(url: str) -> None:
        sys.stdout.write(f"{url}\n")  # on one line, however long
        sys.stdout.flush()
        show.line(f"{store} is open there. Ctrl-C stops it.")

    api.explore(store, port=port, host=host, token=token, browser=browser, model=model, ready=ready)
    show.line("Stopped.")
    if threading.active_count() > 1:  # one works on an answer that nobody waits for; Python would wait for it
        sys.stdout.flush()
        os._exit(0)
