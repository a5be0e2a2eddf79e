"""Running the page: on the loopback unless told otherwise, where its URL alone is enough; elsewhere with a token."""

import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.store import Store
from gradsift.explorer.app import make_app
from gradsift.explorer.security import Rules
from gradsift.pipelines.query.map import open_map

PATIENCE = 2  # seconds that answers on their way have when it is stopped


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one. Raises InputError where that cannot be had."""
    if not 0 <= port < 1 << 16:  # the system takes what is left of a larger one by 2^16
        raise InputError(f"there is no port {port}: give 1 to 65535, or 0 for a free one")
    try:
        (family, _, _, _, where), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(where[:2], family=socket.AddressFamily(family), backlog=128)
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {told}; --port 0 takes a free port") from error


def rules_for(host: str, at: socket.socket, *, token: bool) -> Rules:
    """Who may ask a page that listens there: on another address than the loopback, and on demand, who has the token."""
    away = not ipaddress.ip_address(at.getsockname()[0]).is_loopback
    names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()} if away else set[str]()
    return Rules(frozenset(names), away, secrets.token_urlsafe(24) if token or away else None)


def url_of(host: str, at: socket.socket, rules: Rules) -> str:
    """What to open, the token in it."""
    address = ipaddress.ip_address(at.getsockname()[0])
    name = socket.gethostname() if address.is_unspecified else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{at.getsockname()[1]}/{f'?token={rules.token}' if rules.token else ''}"


def serve(
    store: Store, host: str, port: int, *, token: bool, browser: bool, models: bool, ready: Callable[[str], None]
) -> None:
    """Answer until interrupted. `ready` is called with the URL as soon as the page can be opened; `browser`: open it,
    where there is a screen; `models`: whether a question of text may load a model.

    Answers on their way have PATIENCE; threads that work on one then are left to themselves."""
    with listen(host, port) as at:
        rules = rules_for(host, at, token=token)
        url = url_of(host, at, rules)
        settings = uvicorn.Config(
            make_app(store, rules, models=models), log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=PATIENCE, lifespan="on",
        )  # fmt: skip
        ready(url)  # the socket listens: a browser that is faster than the server waits
        if browser and _has_screen():
            webbrowser.open(url)
        server = uvicorn.Server(settings)
        # In a thread of its own: it waits for each that works on an answer, and nothing ends one of those.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
        with _laying_out(store), suppress(KeyboardInterrupt):
            thread.start()
            try:
                thread.join()
            finally:
                server.should_exit = True
                thread.join(2 * PATIENCE)


@contextmanager
def _laying_out(store: Store) -> Iterator[None]:
    """Open the map meanwhile, so that it is there when the browser asks; what prevents it is told to who asks."""
    over = threading.Event()

    def going(stage: str, done: int, total: int | None) -> None:  # noqa: ARG001 - as progress is called
        if over.is_set():
            raise InterruptedError

    def lay_out() -> None:
        with suppress(GradsiftError, InterruptedError):
            open_map(store, progress=going)

    thread = threading.Thread(target=lay_out, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _has_screen() -> bool:
    """Whether there is one to open a browser on: else a browser of text would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
