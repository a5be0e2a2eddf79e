"""docs/data.md is true: its rows give the chats and reasons printed under them, its tables and recipes are read."""

import ast
import csv
import json
import re
import sys

import pytest
import yaml
from running import ROOT

from gradsift.datastore.examples import BadRow, Example
from gradsift.pipelines.pool.files import KINDS, rows_of
from gradsift.pipelines.pool.row_error import RowError
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.pool.tally import Tally
from gradsift.pipelines.recipe import Source, Target, parse_recipe

TEXT = (ROOT / "docs" / "data.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
RECIPE = {"name": "page", "select": {"examples": 2, "method": "random"}}


def followed(language):
    """[(block, [(language, block)] that say what it gives)] of the blocks of a language, by their numbers."""
    pairs = []
    for k, (found, text) in enumerate(BLOCKS):
        if found == language:
            after = BLOCKS[k + 1 : k + 3]
            pairs.append(pytest.param(text, after if after[0][0] == "yaml" else after[:1], id=f"{k}"))
    return pairs


@pytest.mark.parametrize(("rows", "gives"), followed("jsonl"))
def test_rows_of_the_page_give_what_is_printed_under_them(tmp_path, rows, gives):
    fields = {"path": "rows.jsonl"}
    if len(gives) == 2:
        (fields,) = yaml.safe_load(gives[0][1])["pool"]
    path = tmp_path / fields["path"]
    path.write_text(rows, "utf-8")
    found = list(read_source(Source(**fields | {"path": str(path)})))
    assert len(found) == len(rows.splitlines())
    language, wanted = gives[-1]
    if language == "text":
        assert [f"{row.reason}: {row.detail}" for row in found] == wanted.splitlines()
    else:
        assert language == "json"
        assert [row.messages for row in found] == [json.loads(wanted)] * len(found)


@pytest.mark.parametrize(("table", "gives"), followed("csv"))
def test_tables_of_the_page_are_the_rows_under_them(tmp_path, table, gives):
    (tmp_path / "table.csv").write_text(table, "utf-8")
    found = {
        str(line): row.reason if isinstance(row, RowError) else row for _, line, row in rows_of(tmp_path / "table.csv")
    }
    assert found == json.loads(gives[0][1])


def test_the_sources_and_targets_of_the_page_have_every_field_and_are_read(tmp_path):
    from datasets import Dataset, DatasetDict

    pool, targets = (yaml.safe_load(text) for language, text in BLOCKS if language == "yaml" and "dolly" not in text)
    recipe = parse_recipe(RECIPE | pool | targets, folder=tmp_path)
    written = targets["targets"]["sql"]
    assert {name for source in [*pool["pool"], written["val"]] for name in source} == set(Source.model_fields)
    assert set(written) == set(Target.model_fields)
    target = recipe.targets["sql"]

    (tmp_path / "pool").mkdir()
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    rows = [{"id": k, "topic": "x", "persona": f"Be {k}.", "conversations": turns, "more": 1} for k in range(5)]
    (tmp_path / "pool" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved = Dataset.from_list([{"prompt": "Hi", "completion": "Hello", "corpus": "letters"}])
    DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "saved"))
    answer = {"prompt": "Hi", "completion": "Hello"}
    (tmp_path / "val.jsonl").write_text(json.dumps(answer | {"dialect": "sqlite"}) + "\n")
    with (tmp_path / "test.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([answer.keys(), answer.values()])

    helpdesk, letters = (list(read_source(source)) for source in recipe.pool[:2])
    assert len(helpdesk) == 2
    assert all(
        (row.source, row.licence, set(row.extra)) == ("helpdesk", "cc-by-4.0", {"id", "topic"}) for row in helpdesk
    )
    assert {row.messages[0]["content"] for row in helpdesk} <= {f"Be {k}." for k in range(5)}
    assert [row.source for row in letters] == ["letters"]
    assert [row.subtask for row in read_source(target.val)] == ["sqlite"]
    assert [type(row) for row in read_source(target.test)] == [Example]


def test_the_page_names_every_kind_shape_and_status():
    for kind in (*KINDS, ".gz", ".zst"):
        assert f"`{kind}`" in TEXT
    for shape in Source.model_fields["shape"].annotation.__args__:
        assert f"### `{shape}`" in TEXT or shape == "auto"
    assert "image: none" in TEXT


def test_a_packed_parquet_file_of_a_folder_is_listed_and_not_opened(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    (tmp_path / "b.parquet.gz").write_bytes(b"packed")
    tally = Tally()
    assert len(list(read_source(Source(path=str(tmp_path)), tally=tally))) == 1
    assert [(one.why, one.suffix) for one in tally.unread] == [("of no known kind", ".parquet.gz")]


def test_a_column_that_is_no_picture_can_be_hidden(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "Hi", "completion": "Hello", "image": "logo.png"}\n')
    path = str(tmp_path / "a.jsonl")
    assert [type(row) for row in read_source(Source(path=path))] == [BadRow]
    (row,) = read_source(Source(path=path, mapping={"image": "none"}))
    assert row.messages[1]["content"] == "Hello"


def reasons():
    """Every reason that code of the pool gives a row: first to RowError, or to a function that takes one as `reason`."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "pipelines" / "pool").glob("*.py")]
    trees = [tree for tree in trees if "RowError" in ast.dump(tree)]
    place = {"RowError": 0}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args]
            if "reason" in names and node.name != "__init__":
                place[node.name] = names.index("reason")
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place:
            given = node.args[place[node.func.id]]
            if isinstance(given, ast.Constant):
                yield given.value


def test_the_reference_lists_every_reason_and_no_other():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_reference import QUARANTINE
    finally:
        sys.path.pop(0)
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", QUARANTINE, re.M)))
    assert len(listed) == len(set(listed))
    assert set(listed) == set(reasons())
