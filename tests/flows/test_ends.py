"""Nothing goes on when a run has ended, however it ended: no server, no worker, and no flow run that seems to run."""

import os
import signal
from pathlib import Path

import pytest
import running
from prefect.client.orchestration import get_client
from prefect.flows import flow
from prefect.states import Running
from running import marked, new_mark, until

from gradsift.datastore import holders
from gradsift.flows import nightly, parent
from gradsift.flows.dead import PROCESS, TAG
from gradsift.flows.runners import Workers
from gradsift.flows.tasks import in_flow

KINDS = ("process", "dask", "ray")


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(tmp_path):
    """kill -9 of a run with a temporary server and a worker of each kind that is a process: each of them ends, too."""
    mark = new_mark()
    program = Path(__file__).with_name("killed_run.py")
    process = running.start(
        program, tmp_path, *KINDS,
        stdout=None, stderr=None, variables={"MARK": mark, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": ""},
    )  # fmt: skip
    try:
        until(lambda: process.poll() is not None or all((tmp_path / kind).exists() for kind in KINDS))
        before = marked(mark)
        assert process.poll() is None
        assert any("parent.py" in command for command in before.values())  # the temporary server
        assert {int((tmp_path / kind).read_text()) for kind in KINDS} <= before.keys()
        process.kill()
        process.wait()
        until(lambda: not marked(mark))
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def test_a_process_ends_with_its_parent_even_when_that_has_ended_before(tmp_path):
    """Without a run around it: the parent is killed, or is gone before anybody looks."""
    child = (
        f"import sys, time; sys.path[0] = {str(Path(parent.__file__).parent)!r}; import parent\n"
        "parent.end_with(int(sys.argv[1]), lambda: parent.os._exit(7)); print('on', flush=True); time.sleep(3_600)"
    )
    spawned = f"os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, '-c', {child!r}, str(os.getpid())])"
    starts = f"import os, sys, time\n{spawned}\ntime.sleep(3_600)"
    between = running.start("-c", starts, variables={"MARK": (mark := new_mark())})
    assert between.stdout.readline() == "on\n"
    assert len(marked(mark)) == 2
    between.kill()
    between.communicate()  # to the end of the child, which has the same pipe
    until(lambda: not marked(mark))
    late = running.start("-c", child, between.pid)
    late.communicate()
    assert late.returncode == 7


def test_nights_end_with_the_process_that_serves_them(monkeypatch):
    told = []
    monkeypatch.setattr(nightly, "end_with", told.append)
    monkeypatch.setattr(nightly.dead, "begin", lambda: None)
    monkeypatch.setattr(nightly, "as_task", lambda *_, **__: None)
    with nightly.nights_end_with_this():
        nightly.weekly.fn(store="nowhere")
    assert told == [os.getpid()]
    nightly.weekly.fn(store="nowhere")
    assert len(told) == 1  # a night of a work pool, or of a program of the user's own, is not ended


@pytest.mark.slow
def test_the_next_run_says_that_one_whose_process_died_has_crashed(on_server):
    """It says so of no other: neither of one that goes on, nor of another host's, nor of a user's own flow."""
    gone = running.start("-c", "from gradsift.datastore.holders import process_name; print(process_name())")
    died, _ = gone.communicate()
    alive = holders.process_name()
    host, rest = alive.split(":", 1)
    tags = {
        "died": [TAG, f"{PROCESS}{died.strip()}"],
        "alive": [TAG, f"{PROCESS}{alive}"],
        "elsewhere": [TAG, f"{PROCESS}{host}-2:{rest}"],
        "own": ["mine"],
    }
    with get_client(sync_client=True) as client:
        runs = {
            name: client.create_flow_run(flow(lambda: None, name="stays"), name=name, tags=of, state=Running()).id
            for name, of in tags.items()
        }
        own = in_flow("next", "next", lambda _: [r.id for r in client.read_flow_runs() if r.name == "next"], Workers())
        states = {name: client.read_flow_run(number).state.name for name, number in runs.items()}
        assert states == {"died": "Crashed", "alive": "Running", "elsewhere": "Running", "own": "Running"}
        (ended,) = (client.read_flow_run(number) for number in own)
        assert ended.state.is_completed()
        assert f"{PROCESS}{alive}" in ended.tags
        for number in runs.values():
            client.delete_flow_run(number)
