"""From a raw row in any of the shapes people have to the canonical chat, or to the reason why not.

Canonical: a list of turns (`datastore.chats`) with roles system and developer (first only), user, assistant and tool;
text is kept as it is, byte for byte, since the id is its digest. What a turn holds beyond its text is kept where chat
templates ask for it: a name, tool calls, the id of the call that a tool answers, reasoning. Content that is a list of
parts of text is their text, one after the other. Anything else in a turn is left out.
"""

from collections.abc import Mapping
from typing import Any

from gradsift.datastore.chats import Messages, Turn
from gradsift.pipelines.pool.row_error import RowError, checked_text
from gradsift.pipelines.pool.tools import as_json, calls_in, calls_of, parsed, tools_of

RawRow = Mapping[str, Any]  # by field
USED = {  # fields that become the chat, by shape
    "messages": ("messages", "tools", "functions"),
    "conversations": ("conversations", "system", "tools", "functions", "chosen"),
    "preference": ("prompt", "chosen", "system", "tools", "functions"),
    "prompt_completion": ("prompt", "completion", "system", "tools", "functions"),
    "alpaca": ("instruction", "input", "output", "history", "system", "tools", "functions"),
}
MAX_TURNS = 1_000
ROLES = {  # what the roles of a canonical chat are called elsewhere
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
NEXT_ROLES = {
    None: ("system", "developer", "user"),
    "system": ("developer", "user"),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
TEXT_PARTS = ("text", "input_text", "output_text")
MEDIA = ("images", "videos", "audios", "image", "video", "audio")  # columns of what is not text
KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")  # of a turn, where they are text


def canonical_messages(row: Any, shape: str = "auto", mapping: Mapping[str, str] | None = None) -> Messages:
    """Canonical messages of a raw row. Raises RowError."""
    fields = _fields(row, mapping)
    for name in MEDIA:
        if fields.get(name):
            raise RowError("multimodal", f"the row has {name}; gradsift reads text alone")
    messages = _SHAPES[_guess(fields) if shape == "auto" else shape](fields)
    if tools := tools_of(fields):
        messages[:1] = [{**turn, "tools": tools} for turn in messages[:1]]
    _check(messages)
    return messages


def shape_of(row: Any, mapping: Mapping[str, str] | None = None) -> str:
    """The shape that `auto` takes a row to be of. Raises RowError."""
    return _guess(_fields(row, mapping))


def used_fields(row: RawRow, shape: str = "auto", mapping: Mapping[str, str] | None = None) -> set[str]:
    """Which of a good row's own fields became its chat."""
    mapping = mapping or {}
    fields = _fields(row, mapping)
    return {mapping.get(name, name) for name in USED[_guess(fields) if shape == "auto" else shape]}


def _fields(row: Any, mapping: Mapping[str, str] | None) -> RawRow:
    if not isinstance(row, Mapping):
        raise RowError("not_an_object", f"a row must be a JSON object, not {type(row).__name__}")
    return dict(row) | {ours: row.get(theirs) for ours, theirs in (mapping or {}).items()}


def _guess(fields: RawRow) -> str:
    for key, shape in (
        ("messages", "messages"),
        ("conversations", "conversations"),
        ("chosen", "preference"),
        ("completion", "prompt_completion"),
        ("instruction", "alpaca"),
    ):
        if fields.get(key) is not None:
            return shape
    keys = ", ".join(sorted(str(k) for k in fields)[:8]) or "none"
    raise RowError("unknown_shape", f"no messages, conversations, chosen, completion or instruction (keys: {keys})")


def _turns(value: Any) -> Messages:
    """The turns of a list, or of one as JSON text, as cells of tables hold it; each may be JSON text, as exports do."""
    if isinstance(value, str):
        value = parsed(value, "bad_field", "the turns")
    if not isinstance(value, list):
        raise RowError("bad_field", f"turns must be a list, not {type(value).__name__}")
    turns: Messages = []
    for number, given in enumerate(value):
        turn = parsed(given, "bad_field", f"the fields of turn {number}") if isinstance(given, str) else given
        if not isinstance(turn, Mapping):
            raise RowError("bad_field", f"turn {number} must be an object, not {type(turn).__name__}")
        turns.append(_turn(turn, number))
    return turns


def _turn(turn: RawRow, number: int) -> Turn:
    """A turn with `role` and `content`, or ShareGPT's `from` and `value`."""
    named = checked_text(_first(turn, "role", "from"), f"role of turn {number}")
    role = ROLES.get(named, named)
    content = _first(turn, "content", "value")
    if named == "function_call":
        return {"role": role, "content": "", "tool_calls": calls_in(content, number)}
    calls = calls_of(turn, number) if role == "assistant" else []
    made: Turn = {"role": role, "content": "" if content is None and calls else _content(content, number)}
    for name in KEPT:
        if turn.get(name):
            made[name] = checked_text(turn[name], f"{name} of turn {number}")
    return {**made, "tool_calls": calls} if calls else made


def _first(turn: RawRow, *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _content(value: Any, number: int) -> str:
    """Content that is text, a list of parts of text, or what a tool gave as an object, which becomes JSON text."""
    if isinstance(value, Mapping):
        return as_json(value, "bad_field", f"turn {number}")
    if not isinstance(value, list):
        return checked_text(value, f"turn {number}")
    return "".join(_part(part, number) for part in value)


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return checked_text(part, f"a part of turn {number}")
    if not isinstance(part, Mapping):
        raise RowError("bad_field", f"a part of turn {number} must be an object, not {type(part).__name__}")
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        raise RowError("multimodal", f"turn {number} has a part of type {str(kind)[:40]!r}; gradsift reads text alone")
    return checked_text(part.get("text"), f"a part of turn {number}")


def _from_messages(fields: RawRow) -> Messages:
    return _turns(fields.get("messages"))


def _from_conversations(fields: RawRow) -> Messages:
    """ShareGPT's turns; a `chosen` beside them is the answer that was preferred, as LLaMA-Factory has it."""
    turns = _with_system(fields, _turns(fields.get("conversations")))
    chosen = fields.get("chosen")
    return [*turns, _turn(chosen, len(turns))] if isinstance(chosen, Mapping) else turns


def _from_preference(fields: RawRow) -> Messages:
    """The side that was chosen: a whole chat, or an answer to a `prompt`."""
    chosen, prompt = fields.get("chosen"), fields.get("prompt")
    after = [_answer(chosen, "chosen")] if isinstance(chosen, str) else _turns(chosen)
    if after and after[0]["role"] == "assistant":
        return _with_system(fields, [*_asked(prompt), *after])
    return _with_system(fields, after)


def _from_prompt(fields: RawRow) -> Messages:
    completion = fields.get("completion")
    after = _turns(completion) if isinstance(completion, list) else [_answer(completion, "completion")]
    return _with_system(fields, [*_asked(fields.get("prompt")), *after])


def _asked(prompt: Any) -> Messages:
    if isinstance(prompt, list):
        return _turns(prompt)
    return [{"role": "user", "content": checked_text(prompt, "prompt")}]


def _answer(value: Any, what: str) -> Turn:
    return {"role": "assistant", "content": checked_text(value, what)}


def _from_alpaca(fields: RawRow) -> Messages:
    instruction = checked_text(fields.get("instruction"), "instruction")
    extra = fields.get("input")
    user = f"{instruction}\n\n{checked_text(extra, 'input')}" if extra else instruction
    turns = [{"role": "user", "content": user}, _answer(fields.get("output"), "output")]
    return _with_system(fields, [*_history(fields.get("history")), *turns])


def _history(value: Any) -> Messages:
    """What was said before, as LLaMA-Factory has it: pairs of question and answer."""
    pairs = parsed(value, "bad_field", "history") if isinstance(value, str) and value else value or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowError("bad_field", "history must be a list of [question, answer]")
    return [
        turn
        for asked, said in pairs
        for turn in ({"role": "user", "content": checked_text(asked, "history")}, _answer(said, "history"))
    ]


def _with_system(fields: RawRow, turns: Messages) -> Messages:
    """The turns after what the column `system` says, unless they begin with it."""
    system = fields.get("system")
    if not system:
        return turns
    first = {"role": "system", "content": checked_text(system, "system")}
    return turns if turns[:1] == [first] else [first, *turns]


_SHAPES = {
    "messages": _from_messages,
    "conversations": _from_conversations,
    "preference": _from_preference,
    "prompt_completion": _from_prompt,
    "alpaca": _from_alpaca,
}


def _check(messages: Messages) -> None:
    if len(messages) > MAX_TURNS:
        raise RowError("too_long", f"{len(messages):,} turns (limit {MAX_TURNS:,})")
    previous: str | None = None
    for number, message in enumerate(messages):
        role = message["role"]
        if role not in NEXT_ROLES[previous]:
            expected = " or ".join(NEXT_ROLES[previous])
            raise RowError("role_order", f"turn {number} is {role[:20]!r}; expected {expected}")
        if role == "assistant" and not message["content"].strip() and "tool_calls" not in message:
            raise RowError("empty_assistant", f"assistant turn {number} is empty")
        previous = role
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("no_assistant", "there is no assistant turn to learn from")
    if previous != "assistant":
        raise RowError("role_order", f"the last turn is {previous!r}; expected assistant")
