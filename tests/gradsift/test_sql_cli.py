"""`gradsift sql` and `gradsift lineage`, as typed."""

import csv
import io
import json
import os
import re

import polars as pl
import pytest
from running import PATIENCE, gradsift, start

from gradsift import sql
from gradsift.cli import app
from gradsift.datastore import named, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example, add
from gradsift.datastore.identity import example_id
from gradsift.datastore.store import Store
from gradsift.datastore.tables import TABLES

HOSTILE = "[bold]x[/] \x1b[31m\u202eevil\x07 =1+1"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A store of three chats, one of which would like to be more than text."""
    root = tmp_path_factory.mktemp("hostile") / "store"
    with Store(root) as store:
        for k, text in enumerate((HOSTILE, "x" * 100_000, "plain")):
            chat = [{"role": "user", "content": text}, {"role": "assistant", "content": f"say {k}"}]
            add(store, [Example(example_id(chat), chat, "=a", "f.jsonl", k + 1, None, "", {"n": k})])
    return root


@pytest.fixture
def typed(capsys, monkeypatch):
    """What a command prints, in this process."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments, store):
        app([*map(str, arguments), "--store", str(store)], exit_on_error=False, result_action="return_value")
        return capsys.readouterr().out

    return run


def test_an_answer_is_a_table_and_says_how_much_more_there_is(typed, finished):
    told = typed(
        "sql", "select source, count(*) as n from examples group by 1 order by 2 desc, 1", "-n", 2, store=finished[1]
    )
    (largest, *_), rest = re.findall(r"^ (\S+) +(\d+) *$", told, re.M), told.splitlines()[-1]
    with Store(finished[1]) as store:
        counts = [row["n"] for row in store.catalog.rows("SELECT count(*) AS n FROM example GROUP BY source")]
    assert int(largest[1]) == max(counts)
    assert rest == f"2 of {len(counts)} rows; --limit, --csv, --json and --parquet FILE give more."
    assert "more" not in typed("sql", "select source from examples limit 20", store=finished[1])
    assert typed("sql", "select id from examples where chars < 0", store=finished[1]).strip() == "Answer: none"


def test_text_of_a_store_is_text_wherever_it_is_shown(typed, hostile, tmp_path):
    asked = "select text, source, messages, extra->>'n' as n from examples order by line"
    told = typed("sql", asked, store=hostile)
    assert not re.search("[\x1b\x07\u202e]", told)
    assert "[bold]x[/]" in told
    assert len(told) < 20_000, "long cells are cut"
    rows = json.loads(typed("sql", asked, "--json", store=hostile))
    assert rows[0]["text"] == f"{HOSTILE}\nsay 0"
    assert rows[1]["messages"][1] == {"role": "assistant", "content": "say 1"}
    table = list(csv.DictReader(io.StringIO(typed("sql", asked, "--csv", store=hostile))))
    assert [row["source"] for row in table] == ["'=a"] * 3, "no formula"
    assert json.loads(table[2]["messages"])[0]["content"] == "plain"
    assert "3 rows" in typed("sql", asked, "--parquet", tmp_path / "out.parquet", store=hostile)
    assert pl.read_parquet(tmp_path / "out.parquet")["n"].to_list() == ["0", "1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    followed = typed("lineage", "f.jsonl:1", store=hostile)
    assert not re.search("[\x1b\x07\u202e]", followed)


def test_rows_of_many_columns_are_shown_one_by_one(typed, hostile):
    told = typed("sql", "select * from examples order by line", "-n", 1, store=hostile)
    assert re.search(r"^Row 1\n", told)
    assert re.search(r"^ chars +\d+ *$", told, re.M)
    assert "1 of 3 rows" in told


def test_answers_without_rows_are_whole_documents(typed, hostile, tmp_path):
    none = "select id, loss, messages from examples where chars < 0"
    assert json.loads(typed("sql", none, "--json", store=hostile)) == []
    assert typed("sql", none, "--csv", store=hostile) == "id,loss,messages\n"
    typed("sql", none, "--parquet", tmp_path / "none.parquet", store=hostile)
    assert pl.read_parquet(tmp_path / "none.parquet").shape == (0, 3)
    assert len(json.loads(typed("sql", "select id from examples", "--json", "-n", 2, store=hostile))) == 2
    rows = json.loads(
        typed(
            "sql",
            "select loss / 0 as a, cast(line as double) / 0 as b, ln(0 - line) as c from examples",
            "--json",
            store=hostile,
        )
    )
    assert rows[0] == {"a": None, "b": None, "c": None}, "JSON has no number that is none"


def test_tables_columns_and_named_queries_are_listed(typed, hostile):
    told = typed("sql", "--schema", store=hostile)
    assert all(name in told for name in (*TABLES, *sql.query_names()))
    columns = typed("sql", "--schema", "arms", store=hostile)
    assert all(name in columns for name in TABLES["arms"].columns)
    whole = json.loads(typed("sql", "--schema", "--json", store=hostile))
    assert whole["tables"]["examples"]["columns"]["loss"][0] == "number"
    assert {query["name"]: list(query["parameters"]) for query in whole["queries"]}["lineage"] == ["id"]
    with pytest.raises(InputError, match="no table 'arm'; did you mean `arms`"):
        typed("sql", "--schema", "arm", store=hostile)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@pytest.mark.parametrize("name", sql.query_names())
def test_a_named_query_says_in_its_first_line_what_it_asks_and_takes(name, dialect):
    text = sql.query(name, dialect)
    query = next(query for query in named.queries() if query.name == name)
    assert query.words.endswith((".", "?"))
    assert set(query.parameters) == set(re.findall(r":([a-z_]\w*)", text))
    assert text.splitlines()[0] == sql.query(name).splitlines()[0], "alike for every database"


def test_named_queries_run_with_bound_values(either):
    chat = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    add(either, [Example(example_id(chat), chat, "a", "f.jsonl", 7)])
    (row,) = named.run(either, "lineage", {"id": example_id(chat)[:6]})
    assert (row["example_id"], row["file"], row["line"]) == (example_id(chat), "f.jsonl", 7)
    assert named.run(either, "lineage", {"id": "' OR 1=1 --"}) == []
    assert named.run(either, "members_of_shard", {"dataset_id": "1", "shard_id": 1}) == []
    assert named.run(either, "coverage", {}) == []
    for name, given, why in (
        ("lineag", {}, "did you mean `lineage`"),
        ("zzz", {}, "no query 'zzz'; there are composition, coverage, "),
        ("lineage", {}, r"takes id \(text: the start of an id\), and got none"),
        ("lineage", {"example": "x"}, "and got example"),
        ("coverage", {"x": "1"}, "takes no parameter"),
        ("members_of_shard", {"dataset_id": "1; drop", "shard_id": 1}, "dataset_id is an integer, not '1; drop'"),
    ):
        with pytest.raises(InputError, match=why):
            named.run(either, name, given)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["sql"], "give either a statement"),
        (["sql", "select 1", "--name", "coverage"], "give either a statement"),
        (["sql", "select 1", "-p", "a=1"], "-p is of a named query"),
        (["sql", "--name", "lineage", "-p", "id"], "write NAME=VALUE"),
        (["sql", "select 1", "--json", "--csv"], "give one of"),
        (["sql", "select 1", "-n", "-1"], "--limit must be 0 or more"),
        (["sql", "select 1", "--parquet", "/nowhere/x.parquet"], "cannot write /nowhere/x.parquet"),
        (["sql", "select * from exampels"], "did you mean `examples`"),
        (["lineage", "nowhere.jsonl"], "names nothing"),
        (["lineage", "exports/nope:3"], "no file that was read is called so, and no export stands there; rows were"),
    ],
)
def test_what_cannot_be_done_is_said(typed, hostile, arguments, why):
    with pytest.raises(InputError, match=why):
        typed(*arguments, store=hostile)


