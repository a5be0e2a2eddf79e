"""The flows that deployments name, on a real Prefect server: what a night does, and when it does nothing or again."""

import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect_server import free_port

from gradsift.datastore import leases, lives, runs
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.store import Store
from gradsift.flows import nightly as flows
from gradsift.flows import retries
from gradsift.pipelines.recipe import parse_recipe

ROWS = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(40)]


@pytest.fixture
def folder(tmp_path, write_jsonl):
    write_jsonl(*ROWS, name="pool.jsonl")
    recipe = {"name": "sums", "pool": [{"path": "pool.jsonl"}], "mix": {"examples": 10}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def soon(monkeypatch):
    """Retries without their delays."""
    monkeypatch.setattr(retries, "DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(flows, "AGAIN_SECONDS", 0.0)


def night(folder, **options):
    return flows.nightly(str(folder / "recipe.yaml"), str(folder / "store"), return_state=True, **options)


def test_a_night_is_the_command_below_a_run_of_its_own(folder, on_server):
    state = night(folder)
    assert state.is_completed()
    with Store(folder / "store", create=False) as store:
        assert [m.rows for m in runs.last_run(store).result.mixtures] == [10]
    with get_client(sync_client=True) as client:
        found = {run.name: run for run in client.read_flow_runs() if run.state.is_completed()}
    assert found["sums"].parent_task_run_id is not None
    assert any(name.startswith("recipe 20") for name in found)


def test_a_night_that_finds_the_store_busy_ends_as_already_running(folder, on_server):
    with Store(folder / "store") as store, leases.held(store, leases.RUN) as mine:
        assert mine
        state = night(folder)
        assert not lives.open_numbers(store, "sums")
    assert (state.name, state.is_cancelled()) == ("AlreadyRunning", True)
    assert "another run is working" in state.message


def refused():
    socket.create_connection(("127.0.0.1", free_port()))


def no_memory():
    np.empty(1 << 50, np.int8)


def slow():
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0.01)
        here.recv(1)


def unanswered():
    raise OSError(errno.EIO, os.strerror(errno.EIO), "pool.jsonl")  # a disk that fails is not to be had


def wrapped():
    try:
        unanswered()
    except OSError as error:
        raise InputError(f"cannot read pool.jsonl: {error}") from error


def no_file():
    Path("nowhere.jsonl").read_text()


def wrong():
    parse_recipe({"name": "sums"})


def damaged():
    raise CorruptionError("examples/1.parquet differs from its digest")


def bug():
    [][0]


@pytest.mark.parametrize(
    ("provoke", "tries"),
    [
        (refused, 8),
        (slow, 8),
        (unanswered, 8),
        (wrapped, 8),
        (no_memory, 4),
        (no_file, 1),
        (wrong, 1),
        (damaged, 1),
        (bug, 1),
    ],
)
def test_failures_are_tried_again_by_their_kind(folder, on_server, soon, monkeypatch, provoke, tries):
    tried = []

    def fail(work):
        tried.append(work)
        provoke()

    monkeypatch.setattr("gradsift.pipelines.runs.curate.read_datasets", fail)
    state = night(folder)
    assert state.is_failed()
    assert len(tried) == tries
