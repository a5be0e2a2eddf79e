"""Promise 9 and the shapes people have: what is read, what is quarantined, and that re-reading adds nothing."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.pipelines.demo.data import write_demo_data
from gradsift.pipelines.pool.canonical import canonical_messages
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.row_error import RowError
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAPES = {
    "messages": {"messages": CHAT},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "prompt": {"prompt": "Hi", "completion": "Hello"},
    "prompt_turns": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
}


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES)
def test_every_shape_gives_the_same_chat(row):
    assert canonical_messages(row) == CHAT


def test_alpaca_input_and_mapping_and_system():
    row = {"question": "Add", "context": "1 2", "reply": "3", "system": "Be brief"}
    mapping = {"instruction": "question", "input": "context", "output": "reply"}
    assert canonical_messages(row, mapping=mapping) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Add\n\n1 2"},
        {"role": "assistant", "content": "3"},
    ]


BAD = {
    "not_an_object": [1, 2],
    "unknown_shape": {"text": "x"},
    "missing_field": {"prompt": "x", "completion": None, "instruction": "x", "output": None},
    "bad_field": {"messages": [{"role": "user", "content": 3}]},
    "role_order": {"messages": [*CHAT, {"role": "user", "content": "more"}]},
    "empty_assistant": {"messages": [CHAT[0], {"role": "assistant", "content": " \n"}]},
    "no_assistant": {"messages": CHAT[:1]},
    "nul": {"prompt": "a\x00", "completion": "b"},
    "surrogate": {"prompt": "a\ud800", "completion": "b"},
    "too_long": {"prompt": "a" * 1_000_001, "completion": "b"},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_have_a_reason(reason):
    with pytest.raises(RowError) as caught:
        canonical_messages(BAD[reason])
    assert caught.value.reason == reason


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["messages", "conversations", "prompt", "completion", "instruction", "output", "role",
                     "content", "from", "value", "system"]), x)))  # fmt: skip
def test_anything_is_a_chat_or_a_reason(row):
    try:
        found = canonical_messages(row)
    except RowError as error:
        assert error.reason
    else:
        assert canonical_messages({"messages": found}) == found
        assert len(example_id(found)) == 32


def text_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "parquet", "saved", "folder"])
def test_every_kind_of_file(tmp_path, kind):
    rows = [
        {"messages": [{"role": "user", "content": str(k)}, CHAT[1]], "source": "s", "license": "MIT"} for k in range(5)
    ]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(text_of(rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(text_of(rows).encode()))
    elif kind == "jsonl.zst":
        path.write_bytes(zstandard.compress(text_of(rows).encode()))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "saved":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        path.mkdir()
        (path / "a.jsonl").write_text(text_of(rows[:2]))
        (path / "b.jsonl").write_text(text_of(rows[2:]))
    found = list(read_source(Source(path=str(path))))
    assert [e.messages[0]["content"] for e in found] == list("01234")
    assert {(e.source, e.licence) for e in found} == {("s", "MIT")}
    assert found[0].line == 1


def test_promise_9_bad_rows_are_quarantined_with_file_line_and_reason(store, tmp_path):
    lines = [
        json.dumps({"messages": CHAT}).encode(),
        b'{"messages": [',
        b'{"messages": "\xff\xfe"}',
        b"",
        json.dumps({"messages": CHAT[:1], "source": "mine"}).encode(),
        json.dumps({"messages": CHAT}).encode(),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    for _ in range(2):  # idempotent
        pool, report = ingest(store, "pool", "p", [Source(path=str(path))])
        found = store.catalog.rows("SELECT * FROM quarantine ORDER BY line")
        assert [(r["line"], r["reason"], r["source"]) for r in found] == [
            (2, "broken_json", "rows"),
            (3, "invalid_utf8", "rows"),
            (5, "no_assistant", "mine"),
        ]
        assert {r["file"] for r in found} == {str(path)}
        assert len(pool.example_ids) == 1
        assert (report.rows_read, report.duplicates) == (5, 1)
    assert len(store.catalog.rows("SELECT * FROM origin")) == 2  # both lines are remembered
    assert len(store.catalog.rows("SELECT * FROM shard")) == 1


def test_planted_bad_rows_are_all_found(store, tmp_path):
    planted = write_demo_data(tmp_path)
    pool, report = ingest(store, "pool", "demo", [Source(path=str(tmp_path / "pool.jsonl"))])
    assert dict(report.quarantined) == planted.bad_rows
    assert report.duplicates == planted.exact_duplicates
    assert report.new == len(pool.example_ids)
    again, second = ingest(store, "pool", "demo", [Source(path=str(tmp_path / "pool.jsonl"))])
    assert (second.new, again.digest, again.dataset_id) == (0, pool.digest, pool.dataset_id)


def test_a_sample_is_seeded_and_in_file_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text_of({"prompt": str(k), "completion": "x"} for k in range(200)))
    source = Source(path=str(path), rows=20)
    one, same, other = ([e.line for e in read_source(source, seed)] for seed in (1, 1, 2))
    assert one == same == sorted(one)
    assert len(set(one)) == 20
    assert one != other


def test_a_sample_is_of_the_same_chats_whatever_the_order_and_names_of_files(tmp_path):
    rows = [{"prompt": str(k), "completion": "x"} for k in range(200)]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text(text_of(rows))
    (tmp_path / "other").mkdir()
    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(200)]
    (tmp_path / "other" / "b.jsonl").write_text(text_of(shuffled[:90]))
    (tmp_path / "other" / "c.jsonl").write_text(text_of(shuffled[90:] + shuffled[:50]))  # some twice

    def drawn(folder):
        return {e.example_id for e in read_source(Source(path=str(tmp_path / folder), rows=20), 1)}

    assert drawn("one") == drawn("other")
    assert len(drawn("one")) == 20
    (tmp_path / "one" / "b.jsonl").write_text(text_of({"prompt": f"more {k}", "completion": "x"} for k in range(20)))
    assert (
        len({e.example_id for e in read_source(Source(path=str(tmp_path / "one"), rows=20), 1)} & drawn("other")) > 12
    )


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("missing.jsonl", None, "there is no file"),
        ("rows.xlsx", b"a,b", "no known kind"),
        ("rows.jsonl.gz", b"not gzip", "cannot read"),
        ("rows.jsonl.zst", b"not zstd", "cannot read"),
        ("rows.parquet", b"not parquet", "cannot read"),
        ("rows.json", b"{", "not valid JSON"),
        ("rows.jsonl", b"\n", "no usable example"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_clear_error(store, tmp_path, path, content, words):
    if content is not None:
        (tmp_path / path).write_bytes(content)
    with pytest.raises(InputError, match=words):
        ingest(store, "pool", "p", [Source(path=str(tmp_path / path))])


def test_hub_datasets_use_the_real_loader(tmp_path):
    """Offline, a hub name fails with advice; a local dataset script-less folder loads through the same call."""
    with pytest.raises(InputError, match="cannot load dataset"):
        list(read_source(Source(hub="nobody/no-such-dataset")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.jsonl").write_text(text_of([{"messages": CHAT}]))
    (found,) = read_source(Source(hub=str(tmp_path)))
    assert isinstance(found, Example)
    assert found.messages == CHAT


@pytest.mark.parametrize("kind", ["zst", "gz"])
def test_a_cut_file_is_an_error_not_a_shorter_pool(tmp_path, kind):
    text = text_of({"prompt": str(k) * 9, "completion": "x"} for k in range(5_000)).encode()
    data = zstandard.compress(text) if kind == "zst" else gzip.compress(text)
    path = tmp_path / f"rows.jsonl.{kind}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot read"):
        list(read_source(Source(path=str(path))))
    if kind == "zst":
        path.write_bytes(data + data)  # several frames are one file
        assert len(list(read_source(Source(path=str(path))))) == 10_000


def test_a_hostile_key_is_quarantined_too(store, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"\\ud800": 1}\n' + json.dumps({"messages": CHAT}) + "\n")
    _, report = ingest(store, "pool", "p", [Source(path=str(path))])
    assert dict(report.quarantined) == {"unknown_shape": 1}
