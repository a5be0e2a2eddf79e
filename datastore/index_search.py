"""Nearest neighbours by an index: candidates from FAISS, cosines from the rows themselves, new rows searched exactly.

An index decides only which rows are looked at. What is answered are cosines of the stored rows, of examples that the
catalog has, and never fewer than k where there are k. Legend: N rows, Q questions, D dims, M candidates of a question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import ann, indexes, mapped
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.indexes import ADVICE, Index
from gradsift.datastore.mapped import Rows
from gradsift.datastore.search import Neighbour, merge, neighbours
from gradsift.datastore.store import Store

AUTO = "auto"
OVERFETCH = 4  # candidates for each row that is wanted
LEAST = 32  # candidates of a question at least
GOOD = 0.95  # recall that `auto` asks of an index
SELECTIVE = 0.5  # a filter that keeps a smaller share of the rows is answered exactly
AT_ONCE = 256  # candidates that are copied for their cosines
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Neighbours of each question, best first, and how they were found: by which kind of index ('' is exact search),
    its recall as it was measured, and what else there is to say."""

    neighbours: list[list[Neighbour]]
    index: str = ""
    recall: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Opened:
    """An index ready to be asked: FAISS's, and the rows that it holds, in its order."""

    faiss: Any
    kind: ann.Kind
    rows: Rows
    shards: list[int]  # numbers of the shards that they are of

    def ask(self, questions: F32, count: int, effort: int) -> tuple[I64, I64]:
        """Candidates of all questions, at most `count` of each: [M] which question, [M] number of the row."""
        found = ann.candidates(self.faiss, self.kind, questions, count, effort)
        of, place = np.nonzero(found >= 0)
        return of, found[of, place]

    def cosines(self, of: I64, numbers: I64, questions: F32) -> F64:
        """[M] cosines of rows with the questions that they are candidates of, the very numbers of exact search."""
        spans = [slice(start, start + AT_ONCE) for start in range(0, len(of), AT_ONCE)]
        parts = [self.rows.cosines(numbers[span], questions[of[span]], exact=True) for span in spans]
        return np.concatenate([np.zeros(0), *parts])


def rows_of(store: Store, space_id: int, shards: Sequence[int]) -> Rows:
    """The rows of shards of a space in the order of these, mapped."""
    rows = mapped.open_rows(store, space_id, shards)
    order = {shard: place for place, shard in enumerate(shards)}
    parts = sorted(rows.parts, key=lambda part: (order[part.shard_id], part.first))
    return Rows(tuple(parts), np.cumsum([0, *map(len, parts)]))


def open_index(store: Store, index: Index) -> tuple[Opened, list[int]]:
    """An index ready to be asked, kept for the next question, and the numbers of the shards that it does not hold.

    Raises InputError where it is stale, CorruptionError where its file is damaged.
    """
    held, new = indexes.placed(store, index)
    known: dict[str, Opened] = mapped.beside(store)
    opened = known.get(index.name)
    if opened is None or opened.shards != held:  # shards that were merged have other numbers, and their rows others
        rows = rows_of(store, index.space_id, held)
        if len(rows) != index.rows:
            raise CorruptionError(f"the {index.kind} index has {index.rows} rows, its shards {len(rows)}. {ADVICE}")
        faiss = indexes.read(store, index, rows.dim) if opened is None else opened.faiss
        opened = known[index.name] = Opened(faiss, index.kind, rows, held)
    return opened, [shard.shard_id for shard in new]


def near(
    store: Store,
    space_id: int,
    questions: F32,
    k: int,
    ids: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    kind: str = AUTO,
) -> Found:
    """The k rows of a space (of the given ids, if any; without some) that are nearest to each of [Q, D] unit questions,
    by an index.

    `kind`: which index; `auto` takes the fastest that finds 95 % and is not stale, and searches exactly where there is
    none. Rows that came since the index was built are searched exactly. Exact search answers, and `Found.note` says so,
    where fewer than half of its rows are looked at; and, in silence, questions of which the index gives fewer than k.
    Raises InputError for a kind that there is not, or a stale index, CorruptionError for a damaged one.
    """

    def exactly(which: slice | list[int], shards: Sequence[int] | None = None) -> list[list[Neighbour]]:
        return neighbours(store, space_id, questions[which], k, ids, without=without, shards=shards)

    mapped.let_go(store)
    index, note = _choose(store, space_id, kind)
    only, but = None if ids is None else set(ids), set(without)
    if index is not None and _left(index, only, but) < SELECTIVE * index.rows:
        index, note = None, "the rows that are looked at are fewer than half of the index's: searched exactly"
    if index is None:
        return Found(exactly(slice(None)), note=note)
    opened, new = open_index(store, index)
    factor = ceil(index.rows / _left(index, only, but))
    wanted = None if only is None and not but else lambda name: (only is None or name in only) and name not in but
    answers = search(store, space_id, opened, questions, k, effort_for(index, k), wanted, factor)
    if too_few := [place for place, answer in enumerate(answers) if len(answer) < k]:
        for place, answer in zip(too_few, exactly(too_few, opened.shards), strict=True):
            answers[place] = answer
    if new:
        answers = [merge(pair, k) for pair in zip(answers, exactly(slice(None), new), strict=True)]
        rows = len(mapped.open_rows(store, space_id, new))
        note = f"{rows:,} rows came since the index was built: searched exactly"
    return Found(answers, index.kind, index.measured.recall, note)


