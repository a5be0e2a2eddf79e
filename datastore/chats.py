"""A chat as the store holds it: a list of turns.

Every turn has a `role` and its text, `content`. Where the row that it was read from has them, a turn has what `MORE`
names beside these: a speaker's name, tool calls, the call that an answer belongs to, reasoning. The tools that a chat
offers stand in its first turn, under `tools`.

A shard of examples has the columns `example_id` and `messages` (role and content), and, where any of its chats holds
more, `more`: text, JSON of {number of the turn: what it holds beyond role and content}; null for a plain chat.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from gradsift.datastore.identity import canonical_json

Turn = dict[str, Any]
Messages = list[Turn]
PLAIN = ("role", "content")
MORE = ("name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "tools")
MESSAGES_TYPE = pa.list_(pa.struct([(name, pa.string()) for name in PLAIN]))


def is_plain(chat: Messages) -> bool:
    """Whether a chat is roles and texts alone."""
    return all(len(turn) == len(PLAIN) for turn in chat)


def more_of(chat: Messages) -> str | None:
    """What a chat's turns hold beyond role and content, as JSON; None for a plain one."""
    if is_plain(chat):
        return None
    found = {str(k): {name: turn[name] for name in turn if name not in PLAIN} for k, turn in enumerate(chat)}
    return canonical_json({number: more for number, more in found.items() if more})


def whole(turns: Sequence[Turn], more: str | None) -> Messages:
    """A chat from its two columns."""
    chat = [dict(turn) for turn in turns]
    for number, fields in (json.loads(more) if more else {}).items():
        chat[int(number)].update(fields)
    return chat


def columns(more: bool) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns of chats, of which any holds `more` or none does."""
    return [("messages", MESSAGES_TYPE), *([("more", pa.string())] if more else [])]


def as_columns(chats: Sequence[Messages], more: bool | None = None) -> dict[str, pa.Array]:
    """[N] `messages`, and `more` where any chat holds more, or where it is asked for."""
    if more is None:
        more = not all(map(is_plain, chats))
    made = {"messages": pa.array(chats, MESSAGES_TYPE)}
    return made | {"more": pa.array(map(more_of, chats), pa.string())} if more else made


def of_table(table: pa.Table) -> list[Messages]:
    """[N] chats of a table that has the columns of a shard."""
    turns = table["messages"].to_pylist()
    if "more" not in table.column_names:
        return turns  # type: ignore[no-any-return]
    more = table["more"].to_pylist()
    return [whole(*pair) if pair[1] else pair[0] for pair in zip(turns, more, strict=True)]


def turn_text(turn: Turn) -> str:
    """What a turn says: its text, and each call of a tool on a line of its own."""
    calls = (call["function"] for call in turn.get("tool_calls", ()))
    lines = [turn["content"], *(f"{call['name']} {canonical_json(call['arguments'])}" for call in calls)]
    return "\n".join(line for line in lines if line)


def all_text(turn: Turn) -> str:
    """The same with what a turn thinks: all that a person may have written."""
    return "\n".join([turn_text(turn), *(turn[name] for name in ("reasoning_content", "thinking") if name in turn)])


def text(chat: Iterable[Turn]) -> str:
    """What all turns of a chat say, one after the other."""
    return "\n".join(turn_text(turn) for turn in chat)


def weight(value: Any) -> int:
    """Characters of all texts and keys of JSON values, and 8 for each other value: what a chat or the other columns of
    a row take in memory, roughly, without writing them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + weight(inner) for key, inner in value.items())
    return sum(map(weight, value)) if isinstance(value, list) else 8


def chars(chat: Iterable[Turn]) -> int:
    """Characters that a chat says."""
    return sum(len(turn_text(turn)) for turn in chat)
