"""Chats as columns of an export.

Where all are roles and texts alone, `messages` is a list of {role, content}. Where any chat has tools, calls or names,
`messages` is a list of JSON objects, and `tools` too (null for a chat without): Arrow's structs would give every object
the fields of all others. Parquet files say so by Arrow's JSON type, which `datasets` reads as objects; JSON lines hold
the objects themselves.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gradsift.datastore.chats import MESSAGES_TYPE, Messages
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.runs import Json

OBJECTS = ("messages", "tools")


def hold_more(spills: Iterable[Path]) -> bool:
    """Whether any chat of these files of an export's first pass is more than roles and texts."""
    for path in spills:
        with pa.memory_map(str(path)) as source:
            if pc.any(pc.is_valid(pa.ipc.open_file(source).read_all()["more"])).as_py():
                return True
    return False


def as_columns(chats: Sequence[Messages], *, objects: bool) -> dict[str, pa.Array]:
    """The column or columns of chats."""
    if not objects:
        return {"messages": pa.array(chats, MESSAGES_TYPE)}
    turns = [[canonical_json({k: v for k, v in turn.items() if k != "tools"}) for turn in chat] for chat in chats]
    tools = [[canonical_json(tool) for tool in chat[0]["tools"]] if chat[0].get("tools") else None for chat in chats]
    return {"messages": _json(turns), "tools": _json(tools)}


def _json(texts: Sequence[list[str] | None]) -> pa.Array:
    return pa.array(texts, pa.list_(pa.string())).cast(pa.list_(pa.json_()))


def as_objects(row: Json) -> Json:
    """A row of such a table with its objects."""
    return row | {name: _parsed(row[name]) for name in OBJECTS if name in row}


def _parsed(value: Any) -> Any:
    return [json.loads(item) if isinstance(item, str) else item for item in value] if value else value


def chat_of(row: Json) -> Messages:
    """The chat of an export's row, as the store has it."""
    found = as_objects(row)
    chat: Messages = found["messages"]
    return [{**chat[0], "tools": found["tools"]}, *chat[1:]] if found.get("tools") else chat
