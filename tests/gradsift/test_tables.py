"""What commands show on a terminal of 80 columns, from what they found."""

import json
import shutil

import pytest

from gradsift.cli import show, tables
from gradsift.cli import store as commands
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.runs import SpaceRows
from gradsift.pipelines.runs.dryrun import Plan


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_plan_has_words_and_units(capsys):
    plan = Plan(
        1_234_567, 3, 0.973, 81.26, 2, 9, 3 << 30, 700 << 20, 1234.5, {"warmup": 0.5, "gradients": 61.25}, ["look out"],
        1, 2_000, 8_000, {"method 'less'": 5 << 20, "allowed": 2 << 30}, {"duplicates": 1_020, "leak_ngrams": 7}, 4,
        ["pool: 1 file in data not read"],
    )  # fmt: skip
    tables.show_plan(plan)
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for wanted in (
        "rows of the pool 1,234,567",
        "left out: duplicates 1,020",
        "left out: leak ngrams 7",
        "rows with a label 97.3%",
        "tokens of a row, mean 81",
        "checkpoints 2, 1 of them kept",
        "gradient rows to compute 2,000",
        "gradient rows kept 8,000",
        "validation runs 9, 4 of them kept",
        "disk needed 3.0 GiB",
        "disk free 700.0 MiB",
        "warmup 30 s",
        "gradients 61 min",
        "in all about 62 min",
        "method 'less' 5.0 MiB",
        "allowed 2.0 GiB",
        "Warning: pool: 1 file in data not read",
        "Note: look out",
    ):
        assert wanted in lines
    assert max(map(len, shown.splitlines())) <= 80


def test_a_plan_without_a_model_shows_no_figure_that_it_has_not(capsys):
    tables.show_plan(Plan(10, 0, 1.0, 0.0, 0, 0, 1 << 20, 1 << 30, 0.0, {}))
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert not [word for word in ("token", "checkpoint", "validation", "label") if word in shown]


@pytest.mark.parametrize(
    ("seconds", "done", "left", "words"),
    [
        (10, 100, 50, ", 10.0/s, 5 s left"),
        (60, 5, 10, ", 12 s each, 2 min left"),
        (7, 2, 1, ", 3.5 s each, 4 s left"),
        (3_600, 1, 4, ", 3600 s each, 4.0 h left"),
        (10, 100, 0, ", 10.0/s"),
        (0.0, 0, 5, ""),
        (5, 0, 5, ""),
    ],
)
def test_a_pace_never_reads_as_nothing_a_second(seconds, done, left, words):
    assert show.pace(seconds, done, left) == words


def test_what_was_computed_and_kept_is_counted():
    """Of pool and targets at two checkpoints; plain rows come in the same pass, or in one of their own."""

    def rows(role, computed, ok):
        return SpaceRows(role, 1, "nightly", 0, "sgd", computed, statuses={"ok": ok, "no_label": 2})

    night = [rows("target", 0, 24), rows("pool", 56, 441), rows("plain", 0, 441)] * 2
    assert tables.rows_words(night) == "Gradient rows: 112 computed, 818 kept"
    assert tables.rows_words([rows("pool", 0, 441), rows("plain", 441, 441)]) == "Gradient rows: 441 computed, 441 kept"


CHOSEN = {
    "name": "nightly-sql", "examples": 60, "source_precision": 0.95, "source_share_of_pool": 0.123,
    "by_source": {"sql": 40, "sql-near-duplicate": 20}, "export": "store/exports/nightly-sql",
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_keeps_to_the_terminal_and_all_that_it_shows(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    show.table("Selections", [CHOSEN])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    for letter in "nightly-sqlstore/exports/nightly-sqlsql40":
        assert letter in out


def test_words_and_paths_are_not_cut_where_there_is_room(capsys):
    show.table("Selections", [CHOSEN])
    words = capsys.readouterr().out.split()
    assert {"nightly-sql", "store/exports/", "sql-near-", "duplicate", "0.9500"} <= set(words)


def test_a_word_that_is_cut_leaves_room_to_a_longer_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    show.table(
        "Answer",
        [{"id": "0123456789abcdef" * 2, "source": "sql-near-duplicate", "text": "some words of it " * 4, "loss": 0.5}],
    )
    head = next(line for line in capsys.readouterr().out.splitlines() if "text" in line)
    starts = [head.index(name) for name in ("id", "source", "text", "loss")]
    assert starts[1] - starts[0] < starts[3] - starts[2], head


def test_a_title_has_the_terminal_and_its_markup_is_text(capsys):
    title = "Scores of a pool with [bold]a name[/bold], and with a few words more than that"
    show.table(title, [{"a": 1, "b": "[red]two[/red]"}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == title
    assert lines[-2].split() == ["1", "[red]two[/red]"]
    show.table(title, [])
    assert "[bold]a name[/bold]" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_damaged_can_be_read_at_80_columns(copy, capsys, monkeypatch):
    """One line or two for each file; as many as the last line says. The document has whole names."""
    monkeypatch.setattr(commands, "quiet_libraries", lambda: None)
    cut, flipped, gone = sorted((copy.root / "features").iterdir())[:3]
    size = cut.stat().st_size
    cut.write_bytes(cut.read_bytes()[:-1000])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    gone.unlink()
    shutil.rmtree(copy.root / "reports")
    with pytest.raises(CorruptionError, match=r"^4 damaged files; next"):
        commands.verify(store=copy.root)
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert "would do" in text
    for file in (cut, flipped, gone):
        assert f" features {file.name[:8]} " in text
        assert file.name[:9] not in text
    assert f"{size - 1000:,}" in text
    for words in ("cut:", " changed ", " missing ", "small.html"):
        assert words in text
    with pytest.raises(CorruptionError):
        commands.verify(store=copy.root, json=True)
    listed = json.loads(capsys.readouterr().out)
    assert {f"features/{file.name}" for file in (cut, flipped, gone)} | {"reports/small.html"} == {
        one["file"] for one in listed
    }
    commands.verify(store=copy.root, repair=True)
    assert " done " in capsys.readouterr().out
