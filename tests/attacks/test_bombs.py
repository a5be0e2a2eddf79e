"""Bytes, not rows: huge rows are written and read in bounded pieces, and files that unpack to far more than they are cost
no more memory than others, or are refused with the ratio and the way to allow them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradsift.datastore import chats, compact, erase, examples, groups
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.pipelines.pool import ingest as ingesting
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.recipe import Source


def chat(k, size):
    return [{"role": "user", "content": f"q{k}"}, {"role": "assistant", "content": f"{k} " + "ab" * (size // 2)}]


def example(k, size):
    messages = chat(k, size)
    return Example(example_id(messages), messages, "s", "f", k)


def group_sizes(store):
    """(rows, bytes) of the row groups of all shards of examples, decoded."""
    rows = store.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples' ORDER BY shard_id")
    return [[(t.num_rows, t.nbytes) for t in examples.read_groups(store, row["shard_id"])] for row in rows]


def test_shards_and_row_groups_are_bounded_by_bytes(store, tmp_path, monkeypatch, tally):
    """Rows that are few and huge fill shards and row groups as many small ones do, and what reads them, merges them or
    deletes of them keeps to that."""
    monkeypatch.setattr(ingesting, "BATCH_CHARS", 40_000)
    monkeypatch.setattr(groups, "GROUP_BYTES", 10_000)
    bounded = tally("huge rows", promise=1)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": chat(k, 3_000), "note": "n" * 500}) + "\n" for k in range(40)))
    pool, _ = ingest(store, "pool", "p", [Source(path=str(path))])
    texts = examples.get_messages(store, pool.example_ids)
    assert list(texts.values()) == [chat(int(text[1]["content"].split()[0]), 3_000) for text in texts.values()]
    assert [sum(rows for rows, _ in shard) for shard in group_sizes(store)] == [11, 11, 11, 7]
    assert {rows for shard in group_sizes(store) for rows, _ in shard} <= {1, 2, 3}

    compact.compact(store, grace=0)
    (merged,) = group_sizes(store)
    assert sum(rows for rows, _ in merged) == 40
    assert max(size for _, size in merged) < 20_000
    assert examples.get_messages(store, pool.example_ids) == texts
    parts = list(examples.in_parts(store, pool.example_ids))
    assert parts == [pool.example_ids]
    monkeypatch.setattr(examples, "PART_CHARS", 10_000)
    parts = list(examples.in_parts(store, pool.example_ids))
    assert [i for part in parts for i in part] == pool.example_ids
    assert {len(part) for part in parts} == {3, 1}
    bounded.harmless(40)


def test_a_row_group_of_more_than_arrow_reads_at_once_is_read(tmp_path, monkeypatch, tally):
    """A shard as versions before wrote them: one row group for all rows of a batch, of more text than nested columns
    hold, be it large in the file or small, since one text is repeated."""
    old = tally("row groups of more than 2 GiB", promise=10)
    rows = [chat(0, 3_000)] * 200 + [chat(k, 3_000) for k in range(200)]
    ids = [f"{k:032x}" for k in range(400)]
    path = tmp_path / "old.parquet"
    pq.write_table(pa.table({"example_id": ids, **chats.as_columns(rows)}), path)
    monkeypatch.setattr(groups, "GROUP_BYTES", 30_000)
    read = list(groups.read(pq.ParquetFile(path)))
    assert len(read) > 10  # by its bytes in the file
    assert [first for first, _ in read][:3] == [0, read[0][1].num_rows, 2 * read[0][1].num_rows]
    assert [c for _, table in read for c in chats.of_table(table)] == rows
    monkeypatch.undo()

    class Whole(pq.ParquetFile):
        def read_row_group(self, *args, **kwargs):
            raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    read = list(groups.read(Whole(path)))
    assert [table.num_rows for _, table in read] == [64] * 6 + [16]
    assert [c for _, table in read for c in chats.of_table(table)] == rows
    old.harmless(2)


def test_deleting_from_huge_rows_reads_a_row_group_at_a_time(store, monkeypatch, tally):
    monkeypatch.setattr(groups, "GROUP_BYTES", 10_000)
    batch = [example(k, 3_000) for k in range(12)]
    examples.add(store, batch)
    gone = batch[5].example_id
    with store.catalog.write() as db:
        db.execute("DELETE FROM origin WHERE example_id=?", (gone,))
        db.execute("DELETE FROM example WHERE example_id=?", (gone,))
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("the whole shard was read"))
    erase.erase(store, "examples", 1)
    left = [e for e in batch if e.example_id != gone]
    assert examples.get_messages(store, [e.example_id for e in batch]) == {e.example_id: e.messages for e in left}
    tally("huge rows, of which one is deleted", promise=8).harmless()
