"""croissant.json of exports: valid by mlcroissant's own validator, and its reader gives the rows back. No network."""

import hashlib
import json
import logging
import shutil
import socket
from pathlib import Path
from urllib.parse import unquote

import mlcroissant
import pytest
from datasets import load_dataset

from gradsift import api
from gradsift.datastore import selections
from gradsift.datastore.store import Store
from gradsift.pipelines.export import export as exporting
from gradsift.pipelines.export import rows as export_rows
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

RECOMMENDED = '  -  [Metadata({})] Property "https://schema.org/datePublished" is recommended, but does not exist.'
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlcroissant.*"),
]
AWKWARD = 'odd "näme" #1/2?%<x>'


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever connects or resolves a name fails."""

    def refuse(*_):
        raise AssertionError("this needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store with the mixture `mixed`: columns of every type, null cells, an awkward name, copies, two licences."""
    root = tmp_path_factory.mktemp("mixed")
    rows = [
        {
            "prompt": f"question {k} " + "wörd " * k, "completion": f"answer\n{k}", "source": "ab"[k % 2],
            "licence": ["mit", "House rules"][k % 2], "count": k if k % 3 else None, "share": k / 8, "good": k % 2 == 0,
            AWKWARD: f"<{k}>", "nested": {"k": [k]},
        }
        for k in range(30)
    ]  # fmt: skip
    (root / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = {"name": "mixed", "pool": [{"path": str(root / "pool.jsonl")}], "mix": {"examples": 45, "repeat": 2},
              "export": {"extra": "columns"}}  # fmt: skip
    with Store(root / "store") as store:
        curate(parse_recipe(recipe), store)
    return root / "store"


def read_back(folder, caplog):
    """The document, and the rows as mlcroissant's reader gives them. It says nothing but that there is no date."""
    with caplog.at_level(logging.WARNING):
        data = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert not data.metadata.ctx.issues.errors
    told = [line for record in caplog.records for line in record.message.splitlines()]
    assert [line for line in told if line.startswith("  -") or "not standard" in line] == [
        RECOMMENDED.format(data.metadata.name)
    ]
    return json.loads((folder / "croissant.json").read_text("utf-8")), [plain(row) for row in data.records("rows")]


def plain(value):
    """What mlcroissant gives, as `datasets` gives it: texts for bytes, names for ids."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {unquote(key.rpartition("/")[2]): plain(one) for key, one in value.items()}
    return value


def expected(folder):
    return load_dataset(str(folder), split="train").to_list()


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "parts"])
def test_the_reader_of_croissant_gives_the_rows_of_the_export(mixed, tmp_path, kind, caplog, monkeypatch):
    """Of one file, of JSON lines, and of several files, in their order."""
    if kind == "parts":
        monkeypatch.setattr(export_rows, "PART_CHARS", 1000)
    api.export("mixed", tmp_path / "out", format="jsonl" if kind == "jsonl" else None, store=mixed)
    document, rows = read_back(tmp_path / "out", caplog)
    assert len(list((tmp_path / "out" / "data").iterdir())) > 2 or kind != "parts"
    assert rows == expected(tmp_path / "out")
    assert len(rows) == 45
    types = {field["name"]: field.get("dataType") for field in document["recordSet"][0]["field"]}
    assert types["count"] == types["line"] == types["copy"] == "sc:Integer"
    assert types["share"] == types["weight"] == "sc:Float"
    assert types["good"] == "sc:Boolean"
    assert types[AWKWARD] == types["nested"] == types["source"] == "sc:Text"
    assert types["messages"] is None, "it has fields of its own"


def test_it_says_every_file_with_its_digest_licences_citation_and_version(mixed, tmp_path, caplog):
    made = api.export("mixed", tmp_path / "out", store=mixed)
    document, _ = read_back(tmp_path / "out", caplog)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    listed = {one["name"]: one for one in document["distribution"]}
    assert {name: one["sha256"] for name, one in listed.items()} == {
        name: sha for name, sha in manifest["files"].items() if name != "croissant.json"
    }
    for name, one in listed.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["contentSize"] == f"{len(content)} B"
    assert document["license"] == ["House rules", "mit"]
    assert document["version"] == f"1.0.0+{made.digest[:12]}"
    assert document["citeAs"].startswith(f"@misc{{mixed-{made.digest[:12]}, title = {{mixed}}")
    assert "datePublished" not in document, "no time enters an export"


def test_a_run_s_own_export_names_the_selection_and_no_number(mixed, caplog):
    """Two machines number versions by what they have seen."""
    document, rows = read_back(mixed / "exports" / "mixed", caplog)
    with Store(mixed) as store:
        digest = selections.get(store, "mixed").digest
    assert document["version"] == f"0.0.0+{digest[:12]}"
    assert len(rows) == 45


def test_labels_are_lists_of_integers(finished, caplog):
    folder = Path(finished[1]) / "exports" / finished[2].selections[0].name
    document, rows = read_back(folder, caplog)
    assert rows == expected(folder)
    labels = next(field for field in document["recordSet"][0]["field"] if field["name"] == "labels")
    assert (labels["dataType"], labels["isArray"]) == ("sc:Integer", True)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_turns_with_calls_are_texts_or_their_roles_and_contents(tmp_path, kind, caplog):
    """Croissant has no type for objects of any shape: JSON texts in Parquet, and in JSON lines what it can say."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    turns = [
        {"role": "user", "content": "add"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2", "name": "add"}, {"role": "assistant", "content": "2"},
    ]  # fmt: skip
    (tmp_path / "pool.jsonl").write_text(json.dumps({"messages": turns, "tools": tools}) + "\n", "utf-8")
    recipe = {"name": "calls", "pool": [{"path": str(tmp_path / "pool.jsonl")}], "mix": {"examples": 1},
              "export": {"format": kind}}  # fmt: skip
    with Store(tmp_path / "store") as store:
        curate(parse_recipe(recipe), store)
    folder = tmp_path / "store" / "exports" / "calls"
    _, (row,) = read_back(folder, caplog)
    (stored,) = expected(folder)
    if kind == "parquet":
        assert [json.loads(turn) for turn in row["messages"]] == stored["messages"]
        assert [json.loads(tool) for tool in row["tools"]] == stored["tools"]
    else:
        assert [turn["role"] for turn in row["messages"]] == [turn["role"] for turn in stored["messages"]]
        assert [turn["content"] for turn in row["messages"]] == [turn["content"] for turn in stored["messages"]]


def test_a_damaged_file_is_refused_by_its_reader(mixed, tmp_path, caplog):
    api.export("mixed", tmp_path / "out", store=mixed)
    (data,) = (tmp_path / "out" / "data").iterdir()
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(Exception, match="Download") as told:
        read_back(tmp_path / "out", caplog)
    assert "is not identical with the reference" in str(told.value.__cause__)


def test_an_export_of_the_layout_before_is_checked_out_without_it(mixed, tmp_path, monkeypatch):
    """A run of the version before wrote no croissant.json: its export comes out as it was."""
    shutil.copytree(mixed, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "exports")
    monkeypatch.setattr(exporting.export, "__kwdefaults__", {**exporting.export.__kwdefaults__, "layout": 3})
    recipe = json.loads((mixed / "exports" / "mixed" / "manifest.json").read_text("utf-8"))["recipe"]
    with Store(tmp_path / "store") as store:
        folder = Path(curate(parse_recipe(recipe | {"seed": 1}), store).mixtures[0].export)
        assert not (folder / "croissant.json").exists()
        before = (folder / "manifest.json").read_bytes()
        monkeypatch.undo()
        made = checkout(store, "mixed@2", tmp_path / "then")
        assert made.as_then
        assert (tmp_path / "then" / "manifest.json").read_bytes() == before
        now = api.export("mixed", folder, store=store)
        assert (Path(now.folder) / "croissant.json").exists()
