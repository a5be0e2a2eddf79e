"""The flows that deployments name, on a real Prefect server: what a night does, and when it does nothing or again."""

import errno
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.task_runners import ThreadPoolTaskRunner
from running import PATIENCE, free_port
from webhook import listening

from gradsift.datastore import examples, features, leases, lives, runs
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.store import Store
from gradsift.flows import nightly as flows
from gradsift.flows import retries
from gradsift.flows.logs import logged
from gradsift.flows.runners import Workers
from gradsift.flows.tasks import in_flow
from gradsift.pipelines.features.units import Part, UnitsPiece, claimed
from gradsift.pipelines.model.pieces import finish
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import parse_recipe

ROWS = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(40)]


@pytest.fixture
def folder(tmp_path, write_jsonl):
    write_jsonl(*ROWS, name="pool.jsonl")
    recipe = {"name": "sums", "pool": [{"path": "pool.jsonl"}], "mix": {"examples": 10}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def hook():
    with listening() as there:
        yield there


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


def test_lines_of_a_night_carry_its_store_and_run(folder, on_server, monkeypatch):
    said, shown = [], []
    monkeypatch.setattr("gradsift.flows.logs.get_run_logger", lambda: said_to(said))
    monkeypatch.setattr("gradsift.flows.logs.progress_bars", lambda _name: lambda *what: shown.append(what))
    with Store(folder / "store") as store:
        number = runs.start(store, "sums", runs.Recipes({}, {}))
        progress = logged(store, "sums", every=0.0)
        for done in (0, 5, 10):
            progress("gradients-1", done, 10)
        progress("quick", 10, 10)
        patient = logged(store, "sums", every=3600.0)
        for done in range(11):
            patient("pieces", done, 10)
    where = f"[{(folder / 'store').resolve()} run {number}]"
    assert said[:3] == [f"{where} gradients-1: {done} of 10" for done in (0, 5, 10)]
    assert said[4:] == [f"{where} pieces: 0 of 10", f"{where} pieces: 10 of 10"]
    assert shown == [("gradients-1", 5, 10), ("gradients-1", 10, 10)]


@dataclass(frozen=True)
class Units(UnitsPiece):
    """Units of which nothing is computed."""

    def run(self, work):
        claimed(work, self.part.units, lambda _unit, _lease: None)


def test_lines_of_units_carry_their_store_run_and_number(folder, on_server, caplog):
    """As the server has them."""
    caplog.set_level(logging.INFO, "prefect.task_runs")  # as it is outside of tests
    recipe = parse_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()), folder=folder)
    chats = [[{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "yes"}] for n in range(2)]
    with Store(folder / "store") as store:
        number = runs.start(store, "sums", runs.Recipes({}, {}))
        examples.add(store, [Example(example_id(c), c, "made", "made.jsonl", n) for n, c in enumerate(chats, 1)])
        space = features.define_space(store, {"model": "m", "projector": {"dim": 4, "seed": 0}})
        features.plan(store, space, [example_id(c) for c in chats], {}, 1)
        units = tuple(sorted(features.sizes(store, range(1, 9))))

        def compute(spread):
            work = Work(store, recipe, spread=spread)
            pieces = [[Units(work.order(model=False), Part("rows", units, 2))], []]
            finish(work, lambda: pieces.pop(0), lambda _piece: None)

        in_flow("units", "units", compute, Workers(ThreadPoolTaskRunner(max_workers=2)))
    where = f"[{(folder / 'store').resolve()} run {number} unit"
    deadline = time.monotonic() + PATIENCE
    wanted = {f"{where} {unit}] computed in 0.0 s" for unit in units}
    assert len(wanted) == 2
    while not wanted <= logged_lines():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def logged_lines():
    with get_client(sync_client=True) as client:
        return {log.message for log in client.read_logs(limit=200)}


def said_to(lines):
    class Log:
        def info(self, text, *values):
            lines.append(text % values)

    return Log()


def test_what_a_night_made_is_told_once_as_events_and_to_the_webhook(folder, on_server, hook):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"notify": {"webhook": hook.url}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert night(folder).is_completed()
    assert night(folder).is_completed()  # nothing new: nothing is told
    (made,) = hook.bodies
    assert made["event"] == "mixture made"
    assert (made["version"], made["rows"], made["store"]) == ("sums@1", 10, str(folder / "store"))
    assert Path(made["export"]).is_dir()
    (event,) = events(on_server, "gradsift.mixture.made", folder)
    assert event["payload"] == made
    assert event["resource"]["gradsift.version"] == "sums@1"
    assert any(one["prefect.resource.id"].startswith("prefect.flow-run.") for one in event["related"])


def events(url, name, folder, count=1):
    """Events of that name and store, as soon as there are so many."""
    deadline = time.monotonic() + PATIENCE
    while True:
        asked = {"filter": {"event": {"name": [name]}}, "limit": 50}
        found = httpx.post(f"{url}/events/filter", json=asked, timeout=60).json()["events"]
        found = [event for event in found if event["resource"]["gradsift.store"] == str(folder / "store")]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_night_that_failed_is_told_once_whatever_was_tried(folder, on_server, soon, hook, monkeypatch):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"notify": {"webhook": "$NIGHT_HOOK"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setenv("NIGHT_HOOK", hook.url)
    monkeypatch.setattr("gradsift.pipelines.runs.curate.read_datasets", lambda _work: refused())
    assert night(folder).is_failed()
    (told,) = hook.bodies
    assert told == {
        "event": "run failed", "store": str(folder / "store"), "run": "sums", "error": "ConnectionRefusedError",
        "message": "",
    }  # fmt: skip
    (event,) = events(on_server, "gradsift.run.failed", folder)
    assert event["payload"] == told


def test_a_night_shows_its_report_and_stages(folder, on_server):
    assert night(folder).is_completed()
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact.data for artifact in client.read_artifacts()}
    assert "sums" in found["gradsift-sums"]
    assert "ingest" in found["gradsift-sums-stages"]
