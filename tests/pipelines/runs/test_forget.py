"""Promise 8: what is deleted is in no byte of the store; versions without it; killed anywhere, it goes on."""

import errno
import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted import SECRET, by_ids, found_in, id_of
from running import ROOT, gradsift, python

from gradsift.cli.tables import show_result
from gradsift.datastore import (
    attributes,
    checkpoints,
    compact,
    examples,
    files,
    forget,
    leases,
    origins,
    picks,
    runs,
    selections,
    tombstones,
    versions,
    warmups,
)
from gradsift.datastore.checkpoints import CheckpointState
from gradsift.datastore.errors import BusyError, CorruptionError, InputError
from gradsift.datastore.maintenance import verify
from gradsift.datastore.overview import overview
from gradsift.datastore.store import Store
from gradsift.datastore.traces import exported_to
from gradsift.pipelines.export import export as exporting
from gradsift.pipelines.export import place
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.report import write_report
from gradsift.pipelines.runs import outside
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete, finish, revive, rewrite_exports
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.runs.outside import LATER
from gradsift.pipelines.runs.repair import mend
from gradsift.pipelines.runs.reselect import remix


def chats(source, first, last, secret=""):
    texts = [" ".join(f"{source}{k}w{j}" for j in range(8)) for k in range(first, last)]
    return [
        {"prompt": f"{source} {text} {secret}".strip(), "completion": f"say {text}", "source": source} for text in texts
    ]


class Kept:
    """A store, and runs on it of a recipe without a model: a mixture, duplicates left out, a bad row."""

    def __init__(self, folder):
        self.folder, self.root = folder, folder / "store"
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.root)

    def run(self, rows, bad=(), export_root=None, **more):
        pool = self.folder / "pool.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows) + "".join(bad), "utf-8")
        data = {"name": "mix", "pool": [{"path": str(pool)}], "dedup": {"exact": True}, "mix": {"examples": 8}} | more
        return curate(parse_recipe(data), self.store, export_root=export_root)


@pytest.fixture
def kept(tmp_path):
    made = Kept(tmp_path / "kept")
    yield made
    made.store.close()


PLANTED = chats("ann", 0, 1, SECRET)[0]
BAD = json.dumps(PLANTED)[:-3] + "\n"  # the same row, cut


def fill(kept):
    """Two runs, of which the second has the planted row in its mixture, and a repetition of it marked."""
    twin = PLANTED | {"prompt": PLANTED["prompt"].replace(" ", "  ")}
    kept.run(chats("a", 0, 12))
    kept.run([PLANTED, *chats("a", 0, 6), twin], [BAD], mix={"examples": 7})
    gone = [i for i in (id_of(PLANTED), id_of(twin)) if examples.known_ids(kept.store, [i])]
    assert len(gone) == 2
    marked = kept.store.catalog.rows("SELECT * FROM mark")
    assert {marked[0]["example_id"], marked[0]["twin"]} == set(gone)
    assert found_in(kept.root, SECRET)
    return gone


def hidden(store):
    return [row["excerpt"] for row in store.catalog.rows("SELECT excerpt FROM quarantine")]


def test_promise_8_a_deleted_example_is_in_no_byte_of_the_store(kept):
    """Its text, its excerpt and its id in tables, files, free pages, the log, copies, reports and exports."""
    gone = fill(kept)
    store = kept.store
    shutil.copy(kept.root / "catalog.sqlite", kept.root / "catalog.before-0007.sqlite")
    (kept.root / "examples" / ".tmp-killed").write_bytes(SECRET.encode())
    (kept.root / "scores" / "orphan.parquet").write_bytes(
        (kept.root / "examples").glob("*.parquet").__next__().read_bytes()
    )
    for name in (
        f".partial-mix-{'0' * 16}",
        f".partial-.checkout-mix@1-{'0' * 16}",
        f".old-{'a' * 16}",
        ".checkout-mix",
    ):
        (kept.root / "exports" / name).mkdir()
        (kept.root / "exports" / name / "spill").write_text(SECRET)
    made = delete(store, by_ids(*gone), exports=True)
    assert found_in(kept.root, SECRET) == []
    assert {trace.what: trace.count for trace in made.traces}["examples"] == 2
    assert [one.state for one in made.exports] == ["rewritten"]
    for name in gone:
        ids = [row["name"] for row in store.catalog.rows("SELECT name FROM sqlite_master WHERE type='table'")]
        tables = [
            table
            for table in ids
            if any(name in map(str, dict(row).values()) for row in store.catalog.rows(f"SELECT * FROM {table}"))
        ]
        assert tables == ["tombstone"]
    files_with_ids = {file for file, _ in found_in(kept.root, *gone)}
    assert files_with_ids <= {"catalog.sqlite", "catalog.sqlite-wal"}, "the tombstones"
    assert hidden(store) == [""]
    assert verify(store) == []


def test_versions_without_it_take_the_next_number(kept):
    gone = fill(kept)
    store = kept.store
    before = selections.get(store, "mix")
    assert set(gone) & set(before.example_ids)
    delete(store, by_ids(*gone))
    states = {entry.report.version: entry.state for entry in versions.log(store)}
    assert states["pool@2"].startswith("void: ")
    assert states["mix@2"] == "void: 1 example was deleted"
    assert states["mix@1"] == states["pool@3"] == states["mix@3"] == ""
    why = {entry.report.version: entry.why for entry in versions.log(store)}
    assert why["pool@3"] == why["mix@3"] == "after a deletion"
    assert why["pool@2"] == why["mix@2"] == why["mix@1"] == ""
    now = selections.get(store, "mix")
    assert now.example_ids == [i for i in before.example_ids if i not in gone]
    assert selections.get(store, "mixture@3") == now
    plan = selections.plan(store, now)
    assert sum(line.rows for line in plan.table) == plan.realised == now.rows == before.rows - 1
    with pytest.raises(InputError, match=r"mix@2 is void: 1 example was deleted; mix@3 came after it"):
        selections.get(store, "mix@2")
    assert not set(gone) & set(material_of(store, runs.last_run(store)).pool.example_ids)
    assert remix(store, {"examples": 5}, name="few").examples == 5


def test_a_later_run_leaves_it_out_and_says_so_until_it_is_revived(kept):
    gone = fill(kept)
    rows = [PLANTED, *chats("a", 0, 6)]
    delete(kept.store, by_ids(*gone))
    result = kept.run(rows, [BAD], mix={"examples": 6})
    assert (result.ingest.pool.deleted, result.ingest.pool.examples, result.ingest.pool.rows_read) == (1, 6, 8)
    assert {v.version: v.new for v in result.versions}["pool@3"] is False, "it is what was left"
    assert found_in(kept.root / "examples", SECRET) == []
    assert set(hidden(kept.store)) == {""}, "nor does the excerpt of the bad row come back"
    page = (kept.root / "reports" / "mix.json").read_text()
    assert "deleted before" in page
    assert revive(kept.store, [gone[0][:12]]) == 1
    again = kept.run(rows, [BAD], mix={"examples": 7})
    assert (again.ingest.pool.deleted, again.ingest.pool.new) == (0, 1)
    assert gone[0] in selections.get(kept.store, "mix").example_ids
    with pytest.raises(InputError, match="no deleted example has an id starting with"):
        revive(kept.store, [gone[0]])


