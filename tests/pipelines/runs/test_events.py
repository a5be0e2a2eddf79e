"""What is told of runs: once, to who asked, and never at the cost of the run."""

import json

import pytest
import yaml
from running import free_port, gradsift
from webhook import listening

from gradsift import api
from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs import events

ROWS = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(40)]


@pytest.fixture
def hook():
    with listening() as there:
        yield there


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(events, "DELAYS", (0.0, 0.0, 0.0))


def recipe(pool, **notify):
    return {"name": "sums", "pool": [{"path": str(pool)}], "mix": {"examples": 10}, "notify": notify}


def test_a_new_mixture_is_told_once_and_a_failed_run(write_jsonl, tmp_path, hook):
    pool = write_jsonl(*ROWS)
    api.run(recipe(pool, webhook=hook.url), tmp_path / "store")
    api.run(recipe(pool, webhook=hook.url), tmp_path / "store")
    assert [(told["event"], told["version"]) for told in hook.bodies] == [("mixture made", "sums@1")]
    write_jsonl(*ROWS, *({"prompt": f"{n}?", "completion": "Yes."} for n in range(40)))
    api.run(recipe(pool, webhook=hook.url), tmp_path / "store")
    assert (hook.bodies[1]["version"], hook.bodies[1]["came"]) == ("sums@2", hook.bodies[1]["left"])
    pool.unlink()
    with pytest.raises(InputError):
        api.run(recipe(pool, webhook=hook.url), tmp_path / "store")
    assert hook.bodies[2]["event"] == "run failed"
    assert str(pool) in hook.bodies[2]["message"]


def test_only_what_is_asked_for_is_told(write_jsonl, tmp_path, hook):
    api.run(recipe(write_jsonl(*ROWS), webhook=hook.url, events=["run failed"]), tmp_path / "store")
    assert hook.bodies == []


def test_a_webhook_is_tried_again_and_its_failure_is_said_and_no_more(write_jsonl, tmp_path, hook):
    said = []

    def progress(stage, _done, _total):
        said.append(stage)

    hook.answers = [503, 500]
    api.run(recipe(write_jsonl(*ROWS), webhook=hook.url), tmp_path / "one", progress=progress)
    assert len(hook.bodies) == 1
    hook.answers = [404]
    api.run(recipe(write_jsonl(*ROWS), webhook=hook.url), tmp_path / "two", progress=progress)
    gone = f"http://127.0.0.1:{free_port()}/secret"
    api.run(recipe(write_jsonl(*ROWS), webhook=gone), tmp_path / "three", progress=progress)
    failures = [line for line in said if line.startswith("webhook")]
    assert failures == [
        "webhook: 'mixture made' was not told: 127.0.0.1: HTTP 404",
        "webhook: 'mixture made' was not told: 127.0.0.1: ConnectionRefusedError",
    ]
    assert len(hook.bodies) == 1


def test_a_variable_holds_what_is_secret(monkeypatch, hook):
    monkeypatch.setenv("NIGHT_HOOK", f"{hook.url}?token=hush")
    assert events.post("$NIGHT_HOOK", {"event": "x"}) == ""
    assert hook.bodies == [{"event": "x"}]
    assert events.post("$NO_HOOK", {}) == "$NO_HOOK holds no URL"


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "host/x", "https://me:hush@host/x", "https://host/x?token=hush", "$hook"]
)
def test_a_url_that_cannot_be_used_or_written_down_is_refused(tmp_path, url):
    with pytest.raises(InputError, match=r"notify\.webhook"):
        parse_recipe(recipe(tmp_path / "pool.jsonl", webhook=url))


def test_what_a_message_could_hold_of_rows_is_not_told(tmp_path):
    assert events.failure(tmp_path, "sums", ValueError("a row's text")).facts["message"] == ""


def test_the_command_tells_too(write_jsonl, tmp_path, hook):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(write_jsonl(*ROWS), webhook=hook.url)))
    out = gradsift("run", path, "--store", tmp_path / "store", "--no-prefect", "--json")
    assert json.loads(out.stdout)["name"] == "sums"
    assert [told["event"] for told in hook.bodies] == ["mixture made"]
