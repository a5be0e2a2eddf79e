"""CSV and TSV: every row with the line that it begins on, and a broken one costs that row alone."""

import csv
import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.datastore.examples import BadRow
from gradsift.pipelines.pool.files import rows_of
from gradsift.pipelines.pool.row_error import RowError
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source


def read(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(line, row.reason if isinstance(row, RowError) else row) for _, line, row in rows_of(path)]


def test_quotes_lines_in_cells_and_empty_cells(tmp_path):
    text = 'id,prompt,completion\n1,"He said ""no"",\ntwice",Oh\n\n2,Hi,\n'
    assert read(tmp_path / "a.csv", text) == [
        (2, {"id": "1", "prompt": 'He said "no",\ntwice', "completion": "Oh"}),
        (5, {"id": "2", "prompt": "Hi", "completion": None}),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt,completion\nHi,Hello\n"),
        ("a.csv", "\ufeffprompt,completion\r\nHi,Hello\r\n"),
        ("a.csv", "prompt;completion\nHi;Hello\n"),
        ("a.tsv", "prompt\tcompletion\nHi\tHello"),
        ("a.csv.gz", gzip.compress(b"prompt,completion\nHi,Hello\n", mtime=0)),
    ],
)
def test_separators_marks_and_packed_tables(tmp_path, name, text):
    assert read(tmp_path / name, text) == [(2, {"prompt": "Hi", "completion": "Hello"})]


def test_promise_9_a_broken_row_of_a_table_costs_that_row_alone(tmp_path):
    lines = [
        b"prompt,completion",
        b"Hi,Hello",
        b"Hi,Hello,more",
        b'"never closed,Hello',
        b"Hi,caf\xe9",
        b'"a"b,Hello',
        b"Hi,Again",
    ]
    found = read(tmp_path / "a.csv", b"\n".join(lines) + b"\n")
    assert found == [
        (2, {"prompt": "Hi", "completion": "Hello"}),
        (3, "broken_row"),
        (4, "broken_row"),
        (5, "invalid_utf8"),
        (6, "broken_row"),
        (7, {"prompt": "Hi", "completion": "Again"}),
    ]
    bad = [row for row in read_source(Source(path=str(tmp_path / "a.csv"))) if isinstance(row, BadRow)]
    assert [(row.line, row.excerpt) for row in bad][:2] == [(3, "Hi,Hello,more"), (4, '"never closed,Hello')]
    assert bad[0].detail == "3 cells; the first line names 2 columns"


def test_a_cell_that_is_too_long_costs_its_row(tmp_path):
    found = read(tmp_path / "a.csv", f"prompt,completion\n{'x' * 1_000_001},Hello\nHi,Hello\n")
    assert found == [(2, "broken_row"), (3, {"prompt": "Hi", "completion": "Hello"})]


def test_promise_9_a_name_that_stands_twice_is_one_cell_where_one_says_something(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,x,x,,,prompt\n1,2,3,4,,,\n1,2,,4,5,,\n1,2,,,,,9\n")
    first, second, third = read_source(Source(path=str(tmp_path / "a.csv")))
    assert [first.messages[0]["content"], first.extra] == ["1", {"x": ["3", "4"]}]
    assert second.extra == {"x": "4", "": "5"}
    assert (third.reason, third.detail) == ("bad_field", "prompt must be text, not ['1', '9']")


def test_chats_in_cells(tmp_path):
    chat = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
    out = io.StringIO()
    csv.writer(out).writerows([["messages", "topic"], [chat, "greeting"]])
    (tmp_path / "a.csv").write_text(out.getvalue(), newline="")
    (row,) = read_source(Source(path=str(tmp_path / "a.csv")))
    assert [turn["content"] for turn in row.messages] == ["Hi", "Hello"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)


@given(st.lists(st.tuples(cells, cells), max_size=6), st.sampled_from([",", ";", "\t"]))
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows, separator):
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows([("prompt", "completion"), *rows])
    name = "a.tsv" if separator == "\t" else "a.csv"
    found = read(tmp_path_factory.mktemp("table") / name, out.getvalue())
    assert [row for _, row in found] == [{"prompt": a, "completion": b} for a, b in rows]
    line = 2
    for (number, _), (a, b) in zip(found, rows, strict=True):
        assert number == line
        line += 1 + _breaks(a) + _breaks(b)


def _breaks(cell):
    """Lines that end in a cell, as text files count them."""
    return len(io.StringIO(cell + "x", newline="").readlines()) - 1
