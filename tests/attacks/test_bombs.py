"""Bytes, not rows: huge rows are written and read in bounded pieces, and files that unpack to far more than they are cost
no more memory than others, or are refused with the ratio and the way to allow them."""

import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gradsift.datastore import chats, compact, erase, examples, groups
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.pipelines.pool import cells, csv_rows, files, json_list, pages, row_error, sources, unpack
from gradsift.pipelines.pool import ingest as ingesting
from gradsift.pipelines.pool.cells import rows_of_batch
from gradsift.pipelines.pool.files import rows_of
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.row_error import RowError
from gradsift.pipelines.pool.sources import read_source
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


ROW = {"prompt": "Hi", "completion": "Hello"}


def refusals(rows):
    """Lines and reasons of refused rows, and how many rows were read."""
    found = list(rows)
    return [(number, row.reason) for _, number, row in found if isinstance(row, RowError)], len(found)


def packed(path, content, times):
    """A file of `content` so many times, packed by the end of its name."""
    with gzip.open(path, "wb") if path.suffix == ".gz" else zstandard.open(path, "wb") as out:
        for _ in range(times):
            out.write(content)
    return path


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "json.gz", "json.zst", "csv.gz", "csv.zst"])
def test_a_packed_bomb_is_refused_with_its_ratio_and_the_way_to_allow_it(tmp_path, monkeypatch, tally, kind):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    path = packed(tmp_path / f"bomb.{kind}", b" " * (1 << 20), 16)  # gzip packs to a 1,030th at best
    with pytest.raises(
        InputError, match=rf"bomb\.{kind} of [\d,]+ bytes unpacks to [\d,]+ and more, [\d,]+ times"
    ) as e:
        list(rows_of(path))
    assert "raise `unpack_limit` of its source (now 1000)" in str(e.value)
    with pytest.raises(InputError, match=r"now 900"):
        list(read_source(Source(path=str(path), unpack_limit=900)))
    tally("bombs, packed", promise=9).reported()


def test_a_packed_file_of_much_alike_is_read_where_its_source_allows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 17)
    text = json.dumps(ROW).encode() + b"\n"
    path = packed(tmp_path / "rows.jsonl.zst", text, 8_000)
    with pytest.raises(InputError, match="unpack_limit"):
        list(rows_of(path))
    assert sum(1 for _ in rows_of(path, 100_000)) == 8_000


def test_what_a_packed_file_is_unpacked_to_is_held_in_a_buffer(tmp_path, monkeypatch, tally):
    """Of a stream whose first bytes unpack to 64 MiB, a reader holds a few."""
    path = packed(tmp_path / "rows.jsonl.zst", b"\n" * (1 << 20), 64)
    with unpack.open_file(path, 10**9) as handle:
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        assert handle.read(1) == b"\n"
        held = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
        tracemalloc.stop()
    assert held < 4 << 20
    tally("bombs, unpacked as a stream", promise=9).harmless()


def test_a_text_that_a_parquet_file_has_once_is_held_once(tmp_path, monkeypatch, tally):
    """A few hundred bytes of dictionary and run lengths, which name a text of 100 KB 600 times: 60 MB of rows."""
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x" * 100_000}]
    table = pa.table({"messages": pa.array([turns] * 600, chats.MESSAGES_TYPE), "k": range(600)})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert path.stat().st_size < 40_000
    del table
    before = pa.total_allocated_bytes()
    monkeypatch.setattr(cells, "PIECE_BYTES", 1 << 20)
    held, rows = zip(*((pa.total_allocated_bytes() - before, row) for _, _, row in rows_of(path)), strict=True)
    assert max(held) < 4 << 20
    assert [row["k"] for row in rows if row["messages"] == turns] == list(range(600))
    monkeypatch.setattr(cells, "PIECE_BYTES", 50_000)
    monkeypatch.setattr(cells, "MAX_ROW_BYTES", 50_000)
    (batch,) = pq.ParquetFile(path).read_row_group(0).slice(0, 3).to_batches()
    assert [row.reason for row in rows_of_batch(batch)] == ["too_long"] * 3
    tally("bombs in Parquet", promise=9).harmless()


