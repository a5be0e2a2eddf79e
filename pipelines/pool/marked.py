"""What a run's screenings left out, to look at: each row beside its twin."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.datastore import examples, marks
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import LeftOut, last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.pool.screen import left_out
from gradsift.pipelines.pool.signatures import text_of
from gradsift.pipelines.tables import shortened

SHOWN_CHARS = 240


@dataclass(frozen=True)
class Pair:
    """An example that is left out, and the one that it repeats."""

    reason: str
    similarity: float
    example_id: str
    source: str
    text: str
    twin: str
    twin_source: str
    twin_text: str


@dataclass(frozen=True)
class Marked:
    """Counts by reason and source, and some pairs, the least similar first."""

    summary: list[LeftOut]
    pairs: list[Pair]


def marked(store: Store, reason: str | None = None, count: int = 10) -> Marked:
    """What the last run's screenings left out. Raises InputError for a reason that left nothing out."""
    numbers = last_run(store, computed=True).result.ingest.pool.screenings
    of_run = [mark for number in numbers for mark in marks.of_screening(store, number) if reason in (None, mark.reason)]
    if reason and not of_run:
        raise InputError(f"the last run's screening left nothing out for {reason!r}")
    shown = sorted(of_run, key=lambda mark: (mark.similarity, mark.example_id))[:count]
    return Marked(left_out(store, of_run), _pairs(store, shown))


def _pairs(store: Store, shown: Sequence[marks.Mark]) -> list[Pair]:
    ids = sorted({i for mark in shown for i in (mark.example_id, mark.twin)})
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)

    def start(chat: Messages) -> str:
        return shortened(text_of(chat), SHOWN_CHARS)

    return [
        Pair(
            mark.reason,
            mark.similarity,
            mark.example_id,
            sources[mark.example_id].source,
            start(chats[mark.example_id]),
            mark.twin,
            sources[mark.twin].source,
            start(chats[mark.twin]),
        )
        for mark in shown
    ]
