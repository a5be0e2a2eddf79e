"""One odd cell never stops a run (promise 9): of another column it is kept as far as it can be said, and in one that
becomes the chat it costs its row, which says why."""

import io
import json
import math
import re
from contextlib import suppress
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsift.datastore import examples, origins, quarantine
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow
from gradsift.pipelines.pool import json_list
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.json_list import rows_of_list
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source

MOST = 2**63 - 1
DAY = 2**31 - 1
FAR_DAY = f"<value out of range: {DAY}>"
FAR = f"<value out of range: {MOST}>"
OFFSETS = pa.array([0, 1, 2], pa.int32())


def days(*values):
    return pa.array(values, pa.int32()).view(pa.date32())


def numbers(kind, *values):
    return pa.array(values, pa.int64()).view(kind)


def not_utf8():
    return pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfeb")]
    )


def nested(depth):
    """A list of lists of lists, so deep, of one row."""
    made = pa.array([7])
    for _ in range(depth):
        made = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), made)
    return made


def listed(depth):
    return [listed(depth - 1)] if depth else 7


def rows_of(folder, table):
    """The rows that are read of a table, as a list for each file that can hold it: Parquet, and Arrow as `datasets`
    saves it."""
    found = []
    for path in written(folder, table):
        try:
            found.append(list(read_source(Source(path=str(path)))))
        except InputError as error:  # `datasets` has no such type: it could not have saved this
            assert path.is_dir(), error
            assert re.search("not have a datasets dtype|validly formatted string", str(error)), error
    assert found
    return found


