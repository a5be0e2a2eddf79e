"""The functions of `import gradsift`: one for each command, with its parameters; a store as a folder or open."""

import inspect
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from running import python

import gradsift
from gradsift import api
from gradsift.cli import app
from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import parse_recipe

NO_FUNCTION = {"demo": "a show, not a tool"}
CALLED = {"sql": "query_sql"}  # `gradsift.sql` is the folder of migrations
# Parameters that only the command has, or only the function, each with its reason.
FORMAT = "how the values are printed"
ONLY_COMMAND = {
    "": {"json": FORMAT},
    "run": {"no_prefect": "`prefect` instead", "dry_run": "returns another type: `gradsift.dry_run`"},
    "validate": {"no_prefect": "`prefect` instead"},
    "select": {"option": "`options`, a mapping, instead"},
    "score": {"option": "`options`, a mapping, instead", "k": "a table has all, and can be sliced"},
    "delete": {"yes": "nobody is asked"},
    "quarantine": {"csv": FORMAT},
    "init": {"example": "copies files that are shipped: nothing to do with a recipe"},
    "report": {"all_runs": "returns another type: `gradsift.reports`"},
    "verify": {"drop": "says what it is called now"},
    "sql": {
        "parameter": "`parameters`, a mapping, instead",
        "schema": "`Store.frame(name).collect_schema()`",
        "limit": "a frame can be sliced",
        "csv": FORMAT,
        "parquet": "a frame can be written",
    },
}
ONLY_FUNCTION = {
    "": {"progress": "the command shows it"},
    "run": {
        "prefect": "without it in Python unless asked for: it starts a server",
        "task_runner": "an object: on the command line the recipe's `runner` names one",
    },
    "validate": {"prefect": "as `run`", "task_runner": "as `run`"},
    "serve": {"ready": "the command shows it"},
    "explore": {"ready": "the command shows it"},
    "select": {"options": "`--option`, several times"},
    "score": {"options": "`--option`, several times"},
    "sql": {"parameters": "`-p`, several times"},
}


def commands(group=app, prefix=""):
    """{words of a command: its function} of the command line."""
    found = {}
    for name in group:
        if name.startswith("-"):
            continue
        inner = group[name]
        if inner.default_command is not None:
            found[f"{prefix}{name}"] = inner.default_command
        else:
            found |= commands(inner, f"{prefix}{name} ")
    return found


COMMANDS = commands()


def parameters_of(function):
    given = inspect.signature(function).parameters.values()
    return {p.name: () if p.kind is p.VAR_POSITIONAL else p.default for p in given}


def plain(default):
    return str(default) if isinstance(default, Path) else default


def test_all_commands_are_found():
    assert {"run", "index build", "verify"} <= set(COMMANDS)
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - set(NO_FUNCTION)))
def test_each_command_has_a_function_with_its_parameters(command):
    function = getattr(gradsift, CALLED.get(command, command.replace(" ", "_")))
    theirs, mine = parameters_of(COMMANDS[command]), parameters_of(function)
    only = {**ONLY_COMMAND[""], **ONLY_COMMAND.get(command, {})}
    own = {**ONLY_FUNCTION[""], **ONLY_FUNCTION.get(command, {})}
    assert not set(only) & set(mine)
    assert not set(own) & set(theirs)
    assert {n: plain(d) for n, d in mine.items() if n not in own} == {
        n: plain(d) for n, d in theirs.items() if n not in only
    }


def test_intended_differences_are_there():
    """A reason that is no longer needed goes."""
    for command, names in ONLY_COMMAND.items():
        assert not command or set(names) <= set(parameters_of(COMMANDS[command]))
    for command, names in ONLY_FUNCTION.items():
        assert not command or set(names) <= set(parameters_of(getattr(gradsift, CALLED.get(command, command))))


def test_names_are_sorted_and_there():
    assert gradsift.__all__ == sorted(gradsift.__all__)
    assert set(api.__all__) <= set(gradsift.__all__)
    assert all(getattr(gradsift, name) is not None for name in dir(gradsift))


def test_a_store_may_be_a_folder_or_open(finished):
    _, root, _ = finished
    with gradsift.open_store(str(root)) as store:
        assert gradsift.status(store) == gradsift.status(root) == gradsift.status(store=str(root))
        assert [entry.report.version for entry in gradsift.log(store=store)]
        assert gradsift.verify(store) == []
        assert gradsift.status(store), "the caller's store stays open"


