"""The explorer's page for tests: a server in a thread, and Debian's Chromium through Playwright."""

import os
import shutil
import socket
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn

from gradsift.explorer.app import make_app
from gradsift.explorer.security import LOOPBACK

CHROMIUM = os.environ.get("GRADSIFT_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
MISSING = "no Chromium on this machine: apt-get install -y chromium, or name it by GRADSIFT_CHROMIUM"
PATIENCE = 120_000  # milliseconds; a busy machine is no failure
HOSTILE = {  # texts of rows that mean harm; each has the word `wordone`
    "script": "wordone <script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "bidi": "wordone \u202e evil \u2066 text",
    "long": "wordone " + "x" * (1 << 20),
    "ansi": "wordone \x1b[31m red \x07",
    "template": "wordone {{ 7 * 7 }} {% raw %}",
}


@contextmanager
def served(store, rules=LOOPBACK):
    """The page of an open store on a free port; gives its address, `http://127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as at:
        settings = uvicorn.Config(make_app(store, rules), log_config=None, access_log=False, lifespan="on")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()  # the socket listens already
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def is_there():
    """Whether there is a browser."""
    return os.access(CHROMIUM, os.X_OK)


@contextmanager
def launched():
    """The browser without a window."""
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def watched(browser, home, **options):
    """A page of a browser without state. Fails at its end for an error or warning in the console, for an exception of a
    script, and for a request to any other host than `home`."""
    wrong = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = urlsplit(home).netloc
    page.on("request", lambda asked: _note_foreign(asked.url, own, wrong))
    page.wrong = wrong  # a test that provokes one takes it out
    try:
        yield page
    finally:
        context.close()
    assert not wrong, wrong


def _note_foreign(url, own, wrong):
    parts = urlsplit(url)
    if parts.scheme not in ("data", "blob") and parts.netloc != own:
        wrong.append(f"a request elsewhere: {url}")