def written(folder, table):
    with suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
        pq.write_table(table, folder / "x.parquet")
        yield folder / "x.parquet"
    saved = folder / "saved"
    saved.mkdir(exist_ok=True)
    with pa.OSFile(str(saved / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (saved / "dataset_info.json").write_text("{}")
    state = dict.fromkeys(["_fingerprint", "_split", "_format_type", "_format_columns"]) | {"_format_kwargs": {}}
    state |= {
        "_data_files": [{"filename": "x.arrow"}],
        "_output_all_columns": False,
        "_fingerprint": table.schema.to_string(),
    }
    (saved / "state.json").write_text(json.dumps(state))
    yield saved


def ext(kind, values):
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


TEXTS = ("string_view", "large_string", "dictionary with nulls", "JSON that is none")
KEPT = {  # an array, and what is kept of its first cell where it is another column
    "date32": (days(DAY, -DAY, None), FAR_DAY),
    "date32 of the year 10000": (days(2_932_897), "10000-01-01"),
    "date64": (numbers(pa.date64(), 86_400_000 * 2_932_897, None), "10000-01-01"),
    **{f"timestamp {unit}": (numbers(pa.timestamp(unit), MOST, -MOST, None), FAR) for unit in ("s", "ms", "us")},
    "timestamp ns": (numbers(pa.timestamp("ns"), MOST, 1, None), "2262-04-11T23:47:16.854775807"),
    "timestamp in UTC": (numbers(pa.timestamp("s", "UTC"), MOST, 1), FAR),
    "timestamp in no zone": (numbers(pa.timestamp("us", "Mars/Olympus"), 1, MOST), "1970-01-01T00:00:00.000001Z[Mars/Olympus]"),
    "timestamp, zone a path": (numbers(pa.timestamp("ms", "../../etc/passwd"), 1), "1970-01-01T00:00:00.001Z[../../etc/passwd]"),
    "timestamp, zone a folder": (numbers(pa.timestamp("ms", "America"), 1), "1970-01-01T00:00:00.001Z[America]"),
    "timestamp, zone long": (numbers(pa.timestamp("ms", "Z" * 500), 1), f"1970-01-01T00:00:00.001Z[{'Z' * 500}]"),
    "duration s": (numbers(pa.duration("s"), MOST, -MOST, None), float(MOST)),
    "duration us": (numbers(pa.duration("us"), MOST), 9223372036854.775),
    "time64 us": (numbers(pa.time64("us"), MOST, -1), FAR),
    "decimal128": (pa.array([Decimal("9" * 38), None], pa.decimal128(38, 0)), "9" * 38),
    "decimal256": (pa.array([Decimal("-1E-76")], pa.decimal256(76, 76)), "-1E-76"),
    "float16": (pa.array([math.inf, math.nan], pa.float16()), "Infinity"),
    "float64": (pa.array([5e-324, math.nan, -math.inf]), 5e-324),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "binary": (pa.array([b"\xff\x00", None]), "/wA="),
    "large_binary": (pa.array([b"\xff\x00"], pa.large_binary()), "/wA="),
    "fixed binary": (pa.array([b"\xff\x00", None], pa.binary(2)), "/wA="),
    "binary_view": (pa.array([b"\xff\x00"], pa.binary_view()), "/wA="),
    "string_view": (pa.array(["a", None], pa.string_view()), "a"),
    "large_string": (pa.array(["a\x00b", None], pa.large_string()), "a\x00b"),
    "map": (pa.array([[("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int64())), [["a", 1], ["a", 2]]),
    "map to dates": (pa.MapArray.from_arrays(OFFSETS, pa.array(["a", "b"]), days(DAY, 1)), [["a", FAR_DAY]]),
    "map from dates": (pa.MapArray.from_arrays(OFFSETS, days(DAY, 1), pa.array(["a", "b"])), [[FAR_DAY, "a"]]),
    "dictionary with nulls": (pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int32()), pa.array([None, "a"])), "a"),
    "dictionary of dates": (pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), days(DAY)), FAR_DAY),
    "list of dates": (pa.ListArray.from_arrays(OFFSETS, days(DAY, 1)), [FAR_DAY]),
    "list_view": (pa.array([[1], None], pa.list_view(pa.int64())), [1]),
    "fixed list": (pa.array([[1], None], pa.list_(pa.int64(), 1)), [1]),
    "large_list": (pa.array([[1], None], pa.large_list(pa.int64())), [1]),
    "struct": (pa.StructArray.from_arrays([days(DAY, 1), pa.array([1, 2])], ["day", "n"]), {"day": FAR_DAY, "n": 1}),
    "struct, a name twice": (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), {"x": [1, 2]}),
    "struct of nothing": (pa.array([{}, None], pa.struct([])), {}),
    "lists in lists": (nested(40), listed(40)),
    "uuid": (pa.array([b"\xff" * 16], pa.uuid()), "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "bool8": (ext(pa.bool8(), [-128, None]), True),
    "tensor": (ext(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], None]), [1, 2]),
    "opaque": (pa.ExtensionArray.from_storage(pa.opaque(pa.date32(), "a", "b"), days(DAY, 1)), FAR_DAY),
    "JSON": (ext(pa.json_(), ['{"a": [1]}', "null", None]), {"a": [1]}),
    "JSON that is none": (ext(pa.json_(), ["{", "1" * 5_000]), "{"),
    "JSON in a list": (pa.ListArray.from_arrays(OFFSETS, ext(pa.json_(), ["[1]", "[" * 900])), [[1]]),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_promise_9_an_odd_cell_is_kept_of_another_column_and_costs_its_row_in_one_of_the_chat(tmp_path, tally, name):
    array, kept = KEPT[name]
    others, used = (tally(f"odd cells in {what}", promise=9) for what in ("other columns", "columns of the chat"))
    texts = pa.array([f"q{k}" for k in range(len(array))])
    for rows in rows_of(tmp_path, pa.table({"prompt": texts, "completion": texts, "x": array})):
        assert [row.line for row in rows] == [k + 1 for k in range(len(array))]
        assert not [row for row in rows if isinstance(row, BadRow)]
        assert rows[0].extra == ({"x": {"x": 2}} if rows[0].file.endswith("saved") and "twice" in name else {"x": kept})
        others.harmless(len(rows))
    for rows in rows_of(tmp_path, pa.table({"prompt": array, "completion": texts})):
        assert len(rows) == len(array)
        for row, cell in zip(rows, array, strict=True):
            if isinstance(row, BadRow):
                assert row.reason in ("bad_field", "missing_field", "nul")
                used.reported()
            else:
                assert name in TEXTS
                assert row.messages[0]["content"] == cell.as_py()
                used.harmless()


@pytest.mark.parametrize("column", ["prompt", "x"])
@pytest.mark.parametrize("inside", ["", "list", "struct"])
def test_promise_9_text_of_arrow_that_is_not_utf8_costs_its_row(tmp_path, tally, column, inside):
    array = not_utf8()
    if inside:
        array = (
            pa.ListArray.from_arrays(OFFSETS, array) if inside == "list" else pa.StructArray.from_arrays([array], ["x"])
        )
    texts = pa.array(["a", "b"])
    for first, *_ in rows_of(tmp_path, pa.table({"prompt": texts, "completion": texts} | {column: array})):
        assert (first.reason, first.line) == ("invalid_utf8", 1)
        tally("cells that are not UTF-8", promise=9).reported()


def test_promise_9_a_column_that_stands_twice_is_kept_whole_or_costs_its_rows(tmp_path, tally):
    count = tally("columns that stand twice", promise=9)
    twice = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.table([*twice, *twice], names=["prompt", "completion", "x", "x"]), tmp_path / "x.parquet")
    (row,) = read_source(Source(path=str(tmp_path / "x.parquet")))
    assert row.extra == {"x": ["a", "b"]}
    count.harmless()
    pq.write_table(pa.table([*twice, twice[0]], names=["prompt", "completion", "prompt"]), tmp_path / "x.parquet")
    (row,) = read_source(Source(path=str(tmp_path / "x.parquet")))
    assert row.reason == "bad_field"
    count.reported()


def test_promise_9_pictures_that_are_none_are_kept_as_they_are(tmp_path):
    """Columns that `datasets` would decode: a picture of nobody's format, a sound, an array of two axes."""
    import datasets

    features = datasets.Features(
        {"prompt": datasets.Value("string"), "completion": datasets.Value("string"), "thumb": datasets.Image(),
         "said": datasets.Audio(), "grid": datasets.Array2D((1, 2), "int32")}
    )  # fmt: skip
    row = {
        "prompt": "q",
        "completion": "a",
        "thumb": {"bytes": b"no", "path": None},
        "said": {"bytes": b"", "path": "../x"},
    }
    table = pa.Table.from_pylist([row | {"grid": [[1, 2]]}], schema=features.arrow_schema)
    ((row,),) = rows_of(tmp_path, table)[1:]
    assert row.extra == {
        "thumb": {"bytes": "bm8=", "path": None},
        "said": {"bytes": "", "path": "../x"},
        "grid": [[1, 2]],
    }


DEEP = 10_000
CHAT = '{"prompt": "q", "completion": "a", "x": %s}'
CELLS = {  # a cell as JSON, and what is kept of it where it is another column, or why its row is refused
    "a number of 4,000 digits": ("9" * 4_000, int("9" * 4_000)),
    "a number of 5,000 digits": ("9" * 5_000, "broken_json"),
    "beyond floats": ("1e999", "Infinity"),
    "-Infinity": ("-Infinity", "-Infinity"),
    "NaN": ("NaN", None),
    "99 lists": ("[" * 99 + "7" + "]" * 99, listed(99)),
    "120 lists": ("[" * 120 + "]" * 120, "bad_field"),
    "120 objects": ('{"a":' * 120 + "1" + "}" * 120, "bad_field"),
    **{f"{depth} lists": ("[" * depth + "]" * depth, "bad_field, broken_json") for depth in range(900, 1_000, 7)},
    f"{DEEP} lists": ("[" * DEEP + "]" * DEEP, "broken_json"),
    "a key twice": ('{"a": 1, "a": 2}', {"a": 2}),
    "text that looks like marks": (r'"]},{\"\\"', r']},{"' + "\\"),
    "NUL": (r'"\u0000"', "\x00"),
    "bytes that are not UTF-8": (b'"\xff\xfe]"', "invalid_utf8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "invalid_utf8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_promise_9_odd_cells_of_json_cost_at_most_their_row(tmp_path, tally, kind):
    others, used = (
        tally(f"odd cells of JSON in {what}", promise=9) for what in ("other columns", "columns of the chat")
    )
    cells = [cell if isinstance(cell, bytes) else cell.encode() for cell, _ in CELLS.values()]
    path = tmp_path / f"x.{kind}"

    def read(chat):
        lines = [chat.encode().replace(b"%s", cell) for cell in cells]
        path.write_bytes(b"\n".join(lines) if kind == "jsonl" else b"[" + b" ,\n".join(lines) + b"\r\n]")
        rows = list(read_source(Source(path=str(path))))
        assert [row.line for row in rows] == list(range(1, len(cells) + 1))
        return rows

    for row, (name, (_, kept)) in zip(read(CHAT), CELLS.items(), strict=True):
        if isinstance(row, BadRow):
            assert row.reason in str(kept), name
            others.reported()
        else:
            assert row.extra == ({} if kept is None else {"x": kept}), name
            others.harmless()
    for row, name in zip(read('{"prompt": "q", "completion": %s}'), CELLS, strict=True):
        if isinstance(row, BadRow):
            assert row.reason in ("bad_field", "broken_json", "nul", "invalid_utf8"), name
            used.reported()
        else:
            assert name == "text that looks like marks"
            used.harmless()


def test_promise_9_deep_nesting_in_any_field_costs_at_most_its_row(store, tmp_path, tally):
    fields = [
        "source",
        "licence",
        "subtask",
        "tools",
        "system",
        "messages",
        "conversations",
        "chosen",
        "history",
        "images",
    ]
    lines = [
        json.dumps({"instruction": f"{field} {depth}", "output": "a"})[:-1]
        + f', "{field}": {"[" * depth + "]" * depth}}}'
        for field in fields
        for depth in (90, 150, *range(900, 996, 5))
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    pool, report = ingest(store, "pool", "p", [Source(path=str(tmp_path / "x.jsonl"))])
    assert report.rows_read == len(lines)
    kept, refused = len(pool.example_ids), sum(report.quarantined.values())
    assert kept + refused == len(lines)
    count = tally("deep nesting in any field", promise=9)
    count.harmless(kept)
    count.reported(refused)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", "not valid JSON"), (b"[1 2]", "not valid JSON"), (b"[1,]", "not valid JSON"), (b"[1] 2", "not valid JSON"),
        (b'["a]', "not valid JSON"), (b"[" * DEEP, "not valid JSON"), (b'{"a": 1}', "must hold a list"), (b"\xff", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_json_file_that_is_no_list_is_one_clear_error(tmp_path, content, words):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        list(read_source(Source(path=str(tmp_path / "x.json"))))


@settings(max_examples=25)
@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=6)), st.sampled_from([None, 2]))  # fmt: skip
def test_rows_of_a_list_are_what_the_json_module_reads(rows, indent):
    for text in (json.dumps(rows, indent=indent), json.dumps(rows, ensure_ascii=False)):
        content = text.encode("utf-8", "replace")
        assert list(rows_of_list(io.BytesIO(content))) == json.loads(content)


@pytest.mark.parametrize(
    "row", ["1.5", "-1.5e10", "2E-7", "0.125e+3", "true", "null", '"\\ud83e\\ude77"', '{"a": 1.5}']
)
def test_a_row_may_be_cut_anywhere_by_the_end_of_a_buffer(monkeypatch, row):
    monkeypatch.setattr(json_list, "CHUNK_BYTES", 32)
    for spaces in range(32):
        content = f"[{' ' * spaces}{row},{row}, {row}]".encode()
        assert list(rows_of_list(io.BytesIO(content))) == json.loads(content)
    with pytest.raises(ValueError, match="Expecting ',' delimiter"):
        list(rows_of_list(io.BytesIO(b"[1." + b"." * 99 + b"]")))


def test_promise_9_a_store_holds_what_was_read_and_answers(either, tmp_path, tally):
    """All of it at once, through a predicate, into a catalog of either kind, and out again."""
    cells = {name: array[:1] for name, (array, _) in KEPT.items()}
    many = tmp_path / "many"
    many.mkdir()
    for k, (name, array) in enumerate(cells.items()):
        with suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
            pq.write_table(pa.table({"prompt": [name], "completion": ["a"], "x": array}), many / f"{k}.parquet")
    lines = [
        (CHAT.replace("q", name).encode() % (cell if isinstance(cell, bytes) else cell.encode()))
        for name, (cell, _) in CELLS.items()
    ]
    (many / "cells.jsonl").write_bytes(b"\n".join(lines))
    source = Source(path=str(many), where="extra->>'x' IS NULL OR extra->>'x' <> 'nothing'")
    pool, report = ingest(either, "pool", "p", [source])
    assert report.rows_read == len(list(many.glob("*.parquet"))) + len(CELLS)
    assert len(pool.example_ids) == report.rows_read - sum(report.quarantined.values())
    assert sum(quarantined["rows"] for quarantined in quarantine.summary(either)) == sum(report.quarantined.values())
    assert len(examples.get_messages(either, pool.example_ids)) == len(pool.example_ids)
    for (place,) in origins.origins_of(either, pool.example_ids).values():
        json.loads(place.extra or "{}")
        tally("odd cells in a store", promise=9).harmless()
