"""Texts planted in a store, and looking for them in every byte of it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.datastore import picks
from gradsift.datastore.identity import example_id

SECRET = "XQ7-PLANTED-ANN-EXAMPLE"  # in every text that is planted; nothing else has it


def id_of(row):
    return example_id([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}])


def by_ids(*ids):
    return lambda store: picks.by_ids(store, ids)


def found_in(root, *needles):
    """Files of a folder that hold any of the texts or bytes: in their bytes, and in what Parquet and Arrow unpack to."""
    wanted = [needle if isinstance(needle, bytes) else needle.encode() for needle in needles]
    hits = []
    for path in sorted(Path(root).rglob("*")):
        if path.is_file():
            contents = [path.read_bytes()]
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                contents += [repr(table.to_pydict()).encode(), repr(table.schema.metadata).encode()]
                contents += [json.dumps(table.to_pydict(), ensure_ascii=False, default=str).encode()]
            if path.suffix == ".arrow":
                with pa.ipc.open_file(path) as opened:
                    contents.append(repr(opened.read_all().to_pydict()).encode())
            hits += [(path.name, needle) for needle in wanted if any(needle in content for content in contents)]
    return hits
