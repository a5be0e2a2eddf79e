"""From a raw row in any of the shapes people have to the canonical chat, or to the reason why not.

Canonical: a list of {role, content} with roles system (first only), user, assistant and tool; text is kept
as it is, byte for byte, since the id is its digest.
"""

from collections.abc import Mapping
from typing import Any

from gradsift.datastore.chats import Messages

RawRow = Mapping[str, Any]  # by field
MAX_FIELD_CHARS = 1_000_000
MAX_TURNS = 1_000
SHARE_GPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
NEXT_ROLES = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


class RowError(Exception):
    """Why a row cannot be used: a short `reason` code and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def canonical_messages(row: Any, shape: str = "auto", mapping: Mapping[str, str] | None = None) -> Messages:
    """Canonical messages of a raw row. Raises RowError."""
    if not isinstance(row, Mapping):
        raise RowError("not_an_object", f"a row must be a JSON object, not {type(row).__name__}")
    fields = dict(row) | {ours: row.get(theirs) for ours, theirs in (mapping or {}).items()}
    messages = _SHAPES[_guess(fields) if shape == "auto" else shape](fields)
    _check(messages)
    return messages


def _guess(fields: RawRow) -> str:
    for key, shape in (
        ("messages", "messages"),
        ("conversations", "conversations"),
        ("completion", "prompt_completion"),
        ("instruction", "alpaca"),
    ):
        if fields.get(key) is not None:
            return shape
    keys = ", ".join(sorted(str(k) for k in fields)[:8]) or "none"
    raise RowError("unknown_shape", f"no messages, conversations, completion or instruction (keys: {keys})")


def _turns(value: Any, role_key: str, text_key: str, roles: Mapping[str, str] | None) -> Messages:
    if not isinstance(value, list):
        raise RowError("bad_field", f"turns must be a list, not {type(value).__name__}")
    turns: Messages = []
    for number, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RowError("bad_field", f"turn {number} must be an object, not {type(turn).__name__}")
        role = _text(turn.get(role_key), f"role of turn {number}")
        turns.append(
            {
                "role": (roles or {}).get(role, role),
                "content": _text(turn.get(text_key), f"turn {number}"),
            }
        )
    return turns


def _from_messages(fields: RawRow) -> Messages:
    return _turns(fields.get("messages"), "role", "content", None)


def _from_conversations(fields: RawRow) -> Messages:
    turns = _turns(fields.get("conversations"), "from", "value", SHARE_GPT_ROLES)
    if fields.get("system"):
        turns.insert(0, {"role": "system", "content": _text(fields["system"], "system")})
    return turns


def _from_prompt(fields: RawRow) -> Messages:
    prompt, completion = fields.get("prompt"), fields.get("completion")
    before = (
        _turns(prompt, "role", "content", None)
        if isinstance(prompt, list)
        else [{"role": "user", "content": _text(prompt, "prompt")}]
    )
    after = (
        _turns(completion, "role", "content", None)
        if isinstance(completion, list)
        else [{"role": "assistant", "content": _text(completion, "completion")}]
    )
    return before + after


def _from_alpaca(fields: RawRow) -> Messages:
    instruction = _text(fields.get("instruction"), "instruction")
    extra = fields.get("input")
    user = f"{instruction}\n\n{_text(extra, 'input')}" if extra else instruction
    answer = {"role": "assistant", "content": _text(fields.get("output"), "output")}
    system = fields.get("system")
    first = [{"role": "system", "content": _text(system, "system")}] if system else []
    return [*first, {"role": "user", "content": user}, answer]


_SHAPES = {
    "messages": _from_messages,
    "conversations": _from_conversations,
    "prompt_completion": _from_prompt,
    "alpaca": _from_alpaca,
}


def _text(value: Any, what: str) -> str:
    if value is None:
        raise RowError("missing_field", f"{what} is missing")
    if not isinstance(value, str):
        raise RowError("bad_field", f"{what} must be text, not {type(value).__name__}")
    if len(value) > MAX_FIELD_CHARS:
        raise RowError("too_long", f"{what} has {len(value):,} characters (limit {MAX_FIELD_CHARS:,})")
    if "\x00" in value:
        raise RowError("nul", f"{what} contains a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError("surrogate", f"{what} contains a lone surrogate") from None
    return value


def _check(messages: Messages) -> None:
    if len(messages) > MAX_TURNS:
        raise RowError("too_long", f"{len(messages):,} turns (limit {MAX_TURNS:,})")
    previous: str | None = None
    for number, message in enumerate(messages):
        role = message["role"]
        if role not in NEXT_ROLES[previous]:
            expected = " or ".join(NEXT_ROLES[previous])
            raise RowError("role_order", f"turn {number} is {role[:20]!r}; expected {expected}")
        if role == "assistant" and not message["content"].strip():
            raise RowError("empty_assistant", f"assistant turn {number} is empty")
        previous = role
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("no_assistant", "there is no assistant turn to learn from")
    if previous != "assistant":
        raise RowError("role_order", f"the last turn is {previous!r}; expected assistant")
