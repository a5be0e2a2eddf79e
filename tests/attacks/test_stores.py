"""Stores from strangers: links in their folders, forged names and paths in their catalogs. Whatever command reads or
writes one, nothing outside of it changes, and no code of it runs."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from planted import id_of

from gradsift.cli import app
from gradsift.datastore import inside, runs
from gradsift.datastore.errors import CorruptionError, GradsiftError, InputError
from gradsift.datastore.identity import digest_file
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.revalidate import revalidate

KEY = "0123456789abcdef"
ROWS = [{"prompt": f"question {k} of {k * k}", "completion": f"answer {k}"} for k in range(24)]
LATER = [{"prompt": f"later {k}", "completion": f"more {k}"} for k in range(6)]
VAL, TEST = ([{"prompt": f"{which} {k}", "completion": f"so {k}"} for k in range(4)] for which in ("val", "test"))
ONE = id_of(ROWS[0])


def recipe(data):
    val = {"path": str(data.with_name("pool.val.jsonl"))}
    targets = {"target": {"val": val, "test": {"path": str(data.with_name("pool.test.jsonl"))}}}
    return parse_recipe({"name": "mix", "pool": [{"path": str(data)}], "targets": targets, "mix": {"examples": 8}})


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of a run without a model: shards, a mixture, scores, an export, a report, an export elsewhere."""
    folder = tmp_path_factory.mktemp("made")
    for name, rows in (("pool", ROWS), ("pool.val", VAL), ("pool.test", TEST)):
        (folder / f"{name}.jsonl").write_text(lines(rows))
    with Store(folder / "store") as store:
        curate(recipe(folder / "pool.jsonl"), store)
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A folder with a store that will be forged, beside what nobody may touch: `victim`."""
    shutil.copytree(made, tmp_path / "world")
    victim = tmp_path / "world" / "victim"
    (victim / "data").mkdir(parents=True)
    (victim / "note.txt").write_text("mine")
    (victim / "data" / "mine.parquet").write_text("mine")
    return tmp_path / "world"


def listing(world):
    """What is in the world outside of the store: kinds, digests, aims of links."""
    found = {}
    for path in sorted(world.rglob("*")):
        name = path.relative_to(world).as_posix()
        if not name.startswith("store"):
            aim = str(path.readlink()) if path.is_symlink() else ""
            found[name] = aim or (digest_file(path) if path.is_file() else "folder")
    return found


def run_same(world):
    with Store(world / "store") as store:
        curate(recipe(world / "pool.jsonl"), store)


def run_again(world):
    (world / "store.jsonl").write_text(lines([*ROWS, *LATER]))
    with Store(world / "store") as store:
        curate(recipe(world / "store.jsonl"), store)


def browse(world):
    """The pages of `gradsift explore` that read most."""
    from fastapi.testclient import TestClient

    from gradsift.explorer.app import make_app

    with Store(world / "store", create=False) as store:
        client = TestClient(make_app(store), base_url="http://127.0.0.1", raise_server_exceptions=True)
        for page in ("/", "/runs", "/runs/1/report", f"/row/{ONE}", "/selections"):
            client.get(page)


def command(*words):
    def run(world):
        app([*words, "--store", str(world / "store")], exit_on_error=False, result_action="return_value")

    return run


SETTINGS = "store.yaml"  # beside the store, of the user


def mixed(world):
    (world / SETTINGS).write_text("mix: {examples: 5}\n")
    command("mix", str(world / SETTINGS))(world)


COMMANDS = {
    "report": command("report"),
    "select": command("select", "--method", "random", "--examples", "4"),
    "mix": mixed,
    "query": command("query", "question", "--space", "bm25"),
    "verify": command("verify"),
    "repair": command("verify", "--repair"),
    "gc": command("gc", "--grace-hours", "0"),
    "compact": command("compact"),
    "delete": command("delete", "--id", ONE, "--yes"),
    "delete with exports": command("delete", "--id", ONE, "--yes", "--exports"),
    "prune": command("prune", "--keep", "1", "--examples"),
    "index": command("index", "refresh"),
    "sql": command("sql", "SELECT * FROM examples"),
    "lineage": command("lineage", ONE),
    "status": command("status"),
    "checkout": command("checkout", "mixture@1"),
    "export": lambda world: command("export", "mix", str(world.parent / "out"))(world),
    "validate": command("validate", "--no-prefect"),
    "run": run_again,
    "same": run_same,
    "explore": browse,
}


def linked(name):
    """What is under this name in the store lies elsewhere, and a link leads there."""

    def forge(world):
        ours, theirs = world / "store" / name, world / "victim" / name.replace("/", "-")
        if ours.exists():
            ours.rename(theirs)
        else:
            theirs.mkdir()
        ours.parent.mkdir(exist_ok=True)
        ours.symlink_to(theirs)

    return forge


def dangling(name):
    """A link to a file that is not there: who opens it for writing makes it."""

    def forge(world):
        path = world / "store" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(world / "victim" / "new")

    return forge


def told(statement, *values):
    """The catalog says otherwise, which its maker need not keep from doing; VICTIM stands for the folder of that name."""

    def forge(world):
        said = [value.replace("VICTIM", str(world / "victim")) for value in values]
        with closing(sqlite3.connect(world / "store" / "catalog.sqlite")) as db:
            db.execute("PRAGMA ignore_check_constraints=ON")
            assert db.execute(statement, said).rowcount > 0
            db.commit()

    return forge


def forged_runs(name):
    return told("UPDATE run SET name=?", name)


def partial(world):
    """What looks like the beginning of the next export, and leads out."""
    made = json.loads((world / "store" / "exports" / "mix" / "manifest.json").read_text())
    shutil.rmtree(world / "store" / "exports" / "mix")
    folder = world / "store" / "exports" / f".partial-mix-{made['key'][:16]}"
    folder.mkdir()
    (folder / "data").symlink_to(world / "victim" / "data")
    for name in ("README.md", "manifest.json", "SHA256SUMS", "recipe.yaml"):
        (folder / name).symlink_to(world / "victim" / "note.txt")


def replaced(world):
    """What looks like an export that was replaced, whose files are somebody's."""
    old = world / "store" / "exports" / ".gradsift-old-mix"
    old.mkdir()
    (old / "data").symlink_to(world / "victim" / "data")
    (old / "manifest.json").write_text(json.dumps({"gradsift_export": 4, "files": {"data/mine.parquet": "0" * 64}}))
    (old / "note.txt").write_text("moved")
    shutil.rmtree(world / "store" / "exports" / "mix" / "data")
    (world / "store" / "exports" / "mix" / "data").symlink_to(world / "victim" / "data")


