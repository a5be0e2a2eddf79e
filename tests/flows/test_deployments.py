"""Schedules on a real Prefect server: `gradsift serve` on this machine, `gradsift deploy` and prefect.yaml for a pool."""

import re
import shlex
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from running import PATIENCE, ROOT, free_port, gradsift_apart, python, start

from gradsift import api
from gradsift.datastore import leases
from gradsift.datastore.errors import InputError, UnavailableError
from gradsift.datastore.store import Store
from gradsift.flows import nightly as flows
from gradsift.flows.deployments import Timetable, deployments_of, reach

ROWS = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(40)]


@pytest.fixture
def folder(tmp_path, write_jsonl):
    write_jsonl(*ROWS, name="pool.jsonl")
    recipe = {"name": "sums", "pool": [{"path": "pool.jsonl"}], "mix": {"examples": 10}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def client(on_server):
    with get_client(sync_client=True) as opened:
        yield opened


def ended(client, number):
    """A flow run's last state."""
    deadline = time.monotonic() + PATIENCE
    while True:
        run = client.read_flow_run(number)
        if run.state.is_final():
            return run.state
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_times_are_those_of_the_time_zone(tmp_path):
    """Three at night stays three at night when the clocks change."""
    times = Timetable("0 3 * * *", "Europe/Berlin", validate_cron="30 5 * * 0")
    made, told = deployments_of("sums", tmp_path / "recipe.yaml", tmp_path / "store", None, times)
    assert [one.name for one in told] == ["nightly/sums", "weekly/sums"]
    assert {when.astimezone(ZoneInfo("Europe/Berlin")).hour for when in told[0].next_times} == {3}
    assert all(when > datetime.now(when.tzinfo) for one in told for when in one.next_times)
    assert {made[k].parameters["recipe"] for k in (0, 1)} == {str(tmp_path / "recipe.yaml")}


def test_the_weekly_flow_validates_as_its_recipe_says(recipe_data, tmp_path, monkeypatch):
    """What reaches out of a store (trackers, task folders) is followed in a file of the user's alone."""
    path, given = tmp_path / "recipe.yaml", []
    path.write_text(yaml.safe_dump(recipe_data | {"validate": {"seeds": [0], "report_to": ["trackio"]}}))
    Store(tmp_path / "store").close()
    monkeypatch.setattr(flows, "as_task", lambda _name, work, **_options: work())
    monkeypatch.setattr(flows, "logged", lambda *_: None)
    monkeypatch.setattr(flows, "validate_with_prefect", lambda _place, settings, **_options: given.append(settings))
    for recipe in (str(path), None):
        flows.weekly.fn(str(tmp_path / "store"), recipe)
    assert given[0]["report_to"] == ["trackio"]
    assert given[1] is None


@pytest.mark.parametrize(("cron", "zone"), [("every night", "UTC"), ("0 3 * *", "UTC"), ("0 3 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_refused(tmp_path, cron, zone):
    with pytest.raises(InputError, match=r"is not a schedule: give five fields|no time zone"):
        deployments_of("sums", tmp_path, tmp_path, None, Timetable(cron, zone))


def test_what_cannot_be_served_is_refused_before_it_waits(folder):
    command = ["serve", folder / "recipe.yaml", "--store", folder / "store", "--cron", "0 3 * * *"]
    assert "prefect server start" in gradsift_apart(*command, code=2).stderr
    (folder / "recipe.yaml").write_text("name: sums\n")
    with pytest.raises(InputError, match="pool"):
        api.serve(folder / "recipe.yaml", folder / "store", cron="0 3 * * *")
    assert not (folder / "store").exists()


def test_a_server_that_listens_late_is_waited_for_and_one_that_does_not_is_told():
    port, over = free_port(), threading.Event()

    class Late(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_):
            pass

    def listen():
        time.sleep(0.5)  # the first look finds nobody
        with HTTPServer(("127.0.0.1", port), Late) as server:
            server.timeout = 0.1
            while not over.is_set():
                server.handle_request()

    server = threading.Thread(target=listen)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        with pytest.raises(UnavailableError, match=r"does not answer .*prefect server start"):
            reach(patience=0)
        server.start()
        try:
            reach()
        finally:
            over.set()
            server.join()


@contextmanager
def going_on(command, folder, **variables):
    """A command that runs until the block ends, which interrupts it; it must then end well."""
    log = (folder / "going-on.log").open("a")
    process = start(*command, cwd=folder, stderr=log, variables=variables)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
        log.close()
    assert process.returncode == 0, (folder / "going-on.log").read_text()


def blocks(language):
    text = (ROOT / "docs" / "every-night.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path, write_jsonl, client):
    """Its recipe, served on a server; a night, a terminal in its way, the training that it starts; and a work pool."""
    url = {"PREFECT_API_URL": str(client.api_url)}
    write_jsonl(*ROWS, name="pool.jsonl")
    (recipe,), (code,) = blocks("yaml"), blocks("python")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "train.py").write_text(code)
    server, serving, looking, pooled, dead = (block.splitlines() for block in blocks("bash"))
    assert [line.split("=")[0] for line in server] == ["prefect server start --background", "export PREFECT_API_URL"]
    (serve,) = serving
    with (
        going_on(["train.py"], tmp_path, **url, PREFECT_RUNNER_POLL_FREQUENCY="1"),
        going_on(["-m", *shlex.split(serve)], tmp_path, **url, PREFECT_RUNNER_POLL_FREQUENCY="1") as process,
    ):
        said = [process.stdout.readline() for _ in range(6)]
        assert said[0] == "nightly/sums: 0 3 * * * (Europe/Berlin)\n"
        assert said[1].count("03:00") == 3
        assert said[2] == "  now: prefect deployment run nightly/sums\n"
        assert said[3] == "weekly/sums: 0 6 * * 0 (Europe/Berlin)\n"
        registered(client, "train/on-new-mixture")
        deployment = registered(client, "nightly/sums")
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
        with Store(tmp_path / "store") as store, leases.held(store, leases.RUN):  # somebody works in a terminal
            due = [client.create_flow_run_from_deployment(deployment.id).id for _ in range(2)]  # one while one works
            first, second = sorted((ended(client, number) for number in due), key=lambda state: state.name)
        assert (first.name, first.type.value) == ("AlreadyRunning", "CANCELLED")
        assert (second.name, second.message) == ("Cancelled", "Deployment concurrency limit reached.")
        said = [python("-m", *shlex.split(line), cwd=tmp_path, **url).stdout for line in looking]
        assert "Completed" in said[0]
        assert "sums@1" in said[1]
        training = run_of(client, "train/on-new-mixture")
        assert ended(client, training).is_completed()
        given = client.read_flow_run(training).parameters
        assert given == {"version": "sums@1", "export": str(tmp_path / "store" / "exports" / "sums")}
    assert not registered(client, "nightly/sums").paused
    make, deploy, worker = pooled
    assert (
        "prefect work-pool create nights --type process"
        in python("-m", *shlex.split(deploy), cwd=tmp_path, code=2, **url).stderr
    )
    python("-m", *shlex.split(make), cwd=tmp_path, **url)
    python("-m", *shlex.split(deploy), cwd=tmp_path, **url)
    number = client.create_flow_run_from_deployment(registered(client, "nightly/pooled").id).id
    python("-m", *shlex.split(worker), "--run-once", "--type", "process", cwd=tmp_path, **url)
    assert ended(client, number).is_completed()
    for line in dead:
        python("-m", *shlex.split(line), cwd=tmp_path)
    (unit,) = blocks("ini")
    (timed,) = blocks("text")
    for line in (unit, timed):  # what they start is a command that is
        words = shlex.split(re.search(r"venv/bin/(gradsift .*?)(?: >>.*)?$", line, re.M)[1])
        assert "serve" in words or "run" in words
        python("-m", words[0], words[1], "--help")


def run_of(client, name):
    """The number of a deployment's first run, as soon as there is one."""
    deployment = registered(client, name).id
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [run.id for run in client.read_flow_runs() if run.deployment_id == deployment]
        if found:
            return found[0]
        assert time.monotonic() < deadline
        time.sleep(0.3)


def registered(client, name):
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [d for d in client.read_deployments() if d.name == name.split("/")[1]]
        flows = {d.id: client.read_flow(d.flow_id).name for d in found}
        match = [d for d in found if f"{flows[d.id]}/{d.name}" == name]
        if match:
            return match[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_prefect_yaml_is_deployed_as_it_is(tmp_path, client):
    url = {"PREFECT_API_URL": str(client.api_url)}
    shutil.copy(ROOT / "flows" / "prefect.yaml", tmp_path)
    python("-m", "prefect", "work-pool", "create", "gradsift", "--type", "process", **url)
    python("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml", cwd=tmp_path, **url)
    for name, cron in (("nightly/recipe", "0 3 * * *"), ("weekly/recipe", "0 6 * * 0")):
        deployment = registered(client, name)
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == (cron, "Europe/Berlin")
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options.collision_strategy.value == "CANCEL_NEW"
