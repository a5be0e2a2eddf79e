"""Chat templates that end. A template is a program of whoever made the model: it may go round for ever, or double a
text until memory is full. Here each round of a loop and each call of a macro may look at the clock, and what a template
keeps under a name or writes has a size.

All of it stands in the program that jinja makes of the template, so it holds in any thread and needs no signal. What
one expression makes before it is kept (`'x' | center(10000000000)`) is bounded by memory alone.
"""

import threading
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import count
from time import thread_time
from typing import Any

from jinja2 import Template, nodes, pass_context

from gradsift.datastore.errors import InputError

SECONDS = 30.0  # of this thread's processor time for one rendering: a chat takes less than a thousandth
SIZE = 1 << 26  # characters of a text, or values of a list, where the chat itself is not that large
LOOKS = 64  # rounds between two looks at the clock
ROUND, SIZED = "gradsift_round", "gradsift_sized"  # names of filters, which no template has
ADVICE = "Give the model a template that ends, as chat_template.jinja in its folder"


class _Now(threading.local):
    """What this thread renders."""

    model = ""
    chat: Any = None
    until: float | None = None  # from the first look on: most chats end before it


_now = _Now()
_rounds = count(1)  # of all threads


def begin(tokenizer: Any, template: str, chat: Any) -> None:
    """Bound what transformers makes of this template, which renders this chat next. Raises InputError for a template
    with powers; the rendering raises it where it takes SECONDS or more, or makes something over SIZE. Errors of jinja
    pass. Cost: a microsecond; for a new template, compiling it once more."""
    _now.model, _now.chat, _now.until = tokenizer.name_or_path or "the model", chat, None
    _refuse_constants(template)
    compiled = _compiler()(template)
    if ROUND not in compiled.environment.filters:
        _bound(compiled, template)


@cache
def _compiler() -> Callable[[str], Any]:
    """Transformers' own, which keeps what it compiled."""
    from transformers.utils import chat_template_utils  # seconds: what refuses an argument does not wait for it

    compiler: Callable[[str], Any] = chat_template_utils._compile_jinja_template
    return compiler


@lru_cache
def _refuse_constants(template: str) -> None:
    """What is made of constants alone is worked out as a template is compiled: nothing else could end that."""
    tree = _compiler()("").environment.parse(template)
    for node in reversed([*tree.find_all((nodes.Pow, nodes.Mul))]):  # the inner ones first
        if isinstance(node, nodes.Pow):
            raise InputError(f"the chat template of {_now.model} raises to a power, which may never end. {ADVICE}")
        try:
            one, other = node.left.as_const(), node.right.as_const()
        except nodes.Impossible:
            continue
        for text, times in ((one, other), (other, one)):
            if isinstance(times, int) and hasattr(text, "__len__") and len(text) * times > SIZE:
                raise _too_large()


def _bound(compiled: Any, template: str) -> None:
    environment = compiled.environment
    environment.filters |= {ROUND: _round, SIZED: _sized}
    tree = environment.parse(template)
    for loop in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        look = _filtered(loop, nodes.Const(None, lineno=loop.lineno), ROUND)
        loop.body.insert(0, nodes.ExprStmt(look, lineno=loop.lineno))
    for assign in tree.find_all(nodes.Assign):
        assign.node = _filtered(assign, assign.node, SIZED)
    for block in tree.find_all(nodes.AssignBlock):
        block.filter = _filtered(block, block.filter, SIZED)
    made = Template.from_code(environment, environment.compile(tree), compiled.globals)
    compiled.blocks, compiled.root_render_func = made.blocks, _written(made.root_render_func)


def _filtered(at: nodes.Node, node: nodes.Expr | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=at.lineno, environment=at.environment)


@pass_context  # so that it is not worked out as the template is compiled
def _round(_context: Any, _nothing: None) -> None:
    if next(_rounds) % LOOKS:
        return
    if _now.until is None:
        _now.until = thread_time() + SECONDS
    elif thread_time() > _now.until:
        raise InputError(f"the chat template of {_now.model} takes over {SECONDS:g} s for one chat. {ADVICE}")


@pass_context
def _sized(_context: Any, value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > SIZE:
        _refuse(len(value))
    return value


def _written(render: Callable[[Any], Iterator[str]]) -> Callable[[Any], Iterator[str]]:
    """What gives the pieces of text that a template writes, up to a size."""

    def pieces(context: Any) -> Iterator[str]:
        size = 0
        for piece in render(context):
            size += len(piece)
            if size > SIZE:
                _refuse(size)
            yield piece

    return pieces


def _refuse(size: int) -> None:
    if size > 2 * len(repr(_now.chat)):
        raise _too_large()


def _too_large() -> InputError:
    return InputError(f"the chat template of {_now.model} makes a text or list of over {SIZE:,} parts. {ADVICE}")