def whole_replaced(world):
    (world / "store" / "exports" / ".gradsift-old-mix").symlink_to(world / "victim")


def deletion(world):
    """A deletion that was interrupted, which is to rewrite an export elsewhere, and to clean up beside it."""
    theirs = world / "victim" / "mix"
    shutil.copytree(world / "store" / "exports" / "mix", theirs)
    left = world / "victim" / f".partial-mix-{KEY}"
    left.mkdir()
    (left / "spill").write_text("mine")
    told("INSERT INTO written VALUES (?, 'export', 0)", "VICTIM/mix")(world)
    told("INSERT INTO forgetting (examples, exports, started) VALUES (1, 1, 0)")(world)
    told("INSERT INTO forgetting_example VALUES (?)", json.loads(_first(theirs))["example_id"])(world)


def _first(folder):
    import pyarrow.parquet as pq

    return json.dumps({"example_id": pq.read_table(folder / "data")["example_id"][0].as_py()})


def elsewhere(world):
    """A place.json that came with the store: its files are to be in a folder of somebody's."""
    (world / "store" / "place.json").write_text(
        json.dumps({"catalog_url": None, "store_url": f"file://{world}/victim"})
    )
    for kind in ("examples", "scores"):
        if (world / "store" / kind).exists():
            (world / "store" / kind).rename(world / "victim" / kind)


CASES = {  # {area: {what is forged: (how, commands that open it in the short form)}}
    "links in a store's folders": {
        "scores is a link": (linked("scores"), ("select", "gc")),
        "examples is a link": (linked("examples"), ("run", "compact", "delete")),
        "exports is a link": (linked("exports"), ("run", "delete with exports")),
        "reports is a link": (linked("reports"), ("report", "explore")),
        "kept is a link": (linked("kept"), ("query", "gc")),
        "an export is a link": (linked("exports/mix"), ("delete with exports",)),
        "a version's folder is a link": (linked("exports/mix@1"), ("checkout",)),
        "the catalog is a link": (linked("catalog.sqlite"), ("select",)),
        "a page is a link": (linked("reports/mix.html"), ("report", "repair")),
        "its figures are a link": (linked("reports/mix.json"), ("report",)),
        "a page leads to nothing": (dangling("reports/mix.run1.html"), ("report",)),
        "notes lead to nothing": (dangling("checked.txt"), ("verify",)),
        "a lock leads to nothing": (dangling("kept/.lock"), ("query",)),
        "a killed export leads out": (partial, ("same",)),
        "a replaced export leads out": (replaced, ("same", "delete")),
        "a replaced export is a link": (whole_replaced, ("run",)),
    },
    "names and paths that a catalog was made to say": {
        "a name of a run leads out": (forged_runs("../../victim/page"), ("report", "delete", "explore")),
        "a name of a run has lines": (forged_runs("a\nb\x1b[31m"), ("report",)),
        "a run is called by a path": (forged_runs("/tmp/gradsift-forged"), ("report",)),
        "files are called by paths": (
            told("UPDATE shard SET name='../victim/' || (CASE shard_id WHEN 1 THEN 'note.txt' ELSE shard_id END)"),
            ("repair", "gc", "compact", "delete"),
        ),
        "kinds of files are paths": (told("UPDATE shard SET kind='../victim'"), ("compact", "delete")),
        "files that must go are somebody's": (
            told("INSERT INTO doomed (name, after, shard_id, kind, bytes, sha256) VALUES ('../victim/note.txt', 0, 99, 'x', 4, 'x')"),
            ("gc",),
        ),
        "versions are called by paths": (told("UPDATE selection SET name='../../victim/x'"), ("checkout", "report", "same")),
        "a deletion rewrites elsewhere": (deletion, ("select", "delete")),
        "files are elsewhere": (elsewhere, ("select", "gc")),
    },
}  # fmt: skip
SHORT = [
    pytest.param(area, how, name, id=f"{what}-{name}")
    for area, cases in CASES.items() for what, (how, names) in cases.items() for name in names
]  # fmt: skip
LONG = [
    pytest.param(area, how, name, id=f"{what}-{name}", marks=pytest.mark.soak)
    for area, cases in CASES.items() for what, (how, names) in cases.items() for name in COMMANDS
    if name not in names and (how, name) != (deletion, "delete with exports")  # where exports went is what that asks for
]  # fmt: skip


