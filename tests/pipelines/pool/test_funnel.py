"""Promise 9: every row that is read is in exactly one place, and what is not read is told."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsift.datastore import files, quarantine
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import LeftOut, RunResult, as_json, read
from gradsift.datastore.store import Store
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.read import read_datasets
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.recipe import Recipe, Source
from gradsift.pipelines.report.funnel import by_source, funnel, funnel_parts, left_over

BAD = ['{"prompt": 1', '{"prompt": 7, "completion": "x"}', '{"nothing": 1}', "[]"]


def row(k, source="", end=""):
    """A row of number k; those below 13 have a near-duplicate in the next even or odd one."""
    words = " ".join(f"word{(k // 2 * 2 if k < 13 else k) * 40 + j}" for j in range(30)) + " z" * (k % 2)
    return json.dumps({"prompt": words, "completion": f"answer {k}", **({"source": source} if source else {})}) + end


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def recipe_of(folder, sources, **more):
    val = write(folder / "val.jsonl", [row(500 + k) for k in range(2)])
    test = write(folder / "test.jsonl", [row(k) for k in range(3)])
    target = {"val": {"path": str(val)}, "test": {"path": str(test)}}
    return Recipe.model_validate(
        {"name": "r", "pool": sources, "targets": {"t": target}, "select": {"method": "random", "examples": 1}, **more}
    )


lines = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 12), st.sampled_from(["", "a", "b"])).map(lambda of: row(*of)), st.sampled_from(BAD)
    ),
    min_size=0,
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(pools=st.lists(lines, min_size=1, max_size=3), drawn=st.none() | st.integers(1, 6), screened=st.booleans())
def test_promise_9_every_row_read_is_counted_once_in_all_and_by_source(pools, drawn, screened):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sources = []
        for k, pool in enumerate(pools):  # a row that is no test row, or nothing may be left
            write(folder / f"{k}.jsonl", [*pool, row(100 + k)])
            sources.append({"path": str(folder / f"{k}.jsonl"), **({"rows": drawn} if drawn else {})})
        more = {"dedup": {}} if screened else {}
        with Store(folder / "store") as store:
            try:
                _, ingested = read_datasets(Work(store, recipe_of(folder, sources, **more)))
            except InputError as error:
                assert "also in a test set" in str(error) or "screening leaves nothing" in str(error)
                return
            counted = funnel(RunResult("r", ingested))
            total = sum(len(pool) + 1 for pool in pools)
            refused = sum(line in BAD for pool in pools for line in pool)
            assert counted.read == total
            assert left_over(counted) == 0
            assert sum(line.rows for line in counted.out if line.outcome == "quarantined") == refused
            assert sum(1 for _ in quarantine.entries(store)) == refused
            assert all(sum(line.by_source.values()) == line.rows >= 0 for line in counted.out)
            assert sum(counted.read_by_source.values()) == total
            assert dict(counted.used_by_source) == dict(ingested.pool.used_by_source)
            for one in by_source(counted):
                assert one["read"] == sum(n for name, n in one.items() if name not in ("source", "read", "lost"))


def test_rows_that_the_model_cannot_use_are_a_line_of_the_funnel(store, tmp_path):
    path = write(tmp_path / "p.jsonl", [row(k, "ab"[k % 2]) for k in range(10, 20)])
    _, ingested = read_datasets(Work(store, recipe_of(tmp_path, [{"path": str(path)}])))
    result = RunResult("r", ingested, unusable=[LeftOut("no_labels", 3, {"a": 2, "b": 1})])
    counted = funnel(result)
    assert (counted.read, counted.used, left_over(counted)) == (10, 7, 0)
    assert counted.used_by_source == {"a": 3, "b": 4}
    assert funnel(read(as_json(result))) == counted
    first = funnel_parts(result)[0]
    assert [line["left"] for line in first.table] == [10, 7, 7]
    assert first.svg.count("<rect") == 4  # read, what is left, what went, used
    assert "not usable by the model" in first.svg


def test_promise_10_a_run_of_an_older_version_has_its_funnel_without_sources(store, tmp_path):
    path = write(tmp_path / "p.jsonl", [*(row(k) for k in range(10, 20)), row(10), BAD[0]])
    _, ingested = read_datasets(Work(store, recipe_of(tmp_path, [{"path": str(path)}])))
    document = as_json(RunResult("r", ingested))
    for name in ("went", "sources", "not_drawn", "filtered", "test_rows_by_source"):
        del document["ingest"]["pool"][name]
    del document["unusable"]
    rows = {"role": "pool", "space_id": 1, "dataset": "r", "checkpoint": 0, "transform": "adam", "computed": 10}
    document["rows"] = [{**rows, "ok": 8, "no_labels": 2}]
    counted = funnel(read(document))
    assert (counted.read, counted.used, left_over(counted)) == (12, 8, 0)
    assert by_source(counted) == []


def test_promise_9_what_a_folder_has_and_is_not_read_is_listed_and_counted(store, tmp_path):
    folder = tmp_path / "pool"
    write(folder / "a" / "rows.jsonl", [row(1)])
    write(folder / "rows.jsonl.zip", ["x"])
    for k in range(5):
        write(folder / "a" / f"notes{k}.txt", ["x"])
    write(folder / ".hidden.jsonl", [row(2)])
    write(folder / ".git" / "rows.jsonl", [row(3)])
    write(folder / "empty.jsonl", [])
    write(folder / "blank.jsonl", ["", ""])
    write(folder / "bad.jsonl", BAD)
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "nowhere.jsonl").symlink_to(tmp_path / "gone")
    (folder / "linked.jsonl").symlink_to(write(tmp_path / "elsewhere.jsonl", [row(4)]))
    os.mkfifo(folder / "pipe.jsonl")
    pool, report = ingest(store, "pool", "p", [Source(path=str(folder))])
    (source,) = report.sources
    assert len(pool.example_ids) == 2
    found = {(one.why.partition(" (")[0], one.suffix): (one.files, list(one.first)) for one in source.unread}
    assert found == {
        ("of no known kind", ".txt"): (5, ["a/notes0.txt", "a/notes1.txt", "a/notes2.txt"]),
        ("of no known kind", ".jsonl.zip"): (1, ["rows.jsonl.zip"]),
        ("hidden", ""): (2, [".git", ".hidden.jsonl"]),
        ("empty", ""): (1, ["empty.jsonl"]),
        ("a link to a folder, which is not followed", ""): (1, ["a/loop"]),
        ("a link that leads nowhere", ""): (1, ["nowhere.jsonl"]),
        ("no ordinary file", ""): (1, ["pipe.jsonl"]),
    }
    assert (source.barren, [Path(one).name for one in source.barren_files]) == (2, ["bad.jsonl", "blank.jsonl"])


def test_a_folder_of_which_nothing_can_be_read_says_what_is_in_it(store, tmp_path):
    write(tmp_path / "pool" / "rows.xlsx", ["x"])
    with pytest.raises(InputError, match=r"holds no \.jsonl.*1 of no known kind \(\.xlsx\): rows\.xlsx"):
        ingest(store, "pool", "p", [Source(path=str(tmp_path / "pool"))])


def test_a_folder_inside_that_cannot_be_opened_is_told(store, tmp_path, monkeypatch):
    write(tmp_path / "pool" / "rows.jsonl", [row(1)])
    write(tmp_path / "pool" / "closed" / "rows.jsonl", [row(2)])
    before = Path.iterdir

    def refuse(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return before(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    _, report = ingest(store, "pool", "p", [Source(path=str(tmp_path / "pool"))])
    ((one,),) = [source.unread for source in report.sources]
    assert (one.why, one.first) == ("in a folder that cannot be opened (Permission denied)", ["closed"])


def test_a_source_of_which_more_than_half_is_refused_is_a_warning_with_the_first_reasons(store, tmp_path):
    bad = write(tmp_path / "bad.jsonl", [row(11), BAD[0], BAD[0], BAD[1], BAD[2], "[]"])
    half = write(tmp_path / "half.jsonl", [row(12), BAD[0]])
    _, ingested = read_datasets(Work(store, recipe_of(tmp_path, [{"path": str(bad)}, {"path": str(half)}])))
    (text,) = warnings(ingested)
    assert text.startswith(f"pool: 5 of 6 rows of {bad} were refused: 2 broken_json (first: {bad}:2), 1 ")
    assert "1 other reason" in text
    assert "gradsift quarantine" in text


def places(store):
    return Counter((Path(one.file).name, one.line) for one in quarantine.entries(store))


def test_entries_of_mended_rows_shorter_files_and_moved_files_disappear(store, tmp_path):
    a = write(tmp_path / "pool" / "a.jsonl", [row(1), BAD[0], BAD[1]])
    write(tmp_path / "pool" / "b.jsonl", [BAD[0], row(2)])
    sources = [Source(path=str(tmp_path / "pool"))]

    def again():
        ingest(store, "pool", "p", sources, recipe="p")
        return sorted(places(store))

    assert again() == [("a.jsonl", 2), ("a.jsonl", 3), ("b.jsonl", 1)]
    write(a, [row(1), row(3), BAD[1]])
    assert again() == [("a.jsonl", 3), ("b.jsonl", 1)]
    write(a, [row(1)])
    assert again() == [("b.jsonl", 1)]
    (tmp_path / "pool" / "b.jsonl").rename(tmp_path / "pool" / "c.jsonl")
    assert again() == [("c.jsonl", 1)]


def test_another_recipe_that_reads_the_same_file_in_its_way_takes_nothing_out(store, tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1), '{"q": "what", "a": "that"}'])
    mapped = Source(path=str(path), shape="prompt_completion", mapping={"prompt": "q", "completion": "a"})
    ingest(store, "pool", "one", [Source(path=str(path))], recipe="one")
    ingest(store, "pool", "two", [mapped], recipe="two")
    assert [(one.dataset, one.line) for one in quarantine.entries(store)] == [("two", 1), ("one", 2)]


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_promise_9_no_entry_is_lost_while_a_reading_is_half_done(store, tmp_path, monkeypatch, kill_at):
    monkeypatch.setattr("gradsift.pipelines.pool.ingest.BATCH_ROWS", 4)
    path = write(tmp_path / "a.jsonl", [row(0), *(BAD[k % 4] for k in range(11))])
    sources = [Source(path=str(path))]
    ingest(store, "pool", "p", sources)
    before = places(store)
    write(path, [row(0), *(BAD[k % 4] for k in range(5)), *(row(k) for k in range(1, 5)), BAD[0], BAD[1]])
    calls = []

    def stop(step):
        if step == "refused":
            calls.append(step)
            if len(calls) == kill_at:
                raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(store, "pool", "p", sources)
    assert places(store) == before
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    ingest(store, "pool", "p", sources)
    assert sorted(places(store)) == [("a.jsonl", line) for line in (2, 3, 4, 5, 6, 11, 12)]


def test_a_source_that_is_refused_leaves_its_entries_to_be_looked_at(store, tmp_path):
    path = write(tmp_path / "a.jsonl", BAD)
    with pytest.raises(InputError, match="gradsift quarantine"):
        ingest(store, "pool", "p", [Source(path=str(path))])
    assert len(places(store)) == 4
