"""A real Prefect server for tests: `prefect server start` in a process of its own, on a free port, with its own home."""

import shutil
import time
from contextlib import contextmanager

import httpx
import pytest
from running import PATIENCE, free_port, start


@contextmanager
def server_in(home):
    """The API's URL of a server that keeps everything in a folder."""
    port = free_port()
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    with (home / "server.log").open("w") as log:
        process = start(
            "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port,
            stdout=log, stderr=log, variables=variables,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(url):
            assert process.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _answers(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("prefect-server")
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_url(prefect_home):
    """A server for all tests of this process that ask for one."""
    with server_in(prefect_home) as url:
        yield url


@pytest.fixture
def on_server(prefect_url, monkeypatch):
    """Flows of this process, and of commands that the test starts, go to the server."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        EventsWorker.drain_all(timeout=10)  # one that other tests began sends to their server as long as it lives
        yield prefect_url
