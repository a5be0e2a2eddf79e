"""The function that serves the local page."""

from collections.abc import Callable

from gradsift.api.shared import AnyStore, opened

PORT = 8642


def _say_nothing(_url: str) -> None:
    pass


def explore(
    store: AnyStore = "store",
    *,
    port: int = PORT,
    host: str = "127.0.0.1",
    token: bool = False,
    browser: bool = True,
    model: bool = True,
    ready: Callable[[str], None] = _say_nothing,
) -> None:
    """Look at a store in the browser: a local page that only reads, until the call is interrupted.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
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
    ready
        Called with the URL as soon as the page can be opened.

    Returns
    -------
    None
        When it is interrupted.

    Raises
    ------
    InputError
        For a folder that is no store, and for an address or a port that cannot be had.

    Example
    -------
    >>> where = {"port": 0, "browser": False}
    >>> gradsift.explore("store", ready=print, **where)  # doctest: +SKIP
    """
    with opened(store) as there:
        from gradsift.explorer.serve import serve

        serve(there, host, port, token=token, browser=browser, models=model, ready=ready)
