"""Targets: files of a pool, as `read_source` takes them."""

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from fuzz import places
from fuzz.drive import target

from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source

TOOLS = [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object", "properties": {}}}}]
CALL = [{"id": "c1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}]
ROWS = [
    {"messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4."}], "source": "a"},
    {"conversations": [{"from": "human", "value": "Hallo"}, {"from": "gpt", "value": "Grüß Gott 👋"}], "id": 7},
    {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]], "licence": "mit"},
    {"prompt": "Say ok.", "completion": "ok", "quality": 0.25, "tags": ["x", "y"], "meta": {"lang": "en", "n": None}},
    {"prompt": [{"role": "user", "content": "A?"}], "chosen": [{"role": "assistant", "content": "B"}], "rejected": []},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Sum"}]},
                  {"role": "assistant", "content": "", "tool_calls": CALL},
                  {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "sum"},
                  {"role": "assistant", "content": "It is 1", "reasoning_content": "easy"}],
     "tools": json.dumps(TOOLS), "subtask": "s"},
]  # fmt: skip
PLAIN = [{"prompt": f"Say {k}, please", "completion": str(k), "quality": k / 3, "when": None} for k in range(5)]
WORDS = ("messages", "conversations", "role", "content", "user", "assistant", "system", "tool", "tool_calls", "tools",
         "arguments", "prompt", "completion", "chosen", "instruction", "history", "from", "value", "source")  # fmt: skip


def _read(name: str, data: bytes, **source: object) -> None:
    path = places.file(name, data)
    for _ in read_source(Source(path=str(path), where="chars > 1 or extra->>'quality' > 1", **source)):
        pass


def _lines() -> list[bytes]:
    return ["".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode() for rows in (ROWS, PLAIN)]


def _table() -> list[bytes]:
    rows = ['prompt,completion,quality\nSay a,"a, b",1\n"two\nlines",b,\n', "prompt;completion\nä;ö\n\n1;2\n"]
    return [row.encode() for row in rows]


def _parquet() -> list[bytes]:
    made = []
    for rows, compression in ((PLAIN, "zstd"), (ROWS[:1], "none"), ([ROWS[3]], "snappy")):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink, compression=compression)
        made.append(sink.getvalue())
    return made


def _saved() -> list[bytes]:
    made = []
    for rows in (PLAIN, ROWS[:1]):
        sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        made.append(sink.getvalue())
    return made


@target("jsonl", _lines, *WORDS)
def jsonl(data: bytes) -> None:
    _read("rows.jsonl", data)


@target("json", lambda: [json.dumps(ROWS).encode(), json.dumps(PLAIN).encode()], *WORDS)
def whole_json(data: bytes) -> None:
    _read("rows.json", data)


@target("csv", _table, "prompt", "completion", '""', "\r\n")
def csv(data: bytes) -> None:
    _read("rows.csv", data)


@target("parquet", _parquet, "PAR1")
def parquet(data: bytes) -> None:
    _read("rows.parquet", data)


@target("gzip", lambda: [places.packed(text) for text in _lines()])
def gzip(data: bytes) -> None:
    _read("rows.jsonl.gz", data)


@target("zstd", lambda: [zstandard.ZstdCompressor().compress(text) for text in _table()])
def zstd(data: bytes) -> None:
    _read("rows.csv.zst", data)


STATE = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_format_columns": None,
         "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip


def _saved_folder(**files: bytes) -> None:
    named = {"data-00000-of-00001.arrow": _saved()[0], "state.json": json.dumps(STATE).encode(),
             "dataset_info.json": b"{}"} | {name.replace("__", "."): data for name, data in files.items()}  # fmt: skip
    shutil.rmtree(places.folder() / "saved", ignore_errors=True)
    for name, data in named.items():
        places.file(f"saved/{name}", data)
    for _ in read_source(Source(path=str(places.folder() / "saved"))):
        pass


@target("saved", _saved, "ARROW1")
def saved(data: bytes) -> None:
    """A folder that `datasets` saved: its rows."""
    _saved_folder(**{"data-00000-of-00001__arrow": data})


@target("saved-state", lambda: [json.dumps(STATE).encode()], "_data_files", "filename", "_format_type", "arrow")
def saved_state(data: bytes) -> None:
    """A folder that `datasets` saved: which files it has."""
    _saved_folder(state__json=data)


INFO = {"features": {"prompt": {"dtype": "string", "_type": "Value"}, "completion": {"dtype": "string", "_type": "Value"},
                     "quality": {"dtype": "float64", "_type": "Value"}, "when": {"dtype": "null", "_type": "Value"}}}  # fmt: skip


@target("saved-info", lambda: [json.dumps(INFO).encode()], "features", "_type", "dtype", "Image", "ClassLabel")
def saved_info(data: bytes) -> None:
    """A folder that `datasets` saved: what its columns are."""
    _saved_folder(dataset_info__json=data)
