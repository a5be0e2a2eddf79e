"""A chat as a page shows it: turns and their parts, with at most so much text until all is asked for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradsift.datastore.chats import Messages, Turn

CUT = 20_000  # characters of a page, unless all is asked for
MOST = 5_000_000  # characters of a page in any case
TURNS = 200  # likewise
MOST_TURNS = 5_000


@dataclass(frozen=True)
class Part:
    """A text of a turn: what it says, thinks or calls. `kind` is a class of the page, `heading` says what it is."""

    kind: str
    heading: str
    text: str


@dataclass(frozen=True)
class Said:
    """A turn of a chat."""

    role: str
    name: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Shown:
    """Turns of a chat, the tools that it offers, and how many characters and turns are left out."""

    turns: Sequence[Said]
    tools: Sequence[Part]
    chars_left: int
    turns_left: int


def show(chat: Messages, *, whole: bool = False) -> Shown:
    """A chat for a page, up to `CUT` characters and `TURNS` turns, or with `whole` up to `MOST` and `MOST_TURNS`."""
    room = _Room(MOST if whole else CUT)
    most = MOST_TURNS if whole else TURNS
    tools = [room.cut(_tool(tool)) for tool in (chat[0].get("tools", ()) if chat else ())]
    turns = [
        Said(turn["role"], str(turn.get("name", "")), [room.cut(part) for part in _parts(turn)]) for turn in chat[:most]
    ]
    return Shown(turns, tools, room.lost, len(chat) - len(turns))


class _Room:
    """Characters that are left of a page, and those that did not find room."""

    def __init__(self, left: int) -> None:
        self.left, self.lost = left, 0

    def cut(self, part: Part) -> Part:
        """The part, or as much of it as there is room for."""
        kept = part.text[: self.left]
        self.left -= len(kept)
        self.lost += len(part.text) - len(kept)
        return Part(part.kind, part.heading, kept)


def _parts(turn: Turn) -> Iterator[Part]:
    for name in ("reasoning_content", "thinking"):
        if turn.get(name):
            yield Part("thought", "thinks", str(turn[name]))
    if turn["content"] or not turn.get("tool_calls"):
        answers = f"answers call {turn['tool_call_id']}" if turn.get("tool_call_id") else ""
        yield Part("said", answers, turn["content"])
    for call in turn.get("tool_calls", ()):
        number = f" ({call['id']})" if call.get("id") else ""
        yield Part("call", f"calls {call['function']['name']}{number}", pretty(call["function"]["arguments"]))


def _tool(tool: Mapping[str, Any]) -> Part:
    function = tool.get("function", tool)
    return Part("tool", str(function.get("name", "")), pretty(tool))


def pretty(value: Any) -> str:
    """A value as a person reads it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, default=str)