def effort_for(index: Index, k: int) -> int:
    """How far to look for k rows: the effort was tuned for `measured.k` and one more. Lists grow with the root of k,
    and hold the candidates, unless a caller has decided them; a graph keeps at least its candidates anyway."""
    tuned = index.measured.effort
    if index.kind not in ann.IVF or index.plan.effort is not None:
        return tuned
    growth = k / (index.measured.k + 1)
    if growth <= 1:
        return tuned
    candidates = ceil(OVERFETCH * k * index.plan.lists / index.rows)  # lists that hold as many, of lists alike
    return min(index.plan.lists, max(ceil(tuned * sqrt(growth)), candidates))


def _left(index: Index, only: set[str] | None, but: set[str]) -> int:
    """How many of its rows may be answers, about."""
    return (index.rows if only is None else len(only)) - len(but)


def _choose(store: Store, space_id: int, kind: str) -> tuple[Index | None, str]:
    """The index that is asked, or None, and what there is to say."""
    if kind == AUTO:
        known = indexes.all_of(store, space_id)
        good = [index for index in known if index.measured.recall >= GOOD]
        usable = [index for index in good if indexes.state(store, index) != "stale"]
        if usable:
            return max(usable, key=lambda index: index.measured.speedup), ""
        why = "there is no index over these rows (`gradsift index build`)"
        if known:
            why = "no index here finds 95 % of the nearest rows"
        if good:
            why = "the index is stale (`gradsift index refresh`)"
        return None, f"{why}: searched exactly"
    index = indexes.get(store, space_id, kind)
    if index is None:
        raise InputError(f"there is no {kind} index over these rows; build one: gradsift index build --kind {kind}")
    return index, ""


def search(
    store: Store,
    space_id: int,
    opened: Opened,
    questions: F32,
    k: int,
    effort: int,
    wanted: Callable[[str], bool] | None = None,
    factor: int = 1,
) -> list[list[Neighbour]]:
    """At most k neighbours of each question among the candidates of an index, `factor` times as many as usual. Raises
    InputError for questions of another width."""
    rows = opened.rows
    if questions.ndim != 2 or questions.shape[1] != rows.dim:
        raise InputError(f"questions of shape {questions.shape} do not fit rows of {rows.dim} numbers")
    if k < 1 or not len(questions):
        return [[] for _ in questions]
    of, numbers = opened.ask(questions, min(len(rows), factor * max(OVERFETCH * k, LEAST)), effort)
    if wanted is not None:
        of, numbers = _only(of, numbers, np.array([wanted(name) for name in rows.ids(numbers)], bool))
    cosines = opened.cosines(of, numbers, questions)
    while True:
        best = _best(of, cosines, k)
        some = np.unique(numbers[best])
        gone = some[~mapped.listed(store, space_id, rows, some)]
        if not len(gone):  # mostly at once: rows whose example left are few
            break
        of, numbers, cosines = _only(of, numbers, ~np.isin(numbers, gone), cosines)
    names = dict(zip(some.tolist(), rows.ids(some), strict=True))
    answers: list[list[Neighbour]] = [[] for _ in questions]
    for question, number, cosine in zip(of[best].tolist(), numbers[best].tolist(), cosines[best].tolist(), strict=True):
        answers[question].append(Neighbour(names[number], cosine))
    return [merge([answer], k) for answer in answers]


def _only(of: I64, numbers: I64, keep: NDArray[np.bool_], *more: F64) -> tuple[Any, ...]:
    return tuple(column[keep] for column in (of, numbers, *more))


def _best(of: I64, cosines: F64, k: int) -> I64:
    """Which candidates are among the k best of their question, with those as near as the last of them."""
    order = np.lexsort((-cosines, of))
    asked = of[order]
    start = np.searchsorted(asked, asked)  # where the candidates of each one's question begin
    last = np.minimum(start + k, np.searchsorted(asked, asked, side="right")) - 1
    best: I64 = order[cosines[order] >= cosines[order[last]]]
    return best
