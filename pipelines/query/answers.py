"""Questions of a space → answers with enough to read: neighbours, their text, and what is usual here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gradsift.datastore import examples
from gradsift.datastore.chats import text
from gradsift.datastore.errors import BusyError
from gradsift.datastore.search import Typical
from gradsift.datastore.store import Store
from gradsift.pipelines.query.gradients import Gradients
from gradsift.pipelines.query.questions import Questions, turns
from gradsift.pipelines.query.spaces import Kind, Near, Space
from gradsift.pipelines.query.words import Words

BY_WORDS = "--space bm25 --everything finds them by their words, and `gradsift marks` shows them beside their twins"
OF_SPACE = {"gradients": "a gradient", "embedding": "an embedding", "encoder": "a row of the encoder"}


@dataclass(frozen=True)
class Hit:
    """A neighbour, with enough to read. `similarity` is what the space measures: a cosine, unless it is of words.
    `layers`: the cosine of each parameter's part of the row, where gradient rows are by module; `score`: BM25's own, of
    words alone, for a question that is one chat."""

    rank: int
    similarity: float
    example_id: str
    source: str
    user: str
    assistant: str
    layers: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None

    @property
    def cosine(self) -> float:
        """`similarity`, by the name that it had when gradients were all that was searched."""
        return self.similarity


@dataclass(frozen=True)
class Answer:
    """Neighbours of a question, and the first turns of the chat that was asked about. `rows`: what the rows are that
    were searched, for gradients the transform of the pool rows that its plain gradient was compared with; `typical`:
    similarities of random ones of these rows with this question."""

    user: str
    assistant: str
    checkpoint: int | Literal["all"] | None
    generated: bool
    hits: list[Hit]
    rows: str = ""
    typical: Typical | None = None
    index: str = ""  # the kind that was asked, '' where the search was exact
    recall: float | None = None  # of that index, as it was measured
    note: str = ""
    opposed: bool = False  # whether the hits are those that point the other way: the lowest cosines
    space: Kind = "gradients"
    question: str = ""  # what was asked, in words
    among: int | None = None  # how many examples the filters left; None without a filter
    more: list["Answer"] = field(default_factory=list)  # answers to the other questions, in their order


def answer(
    store: Store,
    space: Space,
    questions: Questions,
    k: int,
    *,
    ids: Sequence[str] | None = None,
    opposed: bool = False,
    generated: bool = False,
    everything: bool = False,
) -> Answer:
    """The k nearest rows to each question (of the given ids, if any), without what it was made of, and of words without
    those that share none with it; the answers to the second and later ones are in `more`. `everything`: whether the
    space has rows that left the pool, too."""
    out = max(len(asked.examples) for asked in questions.asked)
    found = space.near(questions.rows, k + out, ids=ids, opposed=opposed)
    near = [
        [one for one in best if one.example_id not in set(asked.examples) and (opposed or _says(space, one))][:k]
        for asked, best in zip(questions.asked, found.near, strict=True)
    ]
    layers: list[list[dict[str, float]]] = [
        space.by_module(row, [one.example_id for one in best]) if isinstance(space, Gradients) else [{}] * len(best)
        for row, best in zip(questions.rows, near, strict=True)
    ]
    scores = [
        space.scores(text(asked.chat), [one.example_id for one in best])
        if isinstance(space, Words) and asked.chat is not None
        else [None] * len(best)
        for asked, best in zip(questions.asked, near, strict=True)
    ]
    hits = _hits(store, near, layers, scores)
    usual = space.typical(questions.rows, [asked.examples for asked in questions.asked])
    among = None if ids is None else len(ids)
    notes = ["" if best else _why_none(space, of, among, everything) for best, of in zip(hits, found.near, strict=True)]
    first, *others = [
        Answer(
            asked.user, asked.assistant, space.checkpoint, generated, best, space.rows, own, found.index,
            found.recall, note or found.note, opposed, space.name, asked.question, among,
        )
        for asked, best, own, note in zip(questions.asked, hits, usual, notes, strict=True)
    ]  # fmt: skip
    return replace(first, more=others)


def _says(space: Space, one: Near) -> bool:
    """Whether a row is near at all: one without a word of the question is not."""
    return not isinstance(space, Words) or one.similarity > 0


def _why_none(space: Space, near: Sequence[Near], among: int | None, everything: bool) -> str:
    """Why a question has no hit, of rows that were near it or of none, and where to look."""
    if near:
        shares = "no row shares a word with it" if isinstance(space, Words) else "there is no row but its own"
        return shares if among is None else f"of the {among:,} examples that pass the filters, {shares}"
    passing = "" if among is None else f"{among:,} pass the filters, "
    if not everything:
        return f"{passing}none is a member of the pool that has a row here; rows that left it: --everything"
    if isinstance(space, Words):
        return f"{passing}none was in the pool that the last run read"
    return f"{passing}none has {OF_SPACE[space.name]}: rows that screening left out have none. {BY_WORDS}"


def _hits(
    store: Store,
    near: Sequence[Sequence[Near]],
    layers: Sequence[Sequence[Mapping[str, float]]],
    scores: Sequence[Sequence[float | None]],
) -> list[list[Hit]]:
    ids = sorted({one.example_id for best in near for one in best})
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)
    if len(chats) < len(ids) or len(sources) < len(ids):
        raise BusyError(f"examples were deleted from {store.root} meanwhile; ask again")

    def hit(rank: int, one: Near, parts: Mapping[str, float], score: float | None) -> Hit:
        i, score = one.example_id, None if score is None else round(score, 4)
        return Hit(rank, round(one.similarity, 4), i, sources[i].source, *turns(chats[i]), parts, score)

    return [
        [hit(rank, *told) for rank, told in enumerate(zip(best, parts, own, strict=True))]
        for best, parts, own in zip(near, layers, scores, strict=True)
    ]