STEPS = ["planned", "written", "recorded", "committed", "swept", "erased", "collected", "scrubbed"]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_promise_8_killed_anywhere_it_goes_on(kept, monkeypatch, step):
    """Every time that it comes to a step; the example is not seen meanwhile, and the end is the same."""
    gone = fill(kept)
    kept.store.close()
    shutil.copytree(kept.root, kept.folder / "before")
    first = id_of(chats("a", 0, 1)[0])
    for time in range(100):
        shutil.rmtree(kept.root)
        shutil.copytree(kept.folder / "before", kept.root)
        hits = iter(range(1000))

        def stop(at, time=time, hits=hits):
            if at == step and next(hits) == time:
                raise KeyboardInterrupt

        with Store(kept.root) as store:
            monkeypatch.setattr(files, "failpoint", stop)
            try:
                delete(store, by_ids(*gone), exports=True)
                whole = True
            except KeyboardInterrupt:
                whole = False
            monkeypatch.setattr(files, "failpoint", lambda _step: None)
            if step == "planned" and not whole:
                assert examples.known_ids(store, gone) == set(gone), "before the commit nothing is deleted"
                delete(store, by_ids(*gone), exports=True)
            assert examples.get_messages(store, [*gone, first]).keys() == {first}
            assert not any(set(gone) & set(one.example_ids) for one in selections.newest(store))
            tables = [selections.details(store, one) for one in selections.newest(store)]
            assert not any(set(gone) & set(table["example_id"].to_pylist()) for table in tables)
            finish(store)
            check_gone(kept, store, gone)
        if whole:
            break
    assert time > 0, "it came to this step"


def check_gone(kept, store, gone):
    """The end of every deletion of these."""
    assert found_in(kept.root, SECRET) == []
    assert not forget.pending(store)
    assert not store.catalog.rows("SELECT * FROM forgetting_task")
    assert tombstones.known(store, gone) == set(gone)
    assert selections.get(store, "mix@3").rows == 6
    assert [entry.report.version for entry in versions.log(store, "mixture")] == ["mix@3", "mix@2", "mix@1"]
    assert len(pq.read_table(kept.root / "exports" / "mix" / "data")["example_id"]) == 6
    assert verify(store) == []


def test_the_next_run_finishes_a_deletion_that_was_killed(kept, monkeypatch):
    gone = fill(kept)

    def stop(step):
        if step == "planned":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        delete(kept.store, by_ids(*gone))
    assert examples.known_ids(kept.store, gone) == set(gone), "before the commit nothing is deleted"
    monkeypatch.setattr(files, "failpoint", lambda step: stop("planned") if step == "erased" else None)
    with pytest.raises(KeyboardInterrupt):
        delete(kept.store, by_ids(*gone))
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    kept.run(chats("a", 0, 9))
    assert not forget.pending(kept.store)
    assert {name for name, _ in found_in(kept.root, SECRET)} == set()


def test_a_deletion_waits_for_a_run(kept):
    gone = fill(kept)
    assert leases.acquire(kept.store, "run", "elsewhere:1:1:1")
    with pytest.raises(BusyError, match=r"a run is working .*gradsift delete when it has ended"):
        delete(kept.store, by_ids(*gone))
    leases.release(kept.store, "run", "elsewhere:1:1:1")
    assert leases.acquire(kept.store, "unit/3", "elsewhere:1:1:1")
    with pytest.raises(BusyError, match="unit/3 is being worked on"):
        delete(kept.store, by_ids(*gone))
    assert examples.known_ids(kept.store, gone) == set(gone)


def test_all_of_a_source_is_deleted(kept):
    rows = chats("a", 0, 12) + chats("b", 0, 3)
    kept.run([*rows, rows[0] | {"source": "b"}])
    made = delete(kept.store, lambda store: picks.by_source(store, "b"))
    assert (made.examples, made.sources) == (4, {"b": 3, "a": 1}), "also what another source has"
    assert len(kept.store.catalog.rows("SELECT * FROM example")) == 11
    result = kept.run(rows)
    assert (result.ingest.pool.deleted, result.ingest.pool.examples) == (4, 11)
    with pytest.raises(InputError, match=r"nothing .* is of source 'none'; there are a"):
        picks.by_source(kept.store, "none")


def test_a_predicate_looks_at_each_place_that_an_example_was_read_from(kept):
    """Its source and licence there, with its line; those that it counts under are of one of them."""
    rows = chats("a", 0, 12) + chats("b", 0, 1)
    kept.run([*rows, rows[0] | {"source": "b", "licence": "mit"}])

    def picked(predicate):
        return picks.by_predicate(kept.store, predicate).ids

    assert picked("source = 'b'") == picks.by_source(kept.store, "b").ids == sorted(map(id_of, (rows[0], rows[12])))
    assert picked("source = 'b' and line = 14") == picked("licence = 'mit'") == [id_of(rows[0])]
    assert picked("source = 'b' and line = 1") == []
    assert len(picked("source = 'a'")) == 12
    assert len(picked("licence is null")) == 13


def test_everything_can_be_deleted(kept):
    kept.run(chats("a", 0, 12))
    delete(kept.store, lambda store: picks.by_predicate(store, "true"))
    assert kept.store.catalog.rows("SELECT * FROM shard") == []
    with pytest.raises(InputError, match=r"every row of pool 'mix' was deleted before \(12 rows\)"):
        kept.run(chats("a", 0, 12))


def test_a_predicate_picks_examples_and_refused_rows(kept):
    other = '{"prompt": "write to ' + SECRET + '", "completion": \n'
    kept.run([PLANTED, *chats("a", 0, 12)], [BAD, other])
    store = kept.store

    def picked(predicate):
        found = picks.by_predicate(store, predicate)
        return len(found.ids), len(found.quarantined)

    assert picked("licence is null") == (13, 1), "a refused row that shows what one of them says goes with it"
    assert picked("source = 'ann' -- of this one") == (1, 1)
    assert picked(f"text like '%{SECRET.lower()}%'") == (1, 2)
    assert picked("line between 2 and 4") == (3, 0)
    assert picked("line = 15") == (0, 1)
    assert picked(f"id = '{id_of(PLANTED)}' or chars > 1000000") == (1, 1)
    assert picked("lower(source) = 'b'") == (0, 0)
    for wrong, why in {
        "licenc is null": "no such column: licenc",
        "id in (select id from example)": "a SELECT inside is not allowed",
        "true) union select id from example where (true": "syntax error",
        "true; drop table example": "one statement at a time",
        "load_extension('x')": "there is no function load_extension",
        "": "incomplete input",
        "count(*) > 1": "there is no function count",
    }.items():
        with pytest.raises(InputError, match=rf"--where: .*{re.escape(why)}.*licence \(its licence there"):
            picks.by_predicate(store, wrong)


