"""The nights of `examples/nightly`, played small: what they promise, asked of the catalog and of the files once more."""

import json
import shutil

import pytest
import yaml
from planted import found_in
from running import ROOT, gradsift, python, start

from gradsift.datastore import selections
from gradsift.datastore.store import Store
from gradsift.examples.nightly.arrivals import arrivals, drop
from gradsift.examples.nightly.night import PAST_INGEST, Place, play, prepare
from gradsift.examples.nightly.truth import Unexpected

SIZE = "small"
CAME = arrivals(SIZE)
GOOD = sum(len(file.rows) for file in (*CAME.day_0, CAME.bad_rows, CAME.overlap, CAME.evening, CAME.late))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(folder after the last night, folder as it was after night 1, what the play came to)."""
    folder, second = (tmp_path_factory.mktemp("nightly") / name for name in ("nights", "second"))
    prepare(folder, SIZE)

    def keep(night):
        if night.night == "night 1":
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
    gradsift("run", "recipe.yaml", "--no-prefect", cwd=second)
    with Store(second / "store", create=False) as store:
        assert selections.get(store, "nightly").digest == made["digests"]["nightly@3"]
    planned = rows(second, "SELECT space_id, sum(examples) FROM unit GROUP BY space_id")
    came = sum(len(file.rows) for file in (*CAME.day_0, CAME.bad_rows, CAME.overlap))
    assert sorted(n for _, n in planned) == [len(CAME.target)] * 2 + [came] * 2
    assert rows(second, "SELECT sum(rows) FROM shard WHERE kind = 'features'") == [(2 * (came + len(CAME.target)),)]


@pytest.mark.slow
def test_the_play_says_where_a_store_differs_from_what_arrived(tmp_path):
    """By a recipe that looks for no leaks, and needs no gradients, the leak of night 1 is a row of the pool."""
    prepare(tmp_path, SIZE)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe = {key: recipe[key] for key in ("name", "pool", "targets")} | {"decontaminate": None, "mix": {"examples": 9}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(Unexpected, match="rows that leak the target: 0 in the store, 1 by what arrived"):
        play(Place(tmp_path, prefect=False, say=lambda _text: None), SIZE)


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