STORELESS = {"connect", "deploy", "serve", "init", "methods", "run", "dry_run", "doctor"}
NEEDED = {
    "select": {"method": "bm25", "fraction": 0.1}, "score": {"method": "bm25"}, "mix": {"settings": {"examples": 1}},
    "export": {"name": "x", "folder": "x"}, "diff": {"one": "a", "other": "b"}, "checkout": {"version": "x@1"},
    "prune": {"keep": 1}, "query": {"text": "a", "answer": "b"}, "delete": {"where": "chars > 1"},
    "revive": {"file": "ids.txt"}, "validate": {"settings": {"seeds": [0]}},
    "query_sql": {"statement": "select 1"}, "lineage": {"reference": "0123abcd"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(api.__all__) - STORELESS))
def test_a_store_that_is_not_there_is_refused_and_not_made(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("0123456789abcdef\n")
    with pytest.raises(InputError, match="not a store"):
        getattr(gradsift, name)(**NEEDED.get(name, {}), store=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_chooses_gives_values_and_prints_nothing(copy, tmp_path, capfd, recipe_data):
    root = copy.root
    assert "bm25" in [row.method for row in gradsift.methods()]
    assert {check.state for check in gradsift.doctor(root)} <= {"ok", "warn"}
    plan = gradsift.dry_run(recipe_data, root)
    assert plan.rows_to_compute == 0
    assert plan.rows_kept > 0
    assert gradsift.run(recipe_data, root, export_to=str(tmp_path / "exports")).selections[0].examples == 12

    (made,) = gradsift.select("bm25", examples=6, options={}, store=root)
    assert made.examples == 6
    table = gradsift.score("bm25", out=tmp_path / "scores.parquet", store=str(root))
    assert table.column_names[:3] == ["example_id", "source", "score"]
    assert table["score"].to_pylist() == sorted(table["score"].to_pylist(), reverse=True)
    assert (tmp_path / "scores.parquet").exists()
    alike = gradsift.overlap([made.version, "small-sql"], store=root)
    assert [row["examples"] for row in alike.rows] == [6, 12]
    mixed = gradsift.mix({"examples": 20}, name="twenty", export_to=tmp_path / "mixed", store=root)
    assert (mixed.realised, mixed.export) == (20, str(tmp_path / "mixed"))

    assert [entry.report.version for entry in gradsift.log("mixture", store=root)] == ["twenty@1"]
    written = gradsift.export(made.version, tmp_path / "out", format="jsonl", store=root)
    assert (written.rows, written.folder) == (6, str(tmp_path / "out"))
    difference = gradsift.diff(tmp_path / "out", tmp_path / "mixed", store=tmp_path / "none")
    assert difference.in_both + difference.only_a == 6
    assert gradsift.diff(made.version, "small-sql@1", store=root).b.examples == 12
    assert gradsift.checkout("small-sql@1", out=tmp_path / "then", store=root).as_then
    assert isinstance(gradsift.prune(root, keep=1, dry_run=True).bytes, int)
    assert capfd.readouterr() == ("", "")


def test_what_looks_gives_values_and_prints_nothing(copy, tmp_path, capfd):
    root = copy.root
    found = gradsift.query("hello", answer="hello", k=1, store=root)
    assert not found.generated
    nearest = gradsift.query(id=found.hits[0].example_id[:8], k=2, store=root)
    assert [hit.rank for hit in nearest.hits] == [0, 1]
    left_out = gradsift.marks(root, k=3)
    assert len(left_out.pairs) == min(3, sum(line.examples for line in left_out.summary))
    stayed = gradsift.quarantine(root, limit=1)
    assert len(stayed.rows) == min(1, sum(kind.rows for kind in stayed.kinds))
    with pytest.raises(InputError, match="limit"):
        gradsift.quarantine(root, limit=-1)

    page = gradsift.report(root, run=1, out=tmp_path / "report.html")
    assert page.read_text("utf-8").rstrip().endswith("</html>")
    assert gradsift.report_data(root, run=1).run == 1
    assert gradsift.reports(root)[-1].run == 1

    index = gradsift.index_build(root, kind="flat")
    assert (index.recall, index.state) == (1.0, "fresh")
    assert gradsift.index_list(root) == gradsift.index_refresh(root) == [index]
    assert gradsift.query(id=nearest.hits[0].example_id, index="flat", k=1, store=root).index == "flat"
    (dropped,) = gradsift.index_drop(root, kind="flat")
    assert dropped.bytes == index.bytes
    assert gradsift.index_list(root) == []
    assert capfd.readouterr() == ("", "")


def test_examples_are_deleted_and_come_back(copy):
    root = copy.root
    found = gradsift.score("bm25", store=copy)["example_id"].to_pylist()[0]
    with pytest.raises(InputError, match="say what to delete"):
        gradsift.delete(store=copy)
    with pytest.raises(InputError, match="give one of"):
        gradsift.delete(id=found, where="chars > 1", store=copy)
    copy.close()
    plan = gradsift.delete(id=found, dry_run=True, store=root)
    assert list(plan.ids) == [found]
    assert gradsift.deleted(root) == []
    made = gradsift.delete(id=[found[:12]], store=root)
    assert (made.examples, list(made.ids)) == (1, [found])
    assert [row["id"] for row in gradsift.deleted(root)] == [found]
    with pytest.raises(InputError, match="which may come back"):
        gradsift.revive(store=root)
    assert gradsift.revive(found[:12], store=root) == 1
    assert gradsift.deleted(root) == []


def test_a_store_is_looked_after(finished, tmp_path):
    root = shutil.copytree(finished[1], tmp_path / "store")
    orphan = root / "features" / "left-behind.arrow"
    orphan.write_bytes(b"x" * 7)
    os.utime(orphan, (time.time() - 7200,) * 2)
    assert [(one.file, one.bytes) for one in gradsift.gc(root, dry_run=True)] == [("features/left-behind.arrow", 7)]
    assert len(gradsift.gc(str(root))) == 1
    assert not orphan.exists()
    plan = gradsift.compact(root, dry_run=True)
    assert plan.shards_before == gradsift.compact(root).shards_before
    with pytest.raises(InputError, match="go with"):
        gradsift.verify(root, accept_loss=True)
    page = root / "reports" / "small.html"
    page.unlink()
    (mended,) = [one for one in gradsift.verify(root, repair=True, dry_run=True) if one.file.endswith("small.html")]
    assert (mended.state, page.exists()) == ("mended", False)
    gradsift.verify(root, repair=True)
    assert page.exists()


def test_a_recipe_may_be_a_file_a_mapping_or_read(tmp_path, write_jsonl):
    pool = write_jsonl(*({"prompt": f"{n} + {n}?", "completion": f"It is {2 * n}."} for n in range(30)))
    fields = {"name": "sums", "pool": [{"path": str(pool)}], "mix": {"examples": 10}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(fields))
    made = [
        gradsift.run(recipe, tmp_path / f"store{n}").mixtures[0].digest
        for n, recipe in enumerate([fields, parse_recipe(fields), str(tmp_path / "recipe.yaml")])
    ]
    assert len(set(made)) == 1
    with gradsift.Store(tmp_path / "open") as store:
        assert gradsift.run(fields, store).mixtures[0].digest == made[0]
    (tmp_path / "mix.yaml").write_text(json.dumps({"mix": {"examples": 5}}))
    assert gradsift.mix(str(tmp_path / "mix.yaml"), store=tmp_path / "store0").realised == 5
    (tmp_path / "mix.yaml").write_text("[1]")
    with pytest.raises(InputError, match=r"mix\.yaml must hold the fields of `mix`"):
        gradsift.mix(tmp_path / "mix.yaml", store=tmp_path / "store0")
    with pytest.raises(InputError, match="`mix` must be a mapping"):
        gradsift.mix({"mix": 3}, store=tmp_path / "store0")


def test_processes_are_those_of_prefect(recipe_data, tmp_path):
    with pytest.raises(InputError, match="prefect=True"):
        gradsift.run(recipe_data, tmp_path / "store", processes=2)
    with pytest.raises(InputError, match="at least 2"):
        gradsift.validate(store=tmp_path / "store", prefect=True, processes=1)
    with pytest.raises(InputError, match="not a store"):
        gradsift.validate(store=tmp_path / "store", prefect=True)
    assert not (tmp_path / "store").exists()


def test_validation_takes_a_mapping(copy, tmp_path):
    own = {"seeds": [0, 1, 2], "epochs": 1, "test_rows": 12}
    result = gradsift.validate(own, out=tmp_path / "page.html", store=copy)
    assert {arm.target for arm in result.arms} == {"sql"}
    assert result.report == str(tmp_path / "page.html")


IMPORT = """
import os, sys
before = dict(os.environ)
import gradsift
gradsift.query, gradsift.run
assert dict(os.environ) == before, "the environment is the user's"
assert not {'torch', 'transformers', 'pyarrow', 'numpy', 'prefect', 'cyclopts', 'yaml', 'pydantic'} & set(sys.modules)
"""


def test_import_is_light_and_changes_nothing():
    assert python("-c", IMPORT).stdout == ""


@pytest.mark.parametrize("place", [None, 3, b"store"])
@pytest.mark.parametrize("name", ["status", "verify", "gc", "doctor", "deleted"])
def test_a_store_of_another_type_is_named(name, place):
    with pytest.raises(InputError, match="give a folder or an open Store"):
        getattr(gradsift, name)(place)


@pytest.mark.parametrize("recipe", [None, 3, [["name", "x"]]])
def test_a_recipe_of_another_type_is_named(recipe, tmp_path):
    for function in (gradsift.run, gradsift.dry_run):
        with pytest.raises(InputError, match="give a file, a mapping or a Recipe"):
            function(recipe, tmp_path / "store")
    assert not (tmp_path / "store").exists()
