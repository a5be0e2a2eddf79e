"""Predicates of examples: what they hold of, whatever a store is made of, and what they read."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from gradsift.datastore import bounds, examples, features, marks, picks, runs, selections, signals
from gradsift.datastore.compact import compact
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.predicates import ASKED, Predicate
from gradsift.datastore.where import matching


def chat(k):
    return [{"role": "user", "content": f"ask {k}"}, {"role": "assistant", "content": "x" * k}]


def of(k, source, file="a.jsonl", line=None, **extra):
    return Example(example_id(chat(k)), chat(k), source, file, k + 1 if line is None else line, None, "", extra)


@pytest.fixture
def made(either):
    """Twelve examples in three shards, of two sources; one of them in two places."""
    for first in (0, 4, 8):
        examples.add(either, [of(k, "ab"[k % 2], quality=k % 3, tag="o'k") for k in range(first, first + 4)])
    examples.add(either, [of(3, "a", "b.jsonl", 99, quality=9)])
    return either


IDS = [example_id(chat(k)) for k in range(12)]


@pytest.mark.parametrize(
    ("predicate", "numbers"),
    [
        ("1 = 1", range(12)),
        ("(line > 10) or (line < 2) -- the ends", [0, 3, 10, 11]),
        ("source = 'a'", [0, 2, 3, 4, 6, 8, 10]),
        ("source = 'b' and line > 4", [5, 7, 9, 11]),
        ("file = 'b.jsonl' or chars = 5", [0, 3]),
        ("extra->>'quality' = 2 and extra->>'tag' like 'O_K'", [2, 5, 8, 11]),
        ("text like '%ask 1%'", [1, 10, 11]),
        ("licence is not null", []),
        ("mark is null and selected = 0", range(12)),
        (f"id = '{IDS[7]}'", [7]),
        ("source = 3 or line = '4' or chars || '' = '9'", [3, 4]),
        ("key = id and source like 'B' and not (chars between 8 and 12)", [1, 9, 11]),
    ],
)
def test_it_holds_of_an_example_where_it_holds_of_one_of_its_places(made, predicate, numbers):
    assert matching(made, predicate) == sorted(IDS[k] for k in numbers)
    if "mark" not in predicate:
        assert list(picks.by_predicate(made, predicate).ids) == matching(made, predicate)


def test_what_is_deleted_pruned_or_merged_is_counted_once_or_not_at_all(made):
    assert compact(made, grace=0).shards_after == 1
    assert len(matching(made, "1 = 1")) == 12
    with made.catalog.write() as db:
        db.execute("DELETE FROM example WHERE example_id=?", (IDS[3],))
    assert matching(made, "source = 'a'") == sorted(IDS[k] for k in (0, 2, 4, 6, 8, 10))
    assert matching(made, "text like '%ask 3%'") == []


@pytest.mark.parametrize("predicate", ["source = 'a' and chars > 7", "extra->>'quality' = 2", "mark is null"])
def test_what_asks_the_catalog_reads_no_file(made, predicate, monkeypatch):
    def read(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr(made, "open", read)
    monkeypatch.setattr(made, "map", read)
    assert matching(made, predicate)
    with pytest.raises(AssertionError):
        matching(made, "text like 'a'")


def test_a_shard_that_is_merged_meanwhile_is_not_passed_over(made, monkeypatch):
    rows, asked = made.catalog.rows, []

    def merging(text, parameters=()):
        if "WHERE e.shard_id=?" in text and not asked:
            asked.append(text)
            compact(made, grace=60)
        return rows(text, parameters)

    monkeypatch.setattr(made.catalog, "rows", merging)
    with pytest.raises(BusyError, match="run this again"):
        matching(made, "extra->>'quality' >= 0")


@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        ("quality = 3", "no such column: quality"),
        ("sorce = 'a'", "no such column: sorce; did you mean `source`\\? It is what stands after WHERE"),
        ("extra->>'qualty' = 3", "no row has 'qualty' among its other columns; there are: quality, tag"),
        ("id in (select id from example)", "a SELECT inside is not allowed"),
        ("1); drop table example; --", 'near "\\)": syntax error'),
        ("1 = 0) or (1 = 1", 'near "\\)": syntax error'),
        ("1 = 1; drop table example", "one statement at a time"),
        ("chars > 0 /* all", "--where"),
        ("1 = 1 order by key", 'near "order": syntax error'),
        ("load_extension('x')", "load_extension"),
        ("source in (select name from sqlite_master)", "--where"),
        ("main.example.chars > 1 and lease.name = 'x'", "no such column"),
        ("rowid > 0", "--where"),
        ("abs(-9223372036854775807 - 1) > chars", "integer overflow"),
        ("loss > 2", "no example of .* has `loss`: of the signals there are none, for no run has computed gradients"),
    ],
)
def test_what_cannot_be_asked_is_said(made, predicate, why):
    with pytest.raises(InputError, match=why):
        matching(made, predicate)
    assert len(matching(made, "chars > 0")) == 12


def test_signals_marks_and_choices_of_the_newest_run(copy):
    last = runs.last_run(copy)
    space = max(last.result.pool_rows, key=lambda row: row.checkpoint).space_id
    assert signals.newest_space(copy) == space
    block = features.read_all(copy, space, features.ids_with_rows(copy, space))
    loss = dict(zip(block.example_ids, block.signal("loss").astype(float), strict=True))
    tokens = dict(zip(block.example_ids, block.signal("n_tokens").tolist(), strict=True))
    middle = float(np.median(list(loss.values())))
    assert matching(copy, f"loss > {middle!r}") == sorted(i for i, value in loss.items() if value > middle)
    assert matching(copy, f"loss < {middle!r} and tokens > 40") == sorted(
        i for i, value in loss.items() if value < middle and tokens[i] > 40
    )
    everything = {row["example_id"] for row in copy.catalog.rows("SELECT example_id FROM example")}
    assert matching(copy, "loss is null") == sorted(everything - set(loss))
    left_out = {m.example_id: m.reason for n in last.result.ingest.pool.screenings for m in marks.of_screening(copy, n)}
    assert matching(copy, "mark is not null") == sorted(left_out)
    chosen = {i for selection in selections.newest(copy) for i in selection.example_ids}
    assert matching(copy, "selected >= 1") == sorted(chosen)
    with pytest.raises(InputError, match="has `answer_loss`: of the signals there are loss, "):
        matching(copy, "answer_loss > 2")


def test_rows_that_the_catalog_does_not_list_have_no_signal(copy):
    """A shard may hold more than the catalog lists, as after a pruning that was killed."""
    space = signals.newest_space(copy)
    ids = features.ids_with_rows(copy, space)
    with copy.catalog.write() as db:
        db.executemany("DELETE FROM feature_row WHERE space_id=? AND example_id=?", ((space, i) for i in ids[::3]))
    assert set(matching(copy, "loss is not null")) == set(ids) - set(ids[::3])
    listed = [i for table in signals.tables(copy, space, ["loss"]) for i in table["example_id"].to_pylist()]
    assert sorted(listed) == sorted(set(ids) - set(ids[::3]))


def test_every_column_is_documented_and_can_be_asked(copy):
    has = signals.names_in(copy, signals.newest_space(copy))
    for name in ASKED:
        if name in has or name not in ("answer_loss",):
            matching(copy, f"{name} is not null")


def test_a_store_without_examples_has_none(store):
    assert matching(store, "chars > 0") == []


def grown(column, times):
    """Its x, twenty times as many with each step."""
    return f"replace({grown(column, times - 1)}, 'x', '{'x' * 20}')" if times else column


@pytest.mark.parametrize("column", ["text", "source || 'x'"])
def test_strings_that_a_predicate_makes_are_bounded(made, column):
    assert len(matching(made, f"{grown(column, 2)} like '%xx'")) == (11 if column == "text" else 12)
    with pytest.raises(InputError, match="string or blob too big"):
        matching(made, f"length({grown(column, 4)}) > 1")


def test_rows_may_be_longer_than_that(either):
    long = [{"role": "user", "content": "é" * bounds.BYTES}, {"role": "assistant", "content": "end"}]
    examples.add(either, [Example(example_id(long), long, "s" * (bounds.BYTES + 1))])
    for predicate in ("text like '%end'", "source like '%s'"):
        assert matching(either, predicate) == [example_id(long)]


SLOW = " and ".join(f"{grown('text', 2)} not like '%{'x' * 400}{k}%'" for k in range(100))


def test_time_is_bounded_where_somebody_asks_over_http(made):
    with bounds.within(0.001):
        assert len(matching(made, "1 = 1")) == 12
        for predicate in (SLOW, SLOW.replace("text", "(source || 'xxxxxxxx')")):
            with pytest.raises(InputError, match="takes longer than the"):
                matching(made, predicate)
    with bounds.within(60), pytest.raises(InputError, match="pattern too complex"):
        matching(made, f"text like '{'x' * 501}'")
    assert matching(made, f"text like '{'x' * 501}'") == []


def test_a_predicate_is_ended_by_the_user_between_two_rows():
    rows = [("id", "x" * 20)] * 20_000  # some minutes
    began = time.monotonic()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with Predicate(SLOW, {"text": ""}, "--where") as asked:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            asked.of(rows)
        assert time.monotonic() - began < 60
        assert asked.of([("id", "")]) == ["id"]
