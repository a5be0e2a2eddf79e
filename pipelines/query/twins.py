"""What the last run's screenings left out, each row beside its twin, with the words in which they differ."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from gradsift.datastore import examples, marks
from gradsift.datastore.chats import text
from gradsift.datastore.errors import InputError
from gradsift.datastore.marks import Mark
from gradsift.datastore.store import Store
from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.query.passes import computed_run

WORDS = 400  # of a text, at most, that are compared: the time grows with their product
CHARS = 6_000
_PIECE = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")  # a word or sign with the space behind it


@dataclass(frozen=True)
class Piece:
    """A part of a text, and whether the other text has something else there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Side:
    """One of two texts that are compared; `cut` where it goes on behind the last piece."""

    example_id: str
    source: str
    pieces: Sequence[Piece]
    cut: bool


@dataclass(frozen=True)
class Twins:
    """An example that is left out, and the one that it repeats."""

    reason: str
    similarity: float
    left_out: Side
    twin: Side


@dataclass(frozen=True)
class TwinPage:
    """A page of what was left out for one `reason`: pairs from number `first` on of `total`. `counts` are examples of
    all reasons; `reason` is '' where nothing was left out."""

    counts: Mapping[str, int]
    reason: str
    first: int
    total: int
    pairs: Sequence[Twins]


def twins(store: Store, reason: str | None = None, first: int = 0, count: int = 10) -> TwinPage:
    """A page of the last run's marks of a reason (default: the most frequent one), the least similar first. Raises
    InputError for a reason that left nothing out."""
    run = computed_run(store)
    numbers = run.result.ingest.pool.screenings if run is not None else ()
    counts = marks.counts(store, numbers)
    if reason is not None and reason not in counts:
        raise InputError(
            f"the last run's screening left nothing out for {reason!r}; "
            + suggestion(reason, counts, f"there are: {', '.join(counts) or 'none'}")
        )
    chosen = reason or next(iter(counts), "")
    shown = marks.page(store, numbers, chosen, first, count) if chosen else []
    return TwinPage(counts, chosen, first, counts.get(chosen, 0), _pairs(store, shown))


def _pairs(store: Store, shown: Sequence[Mark]) -> list[Twins]:
    ids = sorted({i for mark in shown for i in (mark.example_id, mark.twin)})
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)
    pairs = []
    for mark in shown:
        if not {mark.example_id, mark.twin} <= set(chats):
            continue  # deleted meanwhile
        a, b = difference(text(chats[mark.example_id]), text(chats[mark.twin]))
        sides = [
            Side(name, sources[name].source, pieces, cut)
            for name, (pieces, cut) in ((mark.example_id, a), (mark.twin, b))
        ]
        pairs.append(Twins(mark.reason, mark.similarity, *sides))
    return pairs


def difference(a: str, b: str) -> tuple[tuple[list[Piece], bool], tuple[list[Piece], bool]]:
    """(pieces, whether the text is cut) of each of two texts: runs of words and signs that the other has too,
    and runs that it has not; space alone is no difference. Of long texts the beginnings are compared."""
    (words_a, cut_a), (words_b, cut_b) = _words(a), _words(b)
    bare_a, bare_b = ([word.strip() for word in words] for words in (words_a, words_b))
    matcher = SequenceMatcher(None, bare_a, bare_b, autojunk=False)
    of_a: list[Piece] = []
    of_b: list[Piece] = []
    for kind, start_a, end_a, start_b, end_b in matcher.get_opcodes():
        of_a.append(Piece("".join(words_a[start_a:end_a]), kind != "equal"))
        of_b.append(Piece("".join(words_b[start_b:end_b]), kind != "equal"))
    return ([piece for piece in of_a if piece.text], cut_a), ([piece for piece in of_b if piece.text], cut_b)


def _words(text: str) -> tuple[list[str], bool]:
    start = text[:CHARS]
    words = _PIECE.findall(start)
    return words[:WORDS], len(words) > WORDS or len(text) > CHARS