def test_lineage_of_a_chosen_row_and_of_its_file(typed, finished):
    with Store(finished[1]) as store:
        chosen = selections.get(store, "small-sql").example_ids[0]
        pool = runs.last_run(store).result.ingest.pool
    told = typed("lineage", chosen[:12], store=finished[1])
    for title in ("Read from", "In datasets", "In the model's passes", "Scores", "Chosen by", "In exports on disk",
                  "Trained on by"):  # fmt: skip
        assert title in told
    document = json.loads(typed("lineage", chosen, "--json", store=finished[1]))
    (one,) = document["examples"]
    assert (one["example_id"], one["choices"][0]["version"]) == (chosen, "small-sql@1")
    told = typed("lineage", "small.jsonl", "--rows", store=finished[1])
    assert f"became {pool.examples:,} examples" in " ".join(told.split())
    assert told.count("in small-sql@1") == 12
    columns = [line.split() for line in typed("lineage", chosen, store=finished[1]).splitlines()]
    assert ["selection", "target", "method", "score", "rank", "of"] in columns
    assert (one["scores"][0]["rank"], one["choices"][0]["rank"]) == (0, 0)
    assert [words[4] for words in columns if words[:4] == ["small-sql@1", "selection", "sql", "less"]] == ["0"]
    exported = finished[1] / "exports" / "small-sql"
    with pytest.raises(InputError, match=rf"exports on this host are .*{exported}"):
        typed("lineage", f"{exported}s:1", store=finished[1])
    assert chosen in typed("lineage", f"{exported}:1", store=finished[1])


def test_a_statement_that_is_refused_is_one_line_and_a_document(hostile):
    refused = gradsift("sql", "drop table examples", "--json", "--store", hostile, code=2)
    assert json.loads(refused.stdout)["error"].startswith("SQL: a statement begins with SELECT or WITH")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("form", "unbuffered"), [(["--csv"], ""), (["--json"], "1"), (["-n", "9000"], "")], ids=["csv", "json", "table"]
)
def test_a_reader_that_stops_after_a_line_ends_a_command_without_a_word(finished, form, unbuffered):
    """Its answer is more than a pipe holds, so that it is still written, and read from the store, when they go."""
    statement = "select a.id as id, b.id as other from examples a cross join examples b"
    reader, writer = os.pipe()
    command = ("-m", "gradsift", "sql", statement, "--store", finished[1], *form)
    process = start(*command, stdout=writer, variables={"PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.readline()
    assert (process.communicate(timeout=PATIENCE)[1], process.returncode) == ("", 141)


@pytest.mark.parametrize("command", [["sql", "--schema", "--json"], ["sql", "drop", "--json"]], ids=["answer", "error"])
def test_a_short_answer_that_nobody_reads_ends_as_quietly(command):
    """It is in Python's buffer until the command ends."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("-m", "gradsift", *command, stdout=writer, variables={"PYTHONUNBUFFERED": ""})
    os.close(writer)
    assert (process.communicate(timeout=PATIENCE)[1], process.returncode) == ("", 141)