def test_a_predicate_looks_at_other_columns(kept):
    rows = chats("a", 0, 12)
    rows[0] |= {"difficulty": "hard", "quality": 4, "o'k": True}
    rows[1] |= {"difficulty": "easy", "quality": 4.5, "meta": {"by": "ann"}}
    kept.run(rows, [BAD])

    def picked(predicate):
        found = picks.by_predicate(kept.store, predicate)
        assert found.quarantined == []
        return [k for k, row in enumerate(rows) if id_of(row) in found.ids]

    assert picked("extra->>'difficulty' = 'hard'") == [0]
    assert picked("extra ->> '$.quality' >= 4 and extra->'difficulty' = '\"easy\"'") == [1]
    assert picked("json_extract(extra, '$.meta.by') = 'ann'") == [1]
    assert picked("json_type(extra, '$.quality') = 'integer'") == [0]
    assert picked("extra->>'o''k' = 1") == [0]
    assert picked("extra is null and line > 10") == [10, 11]
    for wrong in ("extra->>'dificulty' is null", "json_type(extra, '$.\"dificulty\"') is null"):
        with pytest.raises(
            InputError, match=r"--where: no row has 'dificulty' .*; there are: difficulty, meta, o'k, qual"
        ):
            picks.by_predicate(kept.store, wrong)
    with pytest.raises(InputError, match=r"--where: .*path"):
        picks.by_predicate(kept.store, "json_extract(extra, '$[') = 1")
    with pytest.raises(InputError, match=r"--where: .*json_each"):
        picks.by_predicate(kept.store, "'x' in (json_each(extra))")


CUT = [  # the prompt of a row, and how another refused row shows it
    ("我的名字是安妮张我住在北京市朝阳区电话号码是一三八零零零零请写信", "{}"),
    ("ฉันชื่อแอนนี่อยู่ที่กรุงเทพมหานครกรุณาเขียนจดหมาย", "{}"),
    ("Меня зовут Анна Петрова, я живу в Самаре", "escaped"),
    ("key " + "9f3b7c21e8d45a60" * 12, "{}"),
    ("Ann Zhang", '"{}", thanks'),
    ("My name is Ann Zhang and I live in Springfield, please answer soon", "{}"),
]


@pytest.mark.parametrize(("text", "shown"), CUT, ids=["Chinese", "Thai", "escaped", "long word", "short turn", "words"])
def test_an_excerpt_that_shows_a_deleted_text_is_emptied_in_any_script(kept, text, shown):
    """Not at the example's place, and cut: without spaces, with escapes, in the middle of a long word, a short turn."""
    planted = {"prompt": text, "completion": "ok", "source": "ann"}
    excerpt = json.dumps(text)[1:-1] if shown == "escaped" else shown.format(text)
    other = '{"prompt": "Please write a long letter to 安妮李 in Springfield, and say ok", "completion": \n'
    kept.run([*chats("a", 0, 12), planted], ['{"messages": [{"role": "user", "content": "' + excerpt + "\n", other])
    before = hidden(kept.store)
    assert all(before)
    assert len(before) == 2
    delete(kept.store, by_ids(id_of(planted)))
    assert sorted(map(bool, hidden(kept.store))) == [False, True], "and the other one stays"


def test_promise_8_a_deletion_after_a_compaction_leaves_no_byte(kept):
    """Neither in the merged files nor in those that wait for readers."""
    gone = fill(kept)
    assert compact.compact(kept.store).merges
    assert kept.store.catalog.rows("SELECT * FROM doomed")
    assert len({name for name, _ in found_in(kept.root / "examples", SECRET)}) > 1
    delete(kept.store, by_ids(*gone), exports=True)
    assert found_in(kept.root, SECRET) == []
    assert verify(kept.store) == []


