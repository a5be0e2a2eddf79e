"""Other columns of rows: what becomes of each kind of value, which columns are others, and places that are no longer
true."""

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradsift.datastore import origins
from gradsift.datastore.examples import BadRow
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def read(tmp_path, row, **source):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    (found,) = read_source(Source(path=str(path), **source))
    return found


def chat(text, **more):
    return {"prompt": f"say {text}", "completion": text} | more


@pytest.mark.parametrize(
    ("row", "extra"),
    [
        ({"messages": CHAT, "id": 7, "prompt": "Hi"}, {"id": 7, "prompt": "Hi"}),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be", "x": [1]},
         {"x": [1]}),
        ({"prompt": "Hi", "completion": "Hello", "rejected": "No", "instruction": "?"}, {"rejected": "No", "instruction": "?"}),
        ({"instruction": "Hi", "input": "", "output": "Hello", "ok": True, "none": None}, {"ok": True}),
        ({"prompt": "Hi", "completion": "Hello", "source": "a", "licence": "mit", "license": "x", "subtask": "s"},
         {"license": "x", "subtask": "s"}),
    ],
)  # fmt: skip
def test_what_did_not_become_the_chat_its_source_or_licence_is_kept(tmp_path, row, extra):
    assert read(tmp_path, row).extra == extra


def test_columns_under_their_own_names_and_those_that_a_recipe_wants(tmp_path):
    row = {"question": "Hi", "answer": "Hello", "prompt": "other", "source": "a", "licence": "x", "id": "q1"}
    mapped = {"mapping": {"prompt": "question", "completion": "answer"}}
    assert read(tmp_path, row, **mapped).extra == {"prompt": "other", "id": "q1"}
    stated = read(tmp_path, row, name="mine", licence="mit", **mapped)
    assert stated.extra == {"prompt": "other", "source": "a", "licence": "x", "id": "q1"}
    assert read(tmp_path, row, keep=["id", "absent"], **mapped).extra == {"id": "q1"}
    assert read(tmp_path, row, keep=False, **mapped).extra == {}


