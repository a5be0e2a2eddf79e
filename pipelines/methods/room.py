"""Whether a method fits into the memory that it may take, before it starts."""

from typing import cast

from gradsift.datastore.errors import InputError
from gradsift.pipelines.memory import in_words
from gradsift.pipelines.methods.evidence import Evidence, Represent
from gradsift.pipelines.methods.memory import PER_EXAMPLE, SEMDEDUP, Options, Sizes
from gradsift.pipelines.methods.registry import Needs, looks_at, memory_of, needs_of, parts_of


def make_room(e: Evidence, score: str, rule: str | None, options: Options, chosen: int) -> None:
    """Leave the evidence the room for rows that a method leaves free. Raises InputError, with what to change, for one
    that needs more than `e.memory`."""
    needs = needs_of(score, rule or "top_k", options)
    sizes = sizes_of(e, looks_at(score, rule, options), needs, chosen)
    need = memory_of(score, rule, options, sizes)
    less = [part.memory.less for part in reversed(parts_of(score, rule)) if part.memory.less]
    fit(e.memory, need, sizes, less[0] if less else "")
    e.room = e.memory - need


def make_room_for_semdedup(e: Evidence, represent: str, clusters: int) -> None:
    """The same for near-duplicates by rows."""
    sizes = sizes_of(e, represent, frozenset(), 0)
    need = PER_EXAMPLE * sizes.pool + SEMDEDUP.need(sizes, {"clusters": clusters})
    fit(e.memory, need, sizes, SEMDEDUP.less)
    e.room = e.memory - need


def sizes_of(e: Evidence, represent: str, needs: Needs, chosen: int) -> Sizes:
    """What decides how much a method holds that looks at this evidence."""
    return Sizes(
        len(e.ids),
        e.dims(cast(Represent, represent)) if represent else 0,
        len(e.target.example_ids),
        len(set(e.target.subtasks)),
        chosen,
        max(1, len(e.pairs)),
        sum(e.label_tokens()) if "tokens" in needs else 0,
    )


def fit(memory: float, need: float, sizes: Sizes, less: str) -> None:
    """Raise InputError unless there is as much memory as is needed."""
    if need <= memory:
        return
    of_rows = f" of {sizes.dims:,} dims" if sizes.dims else ""
    raise InputError(
        f"needs {in_words(need)} for {sizes.pool:,} examples{of_rows} and {sizes.target:,} target rows, and `memory` "
        f"allows {in_words(memory)}; raise `memory`{', or use ' + less if less else ''}, or narrow the pool first "
        "(what each method holds: docs/memory.md)"
    )