def test_promise_8_scores_of_a_selection_that_a_repair_made_void_say_nothing_of_it(kept):
    gone = fill(kept)
    store, lost = kept.store, id_of(chats("a", 11, 12)[0])  # the second run's pool has it no more
    ids = sorted(row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example"))
    table = pa.table({"example_id": ids, "score": [0.5] * len(ids)})
    made = selections.save(store, "scored", "all", {"method": "m"}, selections.Picks([lost], [1.0], table))
    (file,) = store.catalog.rows(
        "SELECT name FROM shard JOIN example USING (shard_id) WHERE example_id=?", (lost,)
    )  # fmt: skip
    (kept.root / file["name"]).unlink()
    mend(store, accept_loss=True)
    held = "SELECT void, scores_shard FROM selection WHERE selection_id=?"
    void = store.catalog.one(held, (made.selection_id,))
    assert void["void"]
    assert void["scores_shard"] is not None
    delete(store, by_ids(gone[0]))
    assert found_in(kept.root / "scores", gone[0]) == []
    assert verify(store) == []


def killed(kept, monkeypatch, pick):
    """A deletion that is killed when its first file is written."""

    def stop(step):
        if step == "erased":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "failpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            delete(kept.store, pick)


@pytest.mark.parametrize("known", [True, False])
def test_what_a_killed_deletion_did_not_reach_is_said_when_it_is_finished(kept, monkeypatch, known):
    """Warm-ups that saw it, also one of an older version, of which nobody knows what it saw; exports; reports."""
    gone, store = fill(kept), kept.store
    if known:
        warmups.begin(store, warmups.WarmupRun("f" * 64, "s" * 64, "p" * 64, 5, 1), gone)
    checkpoints.commit(store, "f" * 64, 0, 1, 1.0, CheckpointState({"a": np.zeros(1, np.float32)}, {}, {}))
    saw = [("f" * 64, 2 if known else None)]
    shutil.copy(kept.root / "reports" / "mix.html", kept.root / "reports" / "other.html")
    killed(kept, monkeypatch, by_ids(*gone))
    with pytest.raises(InputError) as refused:
        delete(store, lambda store: picks.by_source(store, "ann"))
    for part in (
        "of source 'ann'",
        "is finished. Examples: 2.",
        "/exports/mix, of whose rows 1 were theirs",
        "warm-up ffffffffffff",
    ):
        assert part in str(refused.value)
    again = delete(store, by_ids(*gone))
    assert (again.resumed, [(one.warmup, one.examples) for one in again.seen]) == (None, saw)
    killed(kept, monkeypatch, by_ids(id_of(chats("a", 0, 1)[0])))
    (other,) = chats("a", 1, 2)
    made = delete(store, by_ids(id_of(other)))
    assert made.examples == made.resumed.examples == 1
    assert [Path(one.folder).name for one in made.resumed.exports] == ["mix"]
    assert [one.examples for one in made.resumed.seen] == ([] if known else [None])


def test_a_compaction_between_brings_nothing_back(kept, monkeypatch):
    """It meets a deletion that was killed when it had a plan: merged files have live rows alone, and it goes on."""
    gone = fill(kept)

    def stop(step):
        if step == "erased":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        delete(kept.store, by_ids(*gone), exports=True)
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    compact.compact(kept.store)
    assert {row["example_id"] for row in kept.store.catalog.rows("SELECT example_id FROM example")}.isdisjoint(gone)
    finish(kept.store)
    assert found_in(kept.root, SECRET) == []
    assert verify(kept.store) == []


def test_a_reader_of_the_catalog_is_waited_for_and_then_said(kept, monkeypatch):
    """What was deleted may be in the log until the reader ends; the plan stays."""
    gone = fill(kept)
    monkeypatch.setattr("gradsift.datastore.sqlite.BUSY_SECONDS", 0.1)
    with Store(kept.root) as store:
        reader = sqlite3.connect(kept.root / "catalog.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM example").fetchall()
        with pytest.raises(BusyError, match=r"another process is using .*catalog.sqlite; run this again when it has"):
            delete(store, by_ids(*gone))
        assert forget.pending(store)
        reader.close()
        finish(store)
        assert not forget.pending(store)
        assert not [name for name, _ in found_in(kept.root, SECRET) if name.startswith("catalog")]


def test_a_damaged_file_stops_a_deletion_which_goes_on_when_it_is_mended(kept):
    gone = fill(kept)
    (shard,) = examples.shards_of(kept.store, [gone[0]])
    (row,) = kept.store.catalog.rows("SELECT name FROM shard WHERE shard_id=?", (shard,))
    path = kept.root / row["name"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with Store(kept.root) as store, pytest.raises(CorruptionError, match=rf"shard {shard} "):
        delete(store, by_ids(*gone))
    assert examples.known_ids(kept.store, gone) == set(gone), "its text could not be looked for in excerpts"
    path.write_bytes(whole)
    with Store(kept.root) as store:
        delete(store, by_ids(*gone), exports=True)
    assert found_in(kept.root, SECRET) == []


@pytest.mark.parametrize("times", [1, 2])
def test_promise_8_a_replaced_export_goes_though_the_disk_failed_when_it_was_replaced(kept, monkeypatch, times):
    """The new one has its name by then, and the old one, with what is deleted, lies beside it."""
    gone = fill(kept)
    left, sync = [OSError(errno.EIO, "Input/output error")] * times, place.fsync_folder

    def failing(folder):
        if left:
            raise left.pop()
        sync(folder)

    monkeypatch.setattr(place, "fsync_folder", failing)
    (told,) = delete(kept.store, by_ids(*gone), exports=True).exports
    assert "Input/output error" in told.state
    assert not left
    delete(kept.store, by_ids(*gone), exports=True)
    assert [path.name for path in (kept.root / "exports").iterdir()] == ["mix"]
    assert found_in(kept.root, SECRET) == []


def test_an_export_that_cannot_be_written_is_not_written_otherwise(kept, monkeypatch):
    """Without labels it is where its model is gone, and for no other reason."""
    gone, tried = fill(kept), []

    def failing(*_args, **_kwargs):
        tried.append(1)
        raise InputError("it is read only here")

    with monkeypatch.context() as patch:
        patch.setattr(outside, "export", failing)
        (told,) = delete(kept.store, by_ids(*gone), exports=True).exports
    assert (len(tried), "still holds them: it is read only here" in told.state) == (1, True)
    assert [one.state for one in rewrite_exports(kept.store)] == ["rewritten"]


def test_a_run_that_goes_on_with_a_deletion_says_what_that_came_to(kept, monkeypatch, capsys):
    """And names exports that hold its examples still, not the one that it writes itself."""
    gone = fill(kept)
    copied = kept.folder / "copied"
    exporting.export(
        kept.store,
        selections.get(kept.store, "mix"),
        runs.recipe_of(kept.store, selections.get(kept.store, "mix")),
        copied,
    )

    def stop(step):
        if step == "erased":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        delete(kept.store, by_ids(*gone))
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    result = kept.run(chats("a", 0, 6), mix={"examples": 6})
    show_result(result)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("The deletion that was interrupted is finished. Examples: 2. The export ")
    assert said.count("of whose rows 1 were theirs: holds them") == 1
    assert str(copied) in result.finished[1]
    assert not kept.run(chats("a", 0, 6), mix={"examples": 6}).finished


def test_the_command_line_deletes_and_goes_on(kept, monkeypatch):
    gone = fill(kept)
    kept.store.close()
    at = ("--store", kept.root)
    planned = json.loads(gradsift("delete", "--id", gone[0][:10], gone[1], "--dry-run", "--json", *at).stdout)
    assert (planned["examples"], planned["ids"]) == (2, sorted(gone))
    assert [one["state"] for one in planned["exports"]] == ["holds them"]
    assert planned["versions"] == ["mix@2", "pool:mix@2"]
    assert "say --yes" in gradsift("delete", "--id", gone[0], *at, code=2).stderr
    assert "give one of --id" in gradsift("delete", "--id", gone[0], "--source", "a", *at, code=2).stderr
    assert "no deletion was interrupted" in gradsift("delete", *at, code=2).stderr
    assert "no example has an id starting" in gradsift("delete", "--id", "0" * 32, *at, "--dry-run", code=2).stderr

    def stop(step):
        if step == "erased":
            raise KeyboardInterrupt

    ids = kept.folder / "ids.txt"
    ids.write_text("\n".join([*gone, ""]))
    monkeypatch.setattr(files, "failpoint", stop)
    with Store(kept.root) as store, pytest.raises(KeyboardInterrupt):
        delete(store, lambda store: picks.by_list(store, ids))
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    state = json.loads(gradsift("status", "--json", *at).stdout)["deletions"]
    assert state[0]["finished_utc"].startswith("not finished")
    said = " ".join(gradsift("delete", *at).stdout.split())
    assert "is finished. Examples: 2." in said
    assert "of whose rows 1 were theirs: holds them" in said
    again = json.loads(gradsift("delete", "--file", ids, "--yes", "--json", *at).stdout)
    assert (again["examples"], again["gone_before"]) == (0, 2)
    assert json.loads(gradsift("revive", "--file", ids, "--json", *at).stdout) == {"revived": 2}


def test_ids_for_revive_are_printed_and_listed(kept):
    kept.run(chats("a", 0, 13))
    kept.store.close()
    at = ("--store", kept.root)
    said = gradsift("delete", "--source", "a", "--yes", *at, columns=200).stdout
    listed = json.loads(gradsift("revive", "--json", *at).stdout)
    assert len(listed) == 13
    assert {len(one["id"]) for one in listed} == {32}
    first = sorted(one["id"] for one in listed)[:10]
    assert "No checkpoint was trained on them." in said
    assert "No export on disk holds them." not in said
    assert f"Ids: {', '.join(name[:8] for name in first)} and 3 more; --json has all" in said
    shown = gradsift("revive", *at).stdout
    assert all(one["id"] in shown and one["deleted_utc"] in shown for one in listed)
    gradsift("revive", first[0][:8], *at)
    assert first[0] not in gradsift("revive", *at).stdout
    assert (
        "too short for an id to delete, though a query takes it"
        in gradsift("delete", "--id", first[1][:7], "--dry-run", *at, code=2).stderr
    )
    assert "`gradsift revive` without an id lists all" in gradsift("revive", first[0], *at, code=2).stderr


def test_exports_elsewhere_are_listed_and_rewritten_when_that_is_asked_for(kept, tmp_path):
    rows = [PLANTED, *chats("a", 0, 6)]
    pool = kept.folder / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = parse_recipe({"name": "mix", "pool": [{"path": str(pool)}], "mix": {"examples": 7}})
    curate(recipe, kept.store, export_root=tmp_path / "out")
    shutil.copytree(tmp_path / "out" / "mix", kept.root / "exports" / "mix@1")
    made = delete(kept.store, by_ids(id_of(PLANTED)))
    held = {str(tmp_path / "out" / "mix"), str(kept.root / "exports" / "mix@1")}
    assert {one.folder for one in made.exports if one.state == "holds them" and one.rows == 1} == held
    assert found_in(tmp_path / "out", SECRET)
    again = delete(kept.store, by_ids(id_of(PLANTED)), exports=True)
    assert (again.examples, again.gone_before) == (0, 1)
    assert {one.folder: one.state for one in again.exports} == {
        str(tmp_path / "out" / "mix"): "rewritten", str(kept.root / "exports" / "mix@1"): "removed"
    }  # fmt: skip
    assert found_in(tmp_path / "out", SECRET) == found_in(kept.root, SECRET) == []
    assert rewrite_exports(kept.store) == []


def test_a_deletion_in_a_copy_is_of_the_copy_alone(kept):
    """Its reports and exports are its own, though its runs wrote the original's."""
    gone = fill(kept)
    kept.store.close()
    copied = kept.folder / "copy"
    shutil.copytree(kept.root, copied)
    before = {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()}
    with Store(copied) as store:
        made = delete(store, by_ids(*gone), exports=True)
    assert made.left == []
    assert [(one.folder, one.state) for one in made.exports] == [(str(copied / "exports" / "mix"), "rewritten")]
    assert found_in(copied, SECRET) == []
    assert (copied / "reports" / "mix.html").exists()
    assert {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()} == before


def test_an_export_elsewhere_of_which_nothing_is_left_stays_with_its_owner(kept, tmp_path):
    pool = kept.folder / "pool.jsonl"
    pool.write_text(json.dumps(PLANTED) + "\n", "utf-8")
    recipe = parse_recipe({"name": "mix", "pool": [{"path": str(pool)}], "mix": {"examples": 1}})
    curate(recipe, kept.store, export_root=tmp_path / "out")
    (one,) = delete(kept.store, by_ids(id_of(PLANTED)), exports=True).exports
    assert one.state.startswith("still holds them, remove it: no selection 'mix'")


def sources_of(folder):
    return set(pq.read_table(folder / "data")["source"].to_pylist())


def test_an_export_is_rewritten_from_what_is_left_of_its_own_version(kept, tmp_path):
    kept.run([PLANTED, *chats("a", 0, 11)], mix={"examples": 12}, export_root=tmp_path / "one")
    delete(kept.store, by_ids(id_of(PLANTED)))
    kept.run(chats("b", 0, 12), export_root=tmp_path / "two")
    (one,) = rewrite_exports(kept.store)
    assert (one.state, sources_of(tmp_path / "one" / "mix")) == ("rewritten", {"a"})
    assert found_in(tmp_path, SECRET) == []
    first = id_of(chats("a", 0, 1)[0])
    (one,) = delete(kept.store, by_ids(first), exports=True).exports  # the stand-in is void, and no longer the newest
    assert one.state == "still holds them, remove it: no selection 'mix' in " + f"{kept.root} is what is left of it"
    assert first in pq.read_table(tmp_path / "one" / "mix" / "data")["example_id"].to_pylist()


def test_an_export_of_which_nothing_is_left_takes_no_other_versions_rows(kept):
    kept.run(chats("a", 0, 12))
    kept.run(chats("b", 0, 12))
    made = delete(kept.store, lambda store: picks.by_source(store, "b"), exports=True)
    assert [one.state for one in made.exports] == ["removed"]
    assert not (kept.root / "exports" / "mix").exists()


def test_an_export_that_cannot_be_written_now_stays_and_says_so(kept, monkeypatch):
    gone = fill(kept)

    def refuse(*_arguments, **_options):
        raise InputError("the tokenizer is away")

    with monkeypatch.context() as patch:
        patch.setattr("gradsift.pipelines.runs.outside.export", refuse)
        (one,) = delete(kept.store, by_ids(*gone), exports=True).exports
    assert one.state == "still holds them: the tokenizer is away; then `gradsift delete --exports`"
    assert found_in(kept.root / "exports", SECRET)
    assert [one.state for one in rewrite_exports(kept.store)] == ["rewritten"]
    assert found_in(kept.root, SECRET) == []


def test_what_a_trainer_wrote_into_an_export_stays_and_is_named(kept, tmp_path):
    """In an export that is written anew, in one that is removed, and where a swap was killed in the middle."""
    kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 7}, export_root=tmp_path / "out")
    checkout(kept.store, "mix@1")
    ours, void = tmp_path / "out" / "mix", kept.root / "exports" / "mix@1"
    for folder in (ours, void):
        folder_with(folder / "OUT", "weights")
    ours.rename(tmp_path / "out" / ".gradsift-old-mix")
    made = delete(kept.store, by_ids(id_of(PLANTED)), exports=True)
    assert {one.folder: one.state for one in made.exports} == {
        str(ours): "rewritten, but for what is not the export's: OUT",
        str(void): "removed, but for what is not the export's: OUT",
    }
    assert [(folder / "OUT" / "spill").read_text() for folder in (ours, void)] == ["weights"] * 2
    assert found_in(tmp_path / "out", SECRET) + found_in(kept.root, SECRET) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("broken", ["manifest", "data", "both", "no manifest"])
