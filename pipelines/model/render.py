"""A chat as the text or tokens that a chat template makes of it, with the tools that it offers."""

from collections.abc import Callable
from typing import Any

import jinja2

from gradsift.datastore.chats import Messages, Turn, is_plain
from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.bounded import begin

MARK = "_x"


def render(tokenizer: Any, template: str, chat: Messages, **options: Any) -> Any:
    """What transformers' `apply_chat_template` gives; the tools of the chat stand in its first turn. Raises
    TemplateError where the template fails, whatever it does: it may add a number to a text as well as refuse a chat.
    Raises InputError for a template that does not end (`bounded`)."""
    tools = chat[0].get("tools") if chat else None
    turns = [{name: value for name, value in turn.items() if name != "tools"} for turn in chat]
    try:
        begin(tokenizer, template, turns)
        return tokenizer.apply_chat_template(turns, tools=tools, chat_template=template, **options)
    except (jinja2.TemplateError, InputError):
        raise
    except Exception as error:  # of many kinds: by what a template says, or a tokenizer that is none
        raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def drops(tokenizer: Any, template: str, chat: Messages) -> bool:
    """Whether a template leaves out, without a word, tools, calls, or turns of tools and developers: the rendering is
    the same where these say something else. (Names and reasoning may be left out: many templates do.)

    Cost: nothing for a chat of system, user and assistant alone; else a rendering, and one for each of the four.
    """
    if is_plain(chat) and all(turn["role"] in ("system", "user", "assistant") for turn in chat):
        return False
    whole = _text(tokenizer, template, chat)
    return any(
        changed != chat and _text(tokenizer, template, changed) == whole
        for changed in ([change(turn) for turn in chat] for change in _CHANGES)
    )


def _text(tokenizer: Any, template: str, chat: Messages) -> str | None:
    try:
        text: str = render(tokenizer, template, chat, tokenize=False)
    except jinja2.TemplateError:
        return None  # it looked at what was changed
    return text


def _other_tools(turn: Turn) -> Turn:
    return turn if "tools" not in turn else turn | {"tools": [_renamed(tool) for tool in turn["tools"]]}


def _other_calls(turn: Turn) -> Turn:
    return turn if "tool_calls" not in turn else turn | {"tool_calls": [_renamed(call) for call in turn["tool_calls"]]}


def _other_text(turn: Turn) -> Turn:
    return turn if turn["role"] not in ("tool", "developer") else turn | {"content": turn["content"] + MARK}


def _other_arguments(turn: Turn) -> Turn:
    if "tool_calls" not in turn:
        return turn
    return turn | {
        "tool_calls": [
            call | {"function": call["function"] | {"arguments": call["function"]["arguments"] | {MARK: MARK}}}
            for call in turn["tool_calls"]
        ]
    }


def _renamed(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"function": one["function"] | {"name": one["function"]["name"] + MARK}}


_CHANGES: tuple[Callable[[Turn], Turn], ...] = (_other_tools, _other_calls, _other_arguments, _other_text)
