"""Two selections side by side: what both have, what only one has, and which rows moved most."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.datastore.store import Store
from gradsift.pipelines.export.diff import TEXT_CHARS, Difference, Side, between, same_words, stored_side
from gradsift.pipelines.tables import first_turn

SHOWN = 10


@dataclass(frozen=True)
class Move:
    """An example that both sides have, with its rank from 0 and its score on each."""

    example_id: str
    source: str | None
    rank_a: int
    rank_b: int
    score_a: float | None
    score_b: float | None
    user: str

    @property
    def up(self) -> int:
        """Places that it is nearer to the top in b."""
        return self.rank_a - self.rank_b


@dataclass(frozen=True)
class SourceShift:
    """Rows of a source on each side, and their shares of all rows there."""

    source: str
    a: int
    b: int
    share_a: float
    share_b: float


@dataclass(frozen=True)
class Comparison:
    """Two sides of a store compared. `jaccard` is the share of all examples of both that both have; `moves` are those
    whose rank changed most, and none where a side has no order: a pool, and a selection without scores."""

    difference: Difference
    jaccard: float
    sources: Sequence[SourceShift]
    moves: Sequence[Move]


def compare(store: Store, one: str, other: str, shown: int = SHOWN) -> Comparison:
    """Compare two selections, mixtures or versions of a store by name. Raises InputError for a name that is none: it is
    never taken for a path. Memory: the ids and facts of both sides."""
    a, b = stored_side(store, one), stored_side(store, other)
    found = between(a, b, shown, same_words(store, one, other) if a.digest == b.digest else "")
    every = found.in_both + found.only_a + found.only_b
    return Comparison(found, found.in_both / every if every else 1.0, _sources(a, b), _moves(a, b, shown))


def _ordered(side: Side) -> bool:
    """Whether the order of a side says anything: of what was picked by hand, without scores, it is that of ids."""
    return side.ranked and any(of.score is not None for of in side.facts.values())


def _sources(a: Side, b: Side) -> list[SourceShift]:
    counts: dict[str, list[int]] = {}
    for at, side in enumerate((a, b)):
        for example, copies in side.copies.items():
            counts.setdefault(side.facts[example].source or "unknown", [0, 0])[at] += copies
    all_a, all_b = (max(1, sum(side.copies.values())) for side in (a, b))
    shifts = [SourceShift(source, x, y, x / all_a, y / all_b) for source, (x, y) in counts.items()]
    return sorted(shifts, key=lambda shift: (-max(shift.share_a, shift.share_b), shift.source))


def _moves(a: Side, b: Side, shown: int) -> list[Move]:
    if not (_ordered(a) and _ordered(b)):
        return []
    rank_a, rank_b = (dict(zip(side.copies, range(len(side.copies)), strict=True)) for side in (a, b))
    moved = [i for i in rank_a.keys() & rank_b.keys() if rank_a[i] != rank_b[i]]
    first = sorted(moved, key=lambda i: (-abs(rank_a[i] - rank_b[i]), i))[:shown]
    chats = a.chats(first)
    return [
        Move(
            i,
            a.facts[i].source,
            rank_a[i],
            rank_b[i],
            a.facts[i].score,
            b.facts[i].score,
            first_turn(chats.get(i, []), "user", TEXT_CHARS),
        )
        for i in first
    ]