def test_an_export_that_cannot_be_read_is_removed_or_named_and_blocks_nothing(kept, tmp_path, broken):
    mine, other = kept.root / "exports" / "mix", tmp_path / "out" / "mix"
    kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 7}, export_root=tmp_path / "out")
    shutil.copytree(other, mine)
    for folder in (mine, other):
        if broken in ("data", "both"):
            cut(next((folder / "data").iterdir()))
        if broken in ("manifest", "both"):
            cut(folder / "manifest.json")
        if broken == "no manifest":
            (folder / "manifest.json").unlink()
    listed = delete(kept.store, by_ids(id_of(PLANTED))).exports
    assert {one.folder for one in listed} == {str(mine), str(other)}
    assert {one.rows for one in listed} == {0 if broken in ("data", "both") else 1}
    assert not forget.pending(kept.store)
    states = {one.folder: one.state for one in rewrite_exports(kept.store)}
    assert states[str(mine)] == {
        "data": "rewritten", "no manifest": f"still holds them, remove it: {mine} exists and is not a gradsift export; "
        "choose another folder or remove it",
    }.get(broken, "removed")  # fmt: skip
    assert states[str(other)].startswith({"data": "rewritten", "both": "may hold them"}.get(broken, "still holds them"))
    assert mine.exists() == (broken in ("data", "no manifest"))
    kept.run(chats("a", 0, 9), export_root=tmp_path / "third")


