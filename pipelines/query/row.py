"""All that a store knows of one example, but its neighbours and its lineage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradsift.datastore import choices, examples, marks, origins
from gradsift.datastore.chats import Messages
from gradsift.datastore.choices import Holding
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.query.passes import Pass, computed_run, passes_of

MOST_MARKS = 50


@dataclass(frozen=True)
class Origin:
    """A place that the example was read from; `extra` is what else stood in the row there."""

    file: str
    line: int
    source: str
    licence: str | None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Twin:
    """A mark of the last run's screenings: this example is `left_out` for its twin, or the twin is for this one."""

    twin: str
    reason: str
    similarity: float
    left_out: bool


@dataclass(frozen=True)
class RowView:
    """An example: its chat, where it is from, what the passes of the last run say of it, where it was chosen, and what
    it repeats."""

    example_id: str
    messages: Messages
    source: str
    licence: str | None
    origins: Sequence[Origin]
    passes: Sequence[Pass]
    chosen: Sequence[Holding]
    twins: Sequence[Twin]

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools that the chat offers."""
        return self.messages[0].get("tools", ()) if self.messages else ()


def row(store: Store, name: str) -> RowView:
    """An example by its id or the start of it. Raises InputError where none, or more than one, starts so.

    Cost: a row group of text, a row of a mapped shard for each checkpoint, and a pass over the selections' rows.
    """
    example_id = examples.find_prefix(store, name)
    chat = examples.get_messages(store, [example_id]).get(example_id)
    known = examples.sources_of(store, [example_id]).get(example_id)
    if chat is None or known is None:
        raise InputError(f"example {example_id} was deleted meanwhile")
    run = computed_run(store)
    screenings = run.result.ingest.pool.screenings if run is not None else ()
    return RowView(
        example_id,
        chat,
        known.source,
        known.licence,
        [_origin(place) for place in origins.origins_of(store, [example_id]).get(example_id, [])],
        passes_of(store, run, example_id) if run is not None else [],
        choices.holdings(store, example_id),
        [_twin(mark, example_id) for mark in marks.of_example(store, screenings, example_id, MOST_MARKS)],
    )


def _origin(place: origins.Origin) -> Origin:
    extra = json.loads(place.extra) if place.extra else {}
    return Origin(place.file, place.line, place.source, place.licence, extra)


def _twin(mark: marks.Mark, example_id: str) -> Twin:
    left_out = mark.example_id == example_id
    return Twin(mark.twin if left_out else mark.example_id, mark.reason, mark.similarity, left_out)
