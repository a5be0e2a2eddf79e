"""The page over a store of a real run, in a browser: `page` fails for what went wrong while a test used it."""

import os
import shutil

import browser
import pytest

from gradsift.datastore.store import Store


@pytest.fixture(scope="session")
def explored(finished, tmp_path_factory):
    """(address, open store) of the page over a copy of the finished run, which keeps maps and words: read only."""
    root = tmp_path_factory.mktemp("explored") / "store"
    shutil.copytree(finished[1], root)
    with Store(root) as store, browser.served(store) as address:
        yield address, store


@pytest.fixture(scope="session")
def address(explored):
    """The address of that page."""
    return explored[0]


@pytest.fixture(scope="module")
def chromium():
    """The browser, one for the tests of a file: Playwright keeps an event loop, which other files' tests must not meet.

    Chromium is a program that a user may not have: without it these tests are skipped, unless
    GRADSIFT_REQUIRE_SERVICES says that it must be there.
    """
    if not browser.is_there():
        assert not os.environ.get("GRADSIFT_REQUIRE_SERVICES"), browser.MISSING
        pytest.skip(browser.MISSING)
    with browser.launched() as made:
        yield made


@pytest.fixture
def page(chromium, address):
    """A page on which nothing may go wrong, at the finished run's address: `page.goto(f"{address}/…")`."""
    with browser.watched(chromium, address) as made:
        yield made