def test_an_export_that_begins_while_a_deletion_is_asked_for_is_waited_for(kept):
    gone = fill(kept)

    def confirm(_plan):
        return leases.acquire(kept.store, "export 0123456789abcdef", "elsewhere:1:1:1")

    with pytest.raises(BusyError, match="export 0123456789abcdef is being worked on"):
        delete(kept.store, by_ids(*gone), confirm=confirm)
    assert examples.known_ids(kept.store, gone) == set(gone)
    assert not tombstones.known(kept.store, gone)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_export_of_what_was_deleted_leaves_nothing(kept, monkeypatch, when):
    """Its selection was looked up before the deletion, or its lease was lost while it wrote."""
    gone = fill(kept)
    chosen, out = selections.get(kept.store, "mix"), kept.folder / "out"
    recipes = runs.recipe_of(kept.store, chosen)
    write = exporting.write_parts

    def slowly(*arguments, **options):
        with kept.store.catalog.write() as db:
            tombstones.put(db, gone)
        return write(*arguments, **options)

    if when == "before":
        delete(kept.store, by_ids(*gone))
    else:
        monkeypatch.setattr(exporting, "write_parts", slowly)
    with pytest.raises(BusyError, match="examples of mix were deleted while it was exported"):
        exporting.export(kept.store, chosen, recipes, out / "mix")
    assert list(out.iterdir()) == []


def test_an_export_inside_another_store_is_that_stores(kept):
    """A copy finds its own beside it, wherever in the store it lies."""
    kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 7}, export_root=kept.root / "sets" / "new")
    kept.store.close()
    copied = kept.folder / "copy"
    shutil.copytree(kept.root, copied)
    before = {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()}
    with Store(copied) as store:
        made = delete(store, by_ids(id_of(PLANTED)), exports=True)
    assert {(one.folder, one.state) for one in made.exports} == {(str(copied / "sets" / "new" / "mix"), "rewritten")}
    assert found_in(copied, SECRET) == []
    assert {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()} == before


def forget_notes(store):
    """As an older version left it."""
    with store.catalog.write() as db:
        db.execute("DELETE FROM written")


def test_an_export_is_found_from_another_folder(kept, monkeypatch):
    """Also that of an older version, which recorded the path as seen from where its run was started."""
    monkeypatch.chdir(kept.folder)
    kept.store.close()
    with Store("store") as store:
        kept.store = store
        kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 7}, export_root=Path("out"))
        assert exported_to(store) == [str(kept.folder / "out" / "mix")]
        forget_notes(store)
        for table, column in (("run", "summary"), ("run_version", "folder")):
            with store.catalog.write() as db:
                db.execute(
                    f"UPDATE {table} SET {column}=replace({column}, ?, 'out/mix')", (str(kept.folder / "out" / "mix"),)
                )
    monkeypatch.chdir("/")
    mine = folder_with(kept.folder / "home" / ".old-thesis", "mine")
    monkeypatch.chdir(kept.folder / "home")
    with Store(kept.root) as store:
        made = delete(store, by_ids(id_of(PLANTED)), exports=True)
        assert [(one.folder, one.state) for one in made.exports] == [(str(kept.folder / "out" / "mix"), "rewritten")]
        shutil.copytree(kept.root, kept.folder / "moved")
    assert (mine / "spill").read_text() == "mine"
    with Store(kept.folder / "moved") as store:
        forget_notes(store)
        assert exported_to(store) == []
        (said,) = delete(store, by_ids(id_of(chats("a", 0, 1)[0]))).left
    assert said.startswith("out/mix may hold them: an export of an older version")


def test_what_commands_wrote_elsewhere_is_found(kept, monkeypatch):
    """By `export`, `mix --export-to`, `checkout --out`, `report --out`, from another folder than they were given in."""
    gone = fill(kept)
    away = kept.folder / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    chosen = selections.get(kept.store, "mix")
    exporting.export(kept.store, chosen, runs.recipe_of(kept.store, chosen), Path("mine"))
    checkout(kept.store, "mix@2", Path("then"))
    checkout(kept.store, "mix@2", kept.root / "inside" / "then")
    checkout(kept.store, "mix@2")
    write_report(kept.store, Path("page.html"))
    folder_with(away / ".checkout-then", SECRET)
    monkeypatch.chdir("/")
    made = delete(kept.store, by_ids(*gone), exports=True)
    assert {(one.folder, one.state) for one in made.exports} == {
        (str(kept.root / "exports" / "mix"), "rewritten"),
        (str(kept.root / "exports" / "mix@2"), "removed"),
        (str(kept.root / "inside" / "then"), "rewritten"),
        (str(away / "mine"), "rewritten"),
        (str(away / "then"), "rewritten"),
    }
    assert made.left == [f"{away / 'page.html'} may show them: a report outside of the store"]
    assert found_in(kept.root, SECRET) == []
    assert [name for name, _ in found_in(away, SECRET) if not name.startswith("page")] == []
    assert len(kept.store.catalog.rows("SELECT * FROM written")) == 4
    shutil.copytree(kept.root, kept.folder / "copy")
    with Store(kept.folder / "copy") as store:
        assert str(store.root / "inside" / "then") in exported_to(store)
        assert str(kept.root / "inside" / "then") not in exported_to(store)


