"""Schedules on a real Prefect server: `gradsift serve` on this machine, `gradsift deploy` and prefect.yaml for a pool."""

import json
import shutil
import signal
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect_server import free_port
from running import PATIENCE, ROOT, gradsift, python, start

from gradsift import api
from gradsift.datastore import leases
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.flows.deployments import Timetable, deployments_of

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
    assert made[0].parameters["recipe"] == str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(("cron", "zone"), [("every night", "UTC"), ("0 3 * *", "UTC"), ("0 3 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_refused(tmp_path, cron, zone):
    with pytest.raises(InputError, match="is none: give five fields"):
        deployments_of("sums", tmp_path, tmp_path, None, Timetable(cron, zone))


def test_what_cannot_be_served_is_refused_before_it_waits(folder):
    command = ["serve", folder / "recipe.yaml", "--store", folder / "store", "--cron", "0 3 * * *"]
    assert "prefect server start" in gradsift(*command, code=2).stderr
    url = f"http://127.0.0.1:{free_port()}/api"
    assert "does not answer" in gradsift(*command, code=7, PREFECT_API_URL=url).stderr
    (folder / "recipe.yaml").write_text("name: sums\n")
    with pytest.raises(InputError, match="pool"):
        api.serve(folder / "recipe.yaml", folder / "store", cron="0 3 * * *")
    assert not (folder / "store").exists()


@pytest.mark.slow
def test_a_recipe_is_served_and_a_second_night_is_cancelled(folder, client):
    log = (folder / "serve.log").open("w")
    process = start(
        "-m", "gradsift", "serve", folder / "recipe.yaml", "--store", folder / "store", "--cron", "0 3 * * *",
        "--timezone", "Europe/Berlin", "--validate-cron", "0 6 * * 0",
        stderr=log,
        variables={"PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_API_URL": str(client.api_url)},
    )  # fmt: skip
    try:
        said = [process.stdout.readline() for _ in range(6)]
        assert said[0] == "nightly/sums: 0 3 * * * (Europe/Berlin)\n"
        assert said[1].count("03:00") == 3
        assert said[2] == "  now: prefect deployment run nightly/sums\n"
        assert said[3] == "weekly/sums: 0 6 * * 0 (Europe/Berlin)\n"
        deployment = registered(client, "nightly/sums")
        assert (deployment.schedules[0].schedule.cron, deployment.schedules[0].schedule.timezone) == (
            "0 3 * * *",
            "Europe/Berlin",
        )
        first = client.create_flow_run_from_deployment(deployment.id)
        state = ended(client, first.id)
        assert state.is_completed(), (folder / "serve.log").read_text()
        with Store(folder / "store") as store, leases.held(store, leases.RUN):  # somebody works in a terminal
            busy = client.create_flow_run_from_deployment(deployment.id)
            state = ended(client, busy.id)
        assert (state.name, state.type.value) == ("AlreadyRunning", "CANCELLED")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
        log.close()
    assert process.returncode == 0, (folder / "serve.log").read_text()
    assert not registered(client, "nightly/sums").paused


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
def test_the_workers_of_a_pool_run_what_is_deployed(folder, client):
    url = {"PREFECT_API_URL": str(client.api_url)}
    command = ["deploy", folder / "recipe.yaml", "--store", folder / "store", "--cron", "0 3 * * *", "--json"]
    command += ["--pool", "machines", "--name", "pooled"]
    assert "prefect work-pool create machines --type process" in gradsift(*command, code=2, **url).stderr
    python("-m", "prefect", "work-pool", "create", "machines", "--type", "process", **url)
    (made,) = json.loads(gradsift(*command, **url).stdout)
    assert (made["name"], made["cron"], len(made["next_times"])) == ("nightly/pooled", "0 3 * * *", 3)
    run = client.create_flow_run_from_deployment(registered(client, "nightly/pooled").id)
    python("-m", "prefect", "worker", "start", "--pool", "machines", "--run-once", "--type", "process", **url)
    assert ended(client, run.id).is_completed()
    assert (folder / "store" / "exports" / "sums" / "manifest.json").exists()


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