def test_a_pool_of_short_rows_after_one_long_system_prompt_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 10)
    words = np.random.default_rng(0).integers(0, 5_000, (1_200,))
    system = {"role": "system", "content": " ".join(f"word{w}" for w in words)}
    rows = [
        [system, {"role": "user", "content": f"{k * k} {k}"}, {"role": "assistant", "content": "yn"[k % 2]}]
        for k in range(1_500)
    ]
    table = pa.table({"messages": pa.array(rows, chats.MESSAGES_TYPE)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    packed(tmp_path / "a.jsonl.zst", b"".join(json.dumps({"messages": row}).encode() + b"\n" for row in rows), 1)
    for name in ("a.parquet", "a.jsonl.zst"):
        assert (tmp_path / name).stat().st_size < 15_000_000 / 300, name
        assert [row["messages"] for _, _, row in rows_of(tmp_path / name)] == rows, name


def texts_of(path):
    """What `most_named` says of the first column of a file."""
    with path.open("rb") as handle:
        return pages.most_named(handle, pages.chunks(handle)[0][0])


def test_the_footer_is_read_as_arrow_reads_it(tmp_path):
    path = tmp_path / "a.parquet"
    chats_of = [[{"role": "user", "content": "ab" * (k % 7)}] for k in range(900)]
    table = pa.table(
        {
            "messages": pa.array(chats_of, chats.MESSAGES_TYPE),
            "n": range(900),
            "x": [0.5] * 900,
            **{f"c{k}": ["a"] * 900 for k in range(20)},
        }
    )
    for options in (
        {},
        {"use_dictionary": False, "data_page_version": "2.0"},
        {"store_decimal_as_integer": True, "write_page_index": True},
    ):
        pq.write_table(table, path, row_group_size=400, **options)
        facts = pq.ParquetFile(path).metadata
        with path.open("rb") as handle:
            read = pages.chunks(handle)
        there = [[facts.row_group(k).column(c) for c in range(facts.num_columns)] for k in range(facts.num_row_groups)]
        assert read == [
            [
                pages.Chunk(
                    one.num_values,
                    one.total_uncompressed_size,
                    one.total_compressed_size,
                    min(filter(None, (one.dictionary_page_offset, one.data_page_offset))),
                )
                for one in group
            ]
            for group in there
        ]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_how_often_a_parquet_file_names_its_texts_is_known_from_its_pages(tmp_path, version, codec):
    path = tmp_path / "a.parquet"
    often = pa.table({"t": ["é" * 150, "b", "é" * 150, "b", "c"]})
    options = {"compression": codec, "data_page_version": version}
    pq.write_table(often, path, **options)
    assert texts_of(path) == (5, 300)
    pq.write_table(often, path, use_dictionary=False, **options)
    assert texts_of(path) == (0, 0)
    mixed = pa.table({"t": [f"{k:0100}" for k in range(4_000)]})  # Arrow names no more when a dictionary is full
    pq.write_table(mixed, path, dictionary_pagesize_limit=50_000, data_page_size=10_000, **options)
    named, longest = texts_of(path)
    assert 0 < named < 2_000
    assert longest == 100


def test_a_forged_page_header_names_no_more_than_is_known(tmp_path, tally):
    """Whatever the headers say: of a file that Arrow reads, no more text comes than `most_named` and the footer say."""
    path, read = tmp_path / "a.parquet", tally("forged page headers of Parquet", promise=9)
    pq.write_table(pa.table({"t": ["a" * 300, "b"] * 50}), path, compression="none", write_statistics=False)
    whole, facts = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0).column(0)
    headers = [*range(facts.dictionary_page_offset, facts.dictionary_page_offset + 14)]
    headers += range(facts.data_page_offset, facts.data_page_offset + 20)
    for place in headers:
        for byte in (0, 2, 4, 0x11, 0x15, 0x7F, 0xFF):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            named, longest = texts_of(path)
            try:
                texts = pq.ParquetFile(path).read()["t"].to_pylist()
            except (pa.ArrowException, OSError, UnicodeDecodeError):
                read.reported()
                continue
            assert sum(map(len, texts)) <= named * longest + facts.total_uncompressed_size, (place, byte)
            read.harmless()


def test_an_ordinary_parquet_file_is_not_read_as_a_dictionary(tmp_path, monkeypatch):
    """Of a column that is, Arrow keeps every text that it has had, and gives all of them with each batch."""
    path, asked = tmp_path / "a.parquet", []
    rows = [[{"role": "user", "content": f"{k:0300}"}, {"role": "assistant", "content": "y" * k}] for k in range(2_000)]
    pq.write_table(pa.table({"messages": pa.array(rows, chats.MESSAGES_TYPE), "from": ["here"] * 2_000}), path)

    class Asked(pq.ParquetFile):
        def __init__(self, *args, read_dictionary=None, **kwargs):
            asked.extend(read_dictionary or [])
            super().__init__(*args, read_dictionary=read_dictionary, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", Asked)
    assert [row["messages"] for _, _, row in rows_of(path)] == rows
    assert asked == []
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 10)
    pq.write_table(pa.table({"messages": pa.array(rows[:3] * 500, chats.MESSAGES_TYPE)}), path)
    assert [row["messages"] for _, _, row in rows_of(path)] == rows[:3] * 500
    assert [name.split(".")[-1] for name in asked] == ["role", "content"]


def test_rows_of_named_texts_are_those_of_the_texts():
    """Whatever columns they are in, and from whatever row of a batch on."""
    texts = pa.array(["a", None, "é", "a", "", "a", "b"])
    named = texts.dictionary_encode()

    def columns(of):
        pair = pa.StructArray.from_arrays(
            [of, pa.array(range(7))], ["t", "k"], mask=pa.array([False, True] + [False] * 5)
        )
        lists = pa.ListArray.from_arrays(
            pa.array([0, 2, 2, 5, 7], pa.int32()), pair, mask=pa.array([False, True] + [False] * 2)
        )
        large = pa.LargeListArray.from_arrays(pa.array([0, 0, 1, 1, 7]), of)
        return pa.record_batch({"t": of[:4], "s": pair[:4], "l": lists, "g": large, "n": pa.array(range(4))})

    for first in range(4):
        for rows in range(5 - first):
            expected = columns(texts).slice(first, rows).to_pylist()
            assert list(rows_of_batch(columns(named).slice(first, rows))) == expected


def test_values_that_a_parquet_file_says_it_has_are_counted_before_they_are_read(tmp_path, tally):
    """Run lengths alone: one row of twelve million numbers in a few hundred bytes."""
    ends = pa.array([0, 12_000_000], pa.int32())
    column = pa.ListArray.from_arrays(ends, pa.array(np.zeros(12_000_000, np.int8)))
    path = tmp_path / "runs.parquet"
    pq.write_table(pa.table({"prompt": ["Hi"], "n": column}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    del column
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match="unpack_limit"):
        next(rows_of(path))
    assert pa.total_allocated_bytes() - before < 1 << 20
    tally("bombs in Parquet", promise=9).reported()


def test_row_bytes_are_of_each_row_whatever_its_columns():
    """What a row takes does not depend on where it lies in a batch, and is never less than its text."""
    texts = ["", "é" * 50, None, "b" * 7]
    kinds = {
        "text": pa.array(texts),
        "large": pa.array(texts, pa.large_string()),
        "named": pa.array(texts).dictionary_encode(),
        "lists": pa.array([[t, t] if t else None for t in texts]),
        "named lists": pa.array([[t, t] if t else [] for t in texts], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "pairs": pa.array([[t, "x"] for t in texts], pa.list_(pa.string(), 2)),
        "structs": pa.array([{"a": t, "b": [{"c": t}]} for t in texts]),
        "maps": pa.array([[("k", t)] for t in texts], pa.map_(pa.string(), pa.string())),
        "json": pa.array([json.dumps(t) for t in texts]).cast(pa.json_()),
        "numbers": pa.array([1, None, 3, 4]),
        "booleans": pa.array([True, None, False, True]),
        "bytes": pa.array([b"1234"] * 4, pa.binary(4)),
    }
    for name, column in kinds.items():
        batch = pa.record_batch({name: column})
        sizes = cells.row_bytes(batch)
        assert [cells.row_bytes(batch.slice(k, 1))[0] for k in range(4)] == sizes.tolist(), name
        assert all(size >= len((text or "").encode()) for size, text in zip(sizes, texts, strict=True)) or name in (
            "numbers",
            "booleans",
            "bytes",
        ), name


def test_a_line_a_row_and_a_cell_that_are_too_long_cost_themselves(tmp_path, monkeypatch, tally):
    for module in (files, json_list, csv_rows):
        monkeypatch.setattr(module, "MAX_ROW_CHARS", 1 << 12)
    monkeypatch.setattr(json_list, "CHUNK_BYTES", 64)
    long, good = json.dumps(ROW | {"x": 'y"\\' * 5_000}), json.dumps(ROW)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{long}\n{good}\n")
    assert refusals(rows_of(tmp_path / "a.jsonl")) == ([(2, "too_long")], 3)
    (tmp_path / "a.json").write_text(f"[{good},\n{long},{good}, {'[' * 3000}{']' * 3000},1234567, {good}]")
    assert refusals(rows_of(tmp_path / "a.json")) == ([(2, "too_long"), (4, "broken_json")], 6)
    (tmp_path / "a.csv").write_text(f"prompt,completion\nHi,{'y' * 10_000}\nHi,Hello\n")
    assert refusals(rows_of(tmp_path / "a.csv")) == ([(2, "broken_row")], 2)
    assert list(rows_of(tmp_path / "a.csv"))[1][2] == ROW
    tally("rows that are too long", promise=9).reported(3)


def test_a_row_of_millions_of_values_is_refused_before_they_are_made(tmp_path, monkeypatch, tally):
    monkeypatch.setattr(row_error, "MAX_VALUES", 1_000)
    monkeypatch.setattr(json_list, "CHUNK_BYTES", 64)
    many, good = json.dumps({"prompt": [[]] * 2_000}), json.dumps(ROW)
    (tmp_path / "a.jsonl").write_text(f"{many}\n{good}\n")
    (tmp_path / "a.json").write_text(f"[{many},{good}]")
    (tmp_path / "a.csv").write_text(f"prompt,completion\n{',' * 2_000}\nHi,Hello\n")
    for name, reason, line in (("a.jsonl", "too_long", 1), ("a.json", "too_long", 1), ("a.csv", "broken_row", 2)):
        assert refusals(rows_of(tmp_path / name)) == ([(line, reason)], 2), name
    tally("rows of too many values", promise=9).reported(3)


def test_what_is_kept_of_a_row_is_bounded_too(tmp_path, monkeypatch, tally):
    monkeypatch.setattr(sources, "MAX_ROW_CHARS", 1_000)
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW | {"notes": ["n" * 300] * 4}) + "\n")
    (bad,) = read_source(Source(path=str(tmp_path / "a.jsonl")))
    assert (bad.reason, bad.detail[:33]) == ("too_long", "its chat and other columns have 1")
    (good,) = read_source(Source(path=str(tmp_path / "a.jsonl"), keep=False))
    assert good.messages[0]["content"] == "Hi"
    tally("rows that are too long", promise=9).reported()


def test_quotes_that_nobody_closes_do_not_make_a_table_quadratic(tmp_path, monkeypatch, tally):
    """Every line opens a quote that the next one closes and opens again: one row, as long as the file, from each."""
    monkeypatch.setattr(csv_rows, "FREE_AGAIN", 10_000)
    lines = 600
    (tmp_path / "a.csv").write_text("prompt,completion\n" + 'a",x,"c\n' * lines + "Hi,Hello\n")
    asked = []
    real = csv_rows._Lines.__next__
    monkeypatch.setattr(csv_rows._Lines, "__next__", lambda self: asked.append(1) or real(self))
    refused_rows, count = refusals(rows_of(tmp_path / "a.csv"))
    assert (len(refused_rows), count) == (lines, lines + 1)
    assert {reason for _, reason in refused_rows} == {"broken_row"}
    assert len(asked) < 20 * lines  # not lines²
    tally("quotes that nobody closes", promise=9).reported(lines)