def folder_with(path, text):
    path.mkdir(parents=True)
    (path / "spill").write_text(text)
    return path


def test_what_is_not_the_tools_stays_beside_an_export(kept, tmp_path):
    """Of the folders there only those go whose name and export this store wrote, and no export that is being written."""
    out = tmp_path / "out"
    kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 7}, export_root=out)
    key = "0123456789abcdef"
    shutil.copytree(out / "mix", out / f".old-{key}")
    goes = [folder_with(out / name, SECRET) for name in (f".partial-mix-{key}", ".checkout-mix")]
    names = (
        ".old-photos",
        ".partial-thesis",
        f".partial-thesis-{key}",
        ".partial-mix-draft",
        ".checkout-me",
        f".old-{key[::-1]}",
    )
    stays = [folder_with(out / name, "mine") for name in names]
    live = folder_with(kept.root / "exports" / f".partial-mix-{key[::-1]}", "of another process")
    began = []

    def step(at):
        if at == "erased" and not began:  # after the plan, so what it writes has none of them
            began.append(leases.acquire(kept.store, f"export {key[::-1]}", "elsewhere:1:1:1"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "failpoint", step)
        left = delete(kept.store, by_ids(id_of(PLANTED))).left  # where exports went is what the catalog says
    assert began == [True]
    later = [*goes, out / f".old-{key}", stays[-1]]
    assert left == [f"{path} may hold them: {LATER}" for path in sorted(later)]
    assert all(path.exists() for path in [*later, live])
    leases.release(kept.store, f"export {key[::-1]}", "elsewhere:1:1:1")
    left = delete(kept.store, by_ids(id_of(chats("a", 0, 1)[0])), exports=True).left
    assert [path.name for path in [*goes, out / f".old-{key}"] if path.exists()] == []
    assert [path.name for path in stays if not path.exists()] == []
    assert left == [f"{stays[-1]} may show them: it looks like an export that was replaced; see what it is"]


def test_what_is_not_the_tools_stays_beside_reports(kept):
    gone = fill(kept)
    reports = kept.root / "reports"
    notes = folder_with(reports / "notes.html", "mine") / "spill"
    mine = [notes, reports / "my-notes.md", reports / "my-figures.json"]
    for path in mine[1:]:
        path.write_text("mine")
    (reports / "mix.json").write_text(SECRET)
    (reports / "mix.html").unlink()  # a killed deletion was between the two
    (reports / "old.html").write_text(SECRET)
    left = delete(kept.store, by_ids(*gone)).left
    assert left == ["the report old.html was removed and not written again: no run wrote it"]
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert sorted(path.name for path in reports.iterdir()) == [
        "mix.html", "mix.json", "mix.run1.html", "mix.run1.json", "mix.run2.html", "mix.run2.json", "my-figures.json",
        "my-notes.md", "notes.html"
    ]  # fmt: skip
    assert found_in(reports, SECRET) == []


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from gradsift.datastore import files, picks
from gradsift.datastore.store import Store
from gradsift.pipelines.runs.forget import delete
def stop(step):
    if step == {step!r}:
        os._exit(137)
files.failpoint = stop
delete(Store({root!r}), lambda store: picks.by_ids(store, {gone!r}), exports=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["written", "recorded", "swept", "collected"])
def test_promise_8_a_process_that_dies_leaves_what_the_next_one_finishes(kept, step):
    """Without a chance to tidy up: temporary files and the log stay as they are."""
    gone = fill(kept)
    kept.store.close()
    python("-c", KILLED.format(tests=str(ROOT / "tests"), step=step, root=str(kept.root), gone=gone), code=137)
    with Store(kept.root) as store:
        assert forget.pending(store)
        finish(store)
        check_gone(kept, store, gone)


def test_promise_8_a_copy_that_lost_a_race_goes_with_it(kept, monkeypatch):
    """Two processes read the same new row at once: its text is in two files, of which the catalog names one."""
    gone = fill(kept)
    chat = examples.get_messages(kept.store, gone)
    again = [examples.Example(i, messages, "ann", "again.jsonl", 1) for i, messages in chat.items()]
    other = [{"role": "user", "content": "another"}, {"role": "assistant", "content": "one"}]
    monkeypatch.setattr(examples, "known_ids", lambda _store, _ids: set())
    examples.add(kept.store, [*again, examples.Example("0" * 32, other, "a", "again.jsonl", 2)])
    monkeypatch.undo()
    assert len({name for name, _ in found_in(kept.root / "examples", SECRET)}) > 1
    delete(kept.store, by_ids(*gone), exports=True)
    assert found_in(kept.root, SECRET) == []
    assert examples.get_messages(kept.store, ["0" * 32]) == {"0" * 32: other}
    assert verify(kept.store) == []


def test_promise_8_no_task_of_a_plan_meets_another_file_of_the_same_number(kept):
    """All of one file goes, with what was computed from it, and a part of the next is written anew."""
    x, y = chats("x", 0, 6), chats("y", 0, 6)
    near = [{"exact": True, "minhash": more} for more in ({}, {"ngram": 3})]
    kept.run(x, dedup=near[0], mix={"examples": 4})
    kept.run(x + y, dedup=near[0], mix={"examples": 4})
    with pytest.raises(InputError):
        kept.run(x, dedup=near[1], mix={"examples": 100})  # its last file is one of values of `x`
    gone = [id_of(row) for row in [*x, y[0]]]
    last = max(row["shard_id"] for row in kept.store.catalog.rows("SELECT shard_id FROM shard"))
    delete(kept.store, by_ids(*gone))
    assert not forget.pending(kept.store)
    assert min(row["shard_id"] for row in kept.store.catalog.rows("SELECT shard_id FROM example")) > last, (
        "the number of one that left"
    )
    assert found_in(kept.root / "examples", *gone) == found_in(kept.root / "scores", *gone) == []
    assert verify(kept.store) == []
    assert kept.run(y[1:], mix={"examples": 4}).ingest.pool.examples == 5


def test_a_plan_of_an_older_store_goes_on_where_a_number_was_given_again(kept, monkeypatch):
    gone = fill(kept)
    kept.run(chats("b", 0, 6), mix={"examples": 4})
    others = kept.store.catalog.rows("SELECT DISTINCT shard_id FROM example WHERE source='b'")

    def stop(step):
        if step == "erased":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        delete(kept.store, by_ids(*gone))
    monkeypatch.undo()
    with kept.store.catalog.write() as db:
        for kind in ("attribute", "features", "scores"):
            db.execute("INSERT INTO forgetting_task VALUES (?, ?)", (kind, others[0]["shard_id"]))
    finish(kept.store)
    assert not forget.pending(kept.store)
    assert len(examples.get_messages(kept.store, [id_of(row) for row in chats("b", 0, 6)])) == 6
    assert verify(kept.store) == []


def test_promise_8_a_run_that_lost_its_lease_does_not_bring_it_back(kept, monkeypatch):
    """It looked for tombstones, was suspended for two minutes, and goes on when the deletion has ended."""
    gone = fill(kept)
    add = examples.add

    def late(store, batch):
        monkeypatch.setattr(examples, "add", add)
        with Store(kept.root) as other:
            with other.catalog.write() as db:
                db.execute("UPDATE lease SET expires=0")
            delete(other, by_ids(*gone), exports=True)
        return add(store, batch)

    monkeypatch.setattr(examples, "add", late)
    with pytest.raises(BusyError, match="another process took over the work"):
        kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 5})
    assert found_in(kept.root, SECRET) == []
    assert kept.run([PLANTED, *chats("a", 0, 6)], mix={"examples": 5}).ingest.pool.deleted == 1
    assert found_in(kept.root / "examples", SECRET) == []


