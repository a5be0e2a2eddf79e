"""Tools, and calls of them, in the one form that templates and trainers take.

A tool is `{"type": "function", "function": {"name": …, …}}`; a bare schema (the older `functions`, ShareGPT's `tools`)
is put into that. A call is `{"type": "function", "function": {"name": …, "arguments": {…}}}`, with its `id` where it
has one: arguments that are JSON text, as OpenAI's interface has them, are an object here, for templates write them as
JSON themselves. The older `function_call` is a list of one call.
"""

import json
from collections.abc import Mapping
from typing import Any

from gradsift.datastore.identity import canonical_json
from gradsift.pipelines.pool.row_error import MAX_DEPTH, RowError, checked_text, is_deep

Json = dict[str, Any]


def tools_of(fields: Mapping[str, Any]) -> list[Json]:
    """The tools that a row offers, under `tools` or `functions`; none where it has neither. Raises RowError."""
    given = fields.get("tools") or fields.get("functions")
    if not given:
        return []
    listed = parsed(given, "bad_tools", "tools") if isinstance(given, str) else given
    if not listed:
        return []
    if not isinstance(listed, list):
        raise RowError("bad_tools", f"tools must be a list, not {type(listed).__name__}")
    return [_tool(tool, number) for number, tool in enumerate(listed)]


def _tool(given: Any, number: int) -> Json:
    tool = parsed(given, "bad_tools", f"the fields of tool {number}") if isinstance(given, str) else given
    if not isinstance(tool, Mapping):
        raise RowError("bad_tools", f"tool {number} must be an object, not {type(tool).__name__}")
    whole = _without_null(tool)
    if "function" not in whole:
        whole = {"type": "function", "function": whole}
    schema = whole["function"]
    if not isinstance(schema, Mapping) or not isinstance(schema.get("name"), str):
        raise RowError("bad_tools", f"tool {number} has no function name")
    return _storable(whole, "bad_tools", f"tool {number}")


def calls_of(turn: Mapping[str, Any], number: int) -> list[Json]:
    """The calls that an assistant's turn makes, under `tool_calls` or `function_call`. Raises RowError."""
    given = turn.get("tool_calls")
    if isinstance(given, str):
        given = parsed(given, "bad_tool_call", f"tool_calls of turn {number}")
    older = _without_null(turn.get("function_call"))
    if not given and older:
        given = [{"function": older}]
    if not given:
        return []
    if not isinstance(given, list):
        raise RowError("bad_tool_call", f"tool_calls of turn {number} must be a list, not {type(given).__name__}")
    return [_call(call, f"call {k} of turn {number}") for k, call in enumerate(given)]


def calls_in(text: Any, number: int) -> list[Json]:
    """ShareGPT's `function_call`: a call, or a list of them, as JSON text. Raises RowError."""
    what = f"the function call of turn {number}"
    found = parsed(checked_text(text, what), "bad_tool_call", what)
    return [_call(call, what) for call in (found if isinstance(found, list) else [found])]


def _call(call: Any, what: str) -> Json:
    if not isinstance(call, Mapping):
        raise RowError("bad_tool_call", f"{what} must be an object, not {type(call).__name__}")
    function = call.get("function") or call
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise RowError("bad_tool_call", f"{what} names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):  # what is null in a text was written so
        arguments = parsed(arguments, "bad_tool_call", f"the arguments of {what}") if arguments.strip() else {}
    elif isinstance(arguments, Mapping):
        arguments = _without_null(arguments)
    if not isinstance(arguments, Mapping | None):
        raise RowError("bad_tool_call", f"the arguments of {what} must be an object, not {type(arguments).__name__}")
    identity = {"id": checked_text(call["id"], f"the id of {what}")} if call.get("id") else {}
    made = {**identity, "type": "function", "function": {"name": name, "arguments": arguments or {}}}
    return _storable(made, "bad_tool_call", what)


def parsed(text: str, reason: str, what: str) -> Any:
    """JSON text as what it says. Raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(reason, f"{what} are not JSON: {error}") from None


def _without_null(value: Any) -> Any:
    """The value without fields that are null: Arrow files give every object the fields of all others."""
    if isinstance(value, Mapping):
        return {str(k): _without_null(v) for k, v in value.items() if v is not None}
    return [_without_null(v) for v in value] if isinstance(value, list) else value


def _storable(value: Json, reason: str, what: str) -> Json:
    """The value, if it can be stored. Raises RowError."""
    as_json(value, reason, what)
    return value


def as_json(value: Any, reason: str, what: str) -> str:
    """The value as JSON text. Raises RowError."""
    if is_deep(value):
        raise RowError(reason, f"{what} is nested too deeply (limit {MAX_DEPTH})")
    try:
        text = canonical_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowError(reason, f"{what} cannot be written as JSON: {error}") from None
    return checked_text(text, what)