def test_values_of_parquet_are_plain_json(tmp_path):
    moment = dt.datetime(2024, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    values = {
        "day": dt.date(2024, 2, 3), "moment": moment, "price": Decimal("1.50"), "raw": b"\x00\xff", "took": dt.timedelta(seconds=90),
        "nan": float("nan"), "far": float("-inf"), "score": 0.25, "many": [1, None], "inner": {"at": dt.date(2024, 1, 1)},
        "big": 2**62, "empty": None,
    }  # fmt: skip
    pq.write_table(pa.table({name: [value] for name, value in chat("a", **values).items()}), tmp_path / "x.parquet")
    (found,) = read_source(Source(path=str(tmp_path / "x.parquet")))
    assert found.extra == {
        "day": "2024-02-03", "moment": "2024-02-03T04:05:06+00:00", "price": "1.50", "raw": "AP8=", "took": 90.0,
        "far": "-Infinity", "score": 0.25, "many": [1, None], "inner": {"at": "2024-01-01"}, "big": 2**62,
    }  # fmt: skip


def test_hostile_columns_are_kept_or_refused_and_nothing_stops(tmp_path, store):
    path = tmp_path / "rows.jsonl"
    deep = '{"prompt": "Hi", "completion": "deep", "x": ' + "[" * 5000 + "]" * 5000 + "}"
    odd = json.dumps(chat("b", **{"\ud800key": "\ud800", "nul": "\x00", "": 1, "nan": float("nan")}))
    path.write_text(f"{deep}\n{odd}\n", "utf-8")
    bad, good = read_source(Source(path=str(path)))
    assert isinstance(bad, BadRow)
    dataset, _ = ingest(store, "pool", "p", [Source(path=str(path))])
    (place,) = origins.origins_of(store, dataset.example_ids)[good.example_id]
    assert json.loads(place.extra) == {"?key": "?", "nul": "\x00", "": 1}


class Pool:
    """A store, and files in a folder that change between readings."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder / "pool"
        self.folder.mkdir()

    def read(self, files, **source):
        """{text: its places as FILE:LINE:ID} after the files were written and read."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, rows in files.items():
            (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        ingest(self.store, "pool", "p", [Source(path=str(self.folder), **source)])
        return self.places()

    def places(self):
        rows = self.store.catalog.rows("SELECT file, line, extra FROM origin ORDER BY extra, file, line")
        found = {}
        for row in rows:
            extra = json.loads(row["extra"])
            found.setdefault(extra["id"], []).append(f"{row['file'].rpartition('/')[2]}:{row['line']}")
        return found


@pytest.fixture
def pool(store, tmp_path):
    return Pool(store, tmp_path)


def test_reading_again_brings_columns_up_to_date(pool):
    assert pool.read({"a.jsonl": [chat("x", id=1), chat("y", id=2)]}) == {1: ["a.jsonl:1"], 2: ["a.jsonl:2"]}
    assert pool.read({"a.jsonl": [chat("x", id=3), chat("y", id=2)]}) == {2: ["a.jsonl:2"], 3: ["a.jsonl:1"]}


def test_a_store_from_before_gains_columns_with_its_next_reading(pool):
    pool.read({"a.jsonl": [chat("x", id=1)]})
    with pool.store.catalog.write() as db:
        db.execute("UPDATE origin SET extra=NULL")
    assert pool.read({"a.jsonl": [chat("x", id=1)]}) == {1: ["a.jsonl:1"]}


def test_places_that_are_no_longer_true_go_and_the_last_of_what_left_stays(pool):
    pool.read({"a.jsonl": [chat(t, id=t) for t in "xyz"], "b.jsonl": [chat("x", id="x")]})
    shifted = pool.read({"a.jsonl": [chat(t, id=t) for t in "wyxz"], "b.jsonl": [chat("q", id="q")]})
    assert shifted == {
        "q": ["b.jsonl:1"],
        "w": ["a.jsonl:1"],
        "x": ["a.jsonl:3"],
        "y": ["a.jsonl:2"],
        "z": ["a.jsonl:4"],
    }
    left = pool.read({"a.jsonl": [chat("w", id="w")]})
    assert left == {**shifted, "w": ["a.jsonl:1"]}, "those that left keep their last place"
    moved = pool.read({"c.jsonl": [chat(t, id=t) for t in "wx"]})
    assert (moved["w"], moved["x"]) == (["c.jsonl:1"], ["c.jsonl:2"]), "also of files that are gone"


def test_a_sample_of_a_source_says_nothing_of_lines_that_are_not_in_it(pool):
    rows = [chat(str(k), id=k) for k in range(30)]
    before = pool.read({"a.jsonl": rows, "b.jsonl": rows})
    assert all(len(places) == 2 for places in before.values())
    assert pool.read({"a.jsonl": rows, "b.jsonl": rows}, rows=5) == before


def test_files_that_were_not_read_keep_their_places(pool, tmp_path):
    before = pool.read({"a.jsonl": [chat("x", id=1)]})
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(chat("x", id=1)) + "\n")
    ingest(pool.store, "pool", "p", [Source(path=str(other))])
    assert pool.places() == {1: ["other.jsonl:1", "a.jsonl:1"]} != before


def test_a_reading_that_is_killed_before_old_places_go_is_mended_by_the_next(pool, monkeypatch):
    pool.read({"a.jsonl": [chat(t, id=t) for t in "xy"]})
    shifted = {"a.jsonl": [chat(t, id=t) for t in "wxy"]}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gradsift.pipelines.pool.ingest.drop_stale", killed)
        with pytest.raises(KeyboardInterrupt):
            pool.read(shifted)
    assert pool.places()["x"] == ["a.jsonl:1", "a.jsonl:2"], "nothing is lost"
    assert pool.read(shifted) == {"w": ["a.jsonl:1"], "x": ["a.jsonl:2"], "y": ["a.jsonl:3"]}