@pytest.mark.parametrize("others", [0, 2])
def test_promise_8_what_is_deleted_while_it_is_read_is_in_no_file(kept, monkeypatch, others):
    batch = [examples.Example(str(k) * 32, [{"role": "user", "content": f"{SECRET} {k}"}], "s") for k in range(3)]
    batch = [replace(e, messages=[{"role": "user", "content": "harmless"}]) if k else e for k, e in enumerate(batch)]

    def meanwhile(step):
        if step == "written":
            monkeypatch.undo()
            with Store(kept.root) as other, other.catalog.write() as db:
                tombstones.put(db, [batch[0].example_id])

    monkeypatch.setattr(files, "failpoint", meanwhile)
    made = examples.add(kept.store, batch[: 1 + others])
    assert (made.new, made.known, made.deleted) == (others, 0, {batch[0].example_id})
    assert found_in(kept.root, SECRET) == []


def test_what_an_earlier_version_brought_back_is_listed_and_deleted_again(kept):
    gone = fill(kept)
    with kept.store.catalog.write() as db:
        tombstones.put(db, gone[:1])
    assert [row["deleted_example"] for row in overview(kept.store)["brought_back"]] == gone[:1]
    delete(kept.store, by_ids(*gone), exports=True)
    assert overview(kept.store)["brought_back"] == []
    assert found_in(kept.root, SECRET) == []


LENGTHS = {"what": "turns"}


def turns(of):
    return {"turns": pa.array([len(chat) for chat in of], pa.int32())}


@pytest.mark.parametrize("when", ["before it is planned", "before its files are written"])
def test_promise_8_values_computed_beside_a_deletion_say_nothing_of_it(kept, monkeypatch, when):
    """`gradsift mix` holds no lease: it read the texts before the deletion began."""
    kept.run([PLANTED, *chats("a", 0, 12)])  # of one file a part goes
    gone = [id_of(PLANTED)]
    pool = kept.store.catalog.rows("SELECT max(dataset_id) AS n FROM dataset WHERE role='pool'")[0]["n"]
    read = attributes.read_groups
    with Store(kept.root) as other:

        def late(store, shard):
            groups = list(read(store, shard))
            monkeypatch.setattr(attributes, "read_groups", read)
            if when == "before it is planned":
                delete(kept.store, by_ids(*gone))
            else:
                forget.begin(kept.store, picks.by_ids(kept.store, gone))
            return groups

        monkeypatch.setattr(attributes, "read_groups", late)
        given = [i for t in attributes.attribute(other, LENGTHS, pool, turns) for i in t["example_id"].to_pylist()]
    finish(kept.store)
    assert sorted(given) == examples.get_dataset(kept.store, pool).example_ids
    assert {file for file, _ in found_in(kept.root / "scores", *gone)} == set()
    again = attributes.attribute(kept.store, LENGTHS, pool, turns)
    assert sorted(i for t in again for i in t["example_id"].to_pylist()) == sorted(given)
    assert verify(kept.store) == []


def test_promise_8_values_of_more_than_there_is_are_written_anew(kept):
    """As an earlier version left them: committed while a deletion was under way, unknown to its plan."""
    kept.run([PLANTED, *chats("a", 0, 12)])  # of one file a part goes
    gone = [id_of(PLANTED)]
    forget.begin(kept.store, picks.by_ids(kept.store, gone))
    tasks = kept.store.catalog.rows("SELECT number FROM forgetting_task WHERE kind='examples'")
    (shard,) = [task["number"] for task in tasks]
    ids = [i for t in examples.read_groups(kept.store, shard) for i in t["example_id"].to_pylist()]
    table = pa.table({"example_id": ids, "turns": [2] * len(ids)})
    kept.store.commit_file(
        "scores", ".parquet", len(ids), lambda handle: pq.write_table(table, handle),
        lambda db, new: db.execute("INSERT INTO attribute VALUES (?, ?, ?)", ("ab" * 32, shard, new)),
    )  # fmt: skip
    assert found_in(kept.root / "scores", *gone)
    finish(kept.store)
    assert found_in(kept.root / "scores", *gone) == []
    assert verify(kept.store) == []


def test_promise_8_a_copy_that_lost_a_race_goes_where_all_is_deleted(kept, monkeypatch):
    """Then the catalog has no example to tell the copy by."""
    gone = fill(kept)
    chat = examples.get_messages(kept.store, gone)
    again = [examples.Example(i, messages, "ann", "again.jsonl", 1) for i, messages in chat.items()]
    monkeypatch.setattr(examples, "known_ids", lambda _store, _ids: set())
    examples.add(kept.store, again)
    monkeypatch.undo()
    delete(kept.store, lambda store: picks.by_predicate(store, "true"), exports=True)
    assert found_in(kept.root, SECRET) == []
    assert kept.store.catalog.rows("SELECT * FROM shard") == []
    assert verify(kept.store) == []


def test_promise_8_other_columns_of_a_deleted_example_are_in_no_byte(kept):
    """Of its place, also of one that has changed, and of what its first export said of it, which is packed."""
    rows = [row | {"id": f"n{k}"} for k, row in enumerate(chats("a", 0, 6))]
    kept.run([rows[0] | {"note": SECRET, "mail": {"to": SECRET}}, *rows[1:]], mix={"fraction": 1.0})
    assert found_in(kept.root, SECRET)
    kept.run([rows[0] | {"note": f"{SECRET} again"}, *rows[1:]], mix={"fraction": 1.0})
    assert kept.store.catalog.rows("SELECT * FROM exported")
    delete(kept.store, by_ids(id_of(rows[0])), exports=True)
    places = [place for row in kept.store.catalog.rows("SELECT selection_id FROM exported")
              for place in origins.exported(kept.store, row["selection_id"])]  # fmt: skip
    assert SECRET not in str(places)
    kept.store.close()
    assert found_in(kept.root, SECRET) == []
