"""The nights of `examples/nightly`, played small: what they promise, asked of the catalog and of the files once more."""

import json
import shutil
import sys
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import yaml
from jinja2 import Template
from planted import found_in
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.utilities.importtools import import_object
from pydantic import TypeAdapter
from running import ROOT, python, start

from gradsift.datastore import selections
from gradsift.datastore.store import Store
from gradsift.examples.nightly import night
from gradsift.examples.nightly.arrivals import arrivals, drop
from gradsift.examples.nightly.night import PAST_INGEST, Place, play, prepare
from gradsift.examples.nightly.train import train
from gradsift.examples.nightly.truth import Ledger
from gradsift.flows import events
from gradsift.pipelines.recipe import load_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.events import Event

SIZE = "small"
CAME = arrivals(SIZE)
GOOD = sum(len(file.rows) for file in (*CAME.day_0, CAME.bad_rows, CAME.overlap, CAME.evening, CAME.late))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(folder after the last night, folder as it was after night 1, what the play came to)."""
    folder, second = (tmp_path_factory.mktemp("nightly") / name for name in ("nights", "second"))
    prepare(folder, SIZE)

    def keep(last):
        if last.night == "night 1":
            shutil.copytree(folder, second)

    return folder, second, play(Place(folder, prefect=False, say=lambda _text: None), SIZE, keep)


def rows(folder, query, values=()):
    with Store(folder / "store", create=False) as store:
        return [tuple(row.values()) for row in map(dict, store.catalog.rows(query, values))]


@pytest.mark.slow
def test_promise_2_in_all_nights_not_one_gradient_is_computed_twice(played):
    """Of pool and target at both checkpoints: units hold as many rows as ever came, each row has a place of its own in
    a file, and no file holds another."""
    folder, _, made = played
    planned = rows(folder, "SELECT space_id, sum(examples) FROM unit GROUP BY space_id")
    assert sorted(n for _, n in planned) == [len(CAME.target)] * 2 + [GOOD] * 2
    places = rows(folder, "SELECT u.shard_id, r.row FROM feature_row AS r JOIN unit AS u USING (unit_id)")
    assert len(places) == len(set(places)) == 2 * (len(CAME.target) + GOOD - made["deleted"]["usable"])
    assert rows(folder, "SELECT sum(rows) FROM shard WHERE kind = 'features'") == [(len(places),)]
    nights = made["nights"]
    assert [night["new"] for night in nights] == [64, 24, 24, 24, 24]
    assert [night["gradients"] for night in nights] == [2 * (64 + len(CAME.target)), *[48] * 4]


@pytest.mark.slow
def test_promise_8_the_deleted_rows_are_in_no_version_and_no_byte(played):
    folder, second, made = played
    author = made["deleted"]["author"]
    theirs = [row.chat[0].split("\n")[0] for row in CAME.bad_rows.rows if row.author == author]
    assert len(theirs) == made["deleted"]["examples"] == 6
    assert found_in(second / "store", author, *theirs), "night 1 brought them"
    assert found_in(folder / "store", author, *theirs) == []
    numbers = "SELECT v.number FROM version AS v JOIN selection AS s USING (selection_id) WHERE s.void IS "
    alive, void = ({number for (number,) in rows(folder, numbers + what)} for what in ("NULL", "NOT NULL"))
    assert 3 in void, "the newest when it was asked for"
    assert {1, 4, 5, 6} <= alive, "from before they came, and from after they went"
    reasons = rows(folder, "SELECT reason, count(*) FROM quarantine GROUP BY reason")
    assert dict(reasons) == CAME.bad_rows.bad


@pytest.mark.slow
def test_a_file_that_comes_while_a_run_works_is_the_next_runs(played):
    """Night 3 read nothing of it, though it lay there before the gradients were done."""
    folder, _, made = played
    three, four = made["nights"][-2:]
    late = len(CAME.late.rows)
    assert four["read"] - three["read"] == late == four["new"]
    readings = rows(folder, "SELECT v.number, v.rows FROM version AS v WHERE kind = 'pool' ORDER BY number")
    assert readings[-1][1] - readings[-2][1] == late


@pytest.mark.slow
def test_promise_1_a_night_that_is_killed_ends_as_one_that_is_not(played):
    """The second, with SIGKILL after its first unit of gradients."""
    folder, second, made = played
    drop(second / "pool", CAME.overlap)
    done = "SELECT count(*) FROM unit WHERE shard_id IS NOT NULL"
    (before,) = rows(second, done)[0]
    process = start("-m", "gradsift", "run", "recipe.yaml", "--no-prefect", cwd=second)
    for line in process.stderr:
        if line.startswith(PAST_INGEST):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -9
    (killed,) = rows(second, done)[0]
    assert killed > before
    (unfinished,) = rows(second, "SELECT count(*) FROM run WHERE finished IS NULL")[0]
    assert unfinished == 1
    with Store(second / "store", create=False) as store:
        curate(load_recipe(second / "recipe.yaml"), store)
        assert selections.get(store, "nightly").digest == made["digests"]["nightly@3"]
    planned = rows(second, "SELECT space_id, sum(examples) FROM unit GROUP BY space_id")
    came = sum(len(file.rows) for file in (*CAME.day_0, CAME.bad_rows, CAME.overlap))
    assert sorted(n for _, n in planned) == [len(CAME.target)] * 2 + [came] * 2
    assert rows(second, "SELECT sum(rows) FROM shard WHERE kind = 'features'") == [(2 * (came + len(CAME.target)),)]


@pytest.mark.slow
def test_a_new_mixture_is_trained_on_once(played):
    """By TRL, on a checkout; the second time nothing is trained, nor even asked of the store."""
    folder, _, _ = played
    given = ("--store", folder / "store", "--model", folder / "model", "--out", folder / "trained")
    few = ("--max_steps", "1", "--save_strategy", "no")
    script = ROOT / "examples" / "nightly" / "train.py"
    said = python(script, folder / "recipe.yaml", *given, *few, HF_DATASETS_CACHE=str(folder / "cache")).stdout
    made = folder / "trained" / "nightly@6"
    assert said.splitlines()[-1] == str(made)
    assert (made / "model.safetensors").read_bytes() != (folder / "model" / "model.safetensors").read_bytes()
    assert (folder / "store" / "exports" / "nightly@6" / "trl.yaml").exists()
    assert train.fn("nightly@6", "nowhere", "nowhere", str(folder / "trained")) == str(made)


def test_the_training_is_deployed_to_wait_for_the_event_of_a_new_mixture(monkeypatch):
    """Prefect reads the trigger; a run's event is what it waits for, and gives the flow what its deployment does not."""
    path = ROOT / "examples" / "nightly" / "prefect.yaml"
    nights, training = yaml.safe_load(path.read_text("utf-8"))["deployments"]
    assert import_object(nights["entrypoint"]).name == "nightly"
    assert import_object(training["entrypoint"]).name == "train"
    assert nights["parameters"].keys() == {"recipe", "store"}
    (given,) = training["triggers"]
    trigger = TypeAdapter(DeploymentTriggerTypes).validate_python(given)
    assert training["parameters"].keys() | trigger.parameters.keys() == set(train.parameters.required)
    told = []
    monkeypatch.setattr(events, "emit_event", lambda name, resource, payload: told.append((name, resource, payload)))
    events.emit(Event("mixture made", "/a/store", "nightly", {"name": "nightly", "version": "nightly@2"}))
    ((name, resource, payload),) = told
    event = ReceivedEvent(event=name, resource=resource, payload=payload, occurred=datetime.now(UTC), id=uuid4())
    waiting = EventTrigger.model_validate(trigger.model_dump(include=set(EventTrigger.model_fields)))
    assert waiting.immediate
    assert waiting.covers(event)
    given = {key: Template(value).render(event=event) for key, value in trigger.parameters.items()}
    assert given == {"version": "nightly@2", "store": "/a/store"}


def test_the_play_ends_with_what_differs(monkeypatch, tmp_path, capsys):
    """A file of gradients that holds more rows than the catalog knows; the command says so."""

    def found(_place, _size):
        Ledger({1: 5}, {1: 5}, 1, 1, 6).balance()

    monkeypatch.setattr(night, "prepare", lambda _folder, _size: None)
    monkeypatch.setattr(night, "play", found)
    monkeypatch.setattr(sys, "argv", ["night.py", "--folder", str(tmp_path)])
    assert night.main() == 1
    assert capsys.readouterr().err == "error: rows in all files of gradients: 6 in the store, 5 by what arrived\n"


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("")
    script = ROOT / "examples" / "nightly" / "night.py"
    out = python(script, "--folder", tmp_path, code=2)
    assert "holds something" in out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_files_of_the_nights_are_the_same_each_time():
    again = arrivals(SIZE)
    assert again == CAME
    assert json.loads(CAME.overlap.content.splitlines()[0])["author"].endswith("@example.org")