@pytest.mark.parametrize(("area", "forge", "name"), [*SHORT, *LONG])
def test_nothing_outside_of_a_forged_store_changes(world, tally, area, forge, name):
    forge(world)
    before = listing(world)
    counts, refused = tally(area, promise=7), True
    try:
        COMMANDS[name](world)
        refused = False
    except GradsiftError:
        pass
    except SystemExit as ended:
        refused = bool(ended.code)
    if changed := set(listing(world).items()) ^ set(before.items()):
        counts.silent(f"{name} changed {sorted(changed)}")
    elif refused:
        counts.reported()
    else:
        counts.harmless()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_work_on_a_store_that_is_not_forged(world, name):
    """Else the others would say nothing."""
    try:
        COMMANDS[name](world)
    except InputError as error:
        assert name == "validate", error
        assert "`validate` needs `model`" in str(error)


def test_promise_7_recorded_tasks_and_trackers_are_not_followed(world, tally):
    """Task files of lm-eval hold functions that it runs; trackers write and send elsewhere."""
    followed = tally("task folders and trackers of a recorded recipe", promise=7)
    for section, words in (
        ({"lm_eval": {"tasks": ["mine"], "include_path": str(world / "victim")}}, r"validate\.lm_eval\.include_path"),
        ({"report_to": ["trackio"]}, r"validate\.report_to"),
    ):
        with Store(world / "store") as store:
            resolved = {**runs.last_run(store).recipes.resolved, "validate": section}
            with store.catalog.write() as db:
                db.execute("UPDATE run SET recipe=?", (json.dumps(resolved),))
            with pytest.raises(InputError, match=f"{words}.*is followed in a file of yours alone"):
                revalidate(store)
            with pytest.raises(InputError, match="`validate` needs `model`"):  # of a file of the user's: as ever
                revalidate(store, section)
        followed.reported()


def test_a_validation_follows_no_link(copy, tmp_path, tally):
    (tmp_path / "page.html").write_text("mine")
    for name in ("small.html", "small.json", "small.run2.html"):
        (copy.root / "reports" / name).unlink(missing_ok=True)
        (copy.root / "reports" / name).symlink_to(tmp_path / "page.html")
    result = revalidate(copy)
    assert Path(result.report).read_text().endswith("</html>")
    assert not Path(result.report).is_symlink()
    assert (tmp_path / "page.html").read_text() == "mine"
    tally("links in a store's folders", promise=7).harmless(3)


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path, tally):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("text")
    assert inside.read_text(tmp_path, "file") == "text"
    named = tally("pipes and paths in the place of files", promise=7)
    for name in ("pipe", "../file", "a//b", "", "a\0b"):
        with pytest.raises(CorruptionError, match="leads out of the store"):
            inside.opened(tmp_path, name)
        named.reported()


def test_a_link_that_is_put_there_meanwhile_is_not_followed(tmp_path, tally):
    """A folder is held by its handle, so what it is called afterwards does not matter."""
    root, victim = tmp_path / "store", tmp_path / "victim"
    victim.mkdir()
    with inside.folder(root, "scores", make=True) as handle:
        (root / "scores").rename(root / "gone")
        (root / "scores").symlink_to(victim)
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    assert list(victim.iterdir()) == []
    with pytest.raises(CorruptionError, match="it is a link, or lies behind one"):
        inside.write_text(root, "scores/new", "text")
    assert list(victim.iterdir()) == []
    tally("links that are put there meanwhile", promise=7).reported()
