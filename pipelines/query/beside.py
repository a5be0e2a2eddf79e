"""The neighbours of an example in every space, side by side: which are near by all of them, and which by one alone.

A space whose first rows another space does not know among its own first ones sees something that the other does not:
the words of a row say what it is about, its gradient what it would teach.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from gradsift.datastore import examples
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.query.gradients import At
from gradsift.pipelines.query.opening import open_space
from gradsift.pipelines.query.passes import computed_run
from gradsift.pipelines.query.spaces import Kind, Near
from gradsift.pipelines.tables import first_turn

DEPTH = 100  # rows of each space among which a neighbour is looked for, at most
SHARE = 20  # of the pool one in so many: all of a small pool would be near by every measure
NO_OPPOSITE = "words have no opposite: every row that shares none has a similarity of 0"
TEXT_CHARS = 200


@dataclass(frozen=True)
class Neighbour:
    """A row near an example by one space. `ranks` are its ranks, from 0, by the others that were searched: None where
    it is not among their first `depth`."""

    rank: int
    similarity: float
    example_id: str
    source: str
    user: str
    assistant: str
    ranks: Mapping[Kind, int | None]

    @property
    def everywhere(self) -> bool:
        """Whether every other space has it among its first ones, too; False where there is no other."""
        return bool(self.ranks) and None not in self.ranks.values()

    @property
    def alone(self) -> bool:
        """Whether no other space has it among its first ones; False where there is no other."""
        return bool(self.ranks) and set(self.ranks.values()) == {None}


@dataclass(frozen=True)
class Column:
    """What one space says. `rows` are what its rows are; `lacking` says why it says nothing, and what would help."""

    space: Kind
    near: Sequence[Neighbour] = ()
    rows: str = ""
    typical: float | None = None  # similarity of the middle one of random rows
    lacking: str = ""

    @property
    def sources(self) -> Mapping[str, int]:
        """{source: how many of the neighbours}, the most first."""
        return dict(Counter(one.source for one in self.near).most_common())


@dataclass(frozen=True)
class Beside:
    """The neighbours of an example by each space, nearest first, or with `opposed` farthest first. A rank is known
    among the first `depth` rows of a space."""

    example_id: str
    source: str
    user: str
    opposed: bool
    depth: int
    columns: Sequence[Column]


def beside(store: Store, example_id: str, k: int = 10, *, opposed: bool = False, checkpoint: At = None) -> Beside:
    """The k neighbours of a stored example by each space of the last run. No model is loaded: a space for which one
    would have to be says so. Raises InputError for an example that is not there.

    Cost: an exact search in each space.
    """
    run = computed_run(store)
    depth = max(k, min(DEPTH, run.result.ingest.pool.left // SHARE)) if run is not None else k
    searched = {kind: _search(store, kind, example_id, depth, opposed, checkpoint) for kind in get_args(Kind)}
    ranks = {
        kind: {one.example_id: rank for rank, one in enumerate(column.near)}
        for kind, column in searched.items()
        if not column.lacking
    }
    ids = sorted({example_id, *(one.example_id for column in searched.values() for one in column.near[:k])})
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)

    if example_id not in chats or example_id not in sources:
        raise InputError(f"example {example_id} is not in the store any more")

    def whole(kind: Kind, near: Sequence[Near]) -> Iterator[Neighbour]:
        for rank, one in enumerate(near[:k]):
            if one.example_id in chats and one.example_id in sources:  # else it was deleted meanwhile
                yield Neighbour(
                    rank,
                    one.similarity,
                    one.example_id,
                    sources[one.example_id].source,
                    first_turn(chats[one.example_id], "user", TEXT_CHARS),
                    first_turn(chats[one.example_id], "assistant", TEXT_CHARS),
                    {other: found.get(one.example_id) for other, found in ranks.items() if other != kind},
                )

    columns = [
        Column(kind, list(whole(kind, found.near)), found.rows, found.typical, found.lacking)
        for kind, found in searched.items()
    ]
    asked = sources[example_id].source, first_turn(chats[example_id], "user", TEXT_CHARS)
    return Beside(example_id, *asked, opposed, depth, columns)


@dataclass(frozen=True)
class _Found:
    near: Sequence[Near] = ()
    rows: str = ""
    typical: float | None = None
    lacking: str = ""


def _search(store: Store, kind: Kind, example_id: str, depth: int, opposed: bool, checkpoint: At) -> _Found:
    """The first rows of a space, without the example itself; of words, those that share any."""
    if kind == "bm25" and opposed:
        return _Found(lacking=NO_OPPOSITE)
    try:
        space = open_space(store, kind, _checkpoint_of(kind, checkpoint), by_model=False)
        question = space.of_ids([example_id])
        found = space.near(question, depth + 1, opposed=opposed)
        (usual,) = space.typical(question, [(example_id,)])
    except GradsiftError as error:  # also of a damaged file: that is no reason to be silent about other spaces
        return _Found(lacking=str(error))
    near = [one for one in found.near[0] if one.example_id != example_id][:depth]
    if kind == "bm25":
        near = [one for one in near if one.similarity > 0]
    return _Found(near, space.rows, None if usual is None else usual.median)


def _checkpoint_of(kind: Kind, checkpoint: At) -> At:
    """The checkpoint that a space is asked at: only the model's rows have one, and only gradients all together."""
    if kind == "gradients":
        return checkpoint
    return checkpoint if kind == "embedding" and checkpoint != "all" else None
