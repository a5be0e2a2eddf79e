"""Stored rows as a space: what embeddings and rows of a sentence encoder have in common.

A question of a stored example is its row; that of a chat is computed as rows were (`compute`). Rows are compared by
cosine, exactly (`datastore/search.py`). Legend: Q questions, W numbers of one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, mapped
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.mapped import Column
from gradsift.datastore.search import Neighbour, Typical, best_of_pool, neighbours, typical
from gradsift.datastore.store import Store
from gradsift.pipelines.query.spaces import Found, Kind, Near

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class StoredRows:
    """Rows of one feature space, or the column beside them; `asked`: other spaces that have rows of stored examples to
    ask with; `pool`: whose members are answers (None: all rows); `compute`: [Q, W] unit rows of chats."""

    store: Store
    name: Kind
    rows: str
    space: int
    asked: tuple[int, ...]
    pool: int | None
    checkpoint: int | None
    compute: Callable[[Sequence[Messages]], F32]
    column: Column = "vector"
    needs_answers: bool = False
    note: str = ""  # of rows that are not there

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have a stored row, in their order."""
        stored = self._stored(ids)
        return [i for i in ids if i in stored]

    def of_ids(self, ids: Sequence[str]) -> F32:
        """[Q, W] unit rows of stored examples; computed where the store has none of one. Raises InputError where that
        cannot be."""
        stored = self._stored(ids)
        lacking = [i for i in dict.fromkeys(ids) if i not in stored]
        if lacking:
            chats = chats_of(self.store, lacking)
            try:
                stored |= zip(lacking, self.compute(chats), strict=True)
            except InputError as error:
                raise InputError(f"the store has no {self.name} row of example {lacking[0][:8]}: {error}") from error
        return np.stack([stored[i] for i in ids])

    def of_chats(self, chats: Sequence[Messages]) -> F32:
        """[Q, W] unit rows of chats, with or without answers; loads a model. Raises InputError, FeatureSpaceMismatch
        where that is not the one of the stored rows any more."""
        return self.compute(chats)

    def unit(self, questions: F32) -> F32:
        """[Q, W] questions of length 1."""
        return unit(questions)

    def near(self, questions: F32, k: int, *, ids: Sequence[str] | None = None, opposed: bool = False) -> Found:
        """The k members of the pool (of these ids, if any) with the highest cosine to each question, or the lowest.
        Cost: that of `datastore.search.neighbours`."""
        sign = np.float32(-1 if opposed else 1)
        signed = np.ascontiguousarray(sign * questions)

        def search(count: int, without: Sequence[str]) -> list[list[Neighbour]]:
            return neighbours(self.store, self.space, signed, count, ids, without=without, column=self.column)

        found = best_of_pool(self.store, self.space, self.pool, k, search)
        return Found([[Near(n.example_id, float(sign) * n.cosine) for n in best] for best in found], note=self.note)

    def typical(self, questions: F32, without: Sequence[Collection[str]]) -> list[Typical | None]:
        """Cosines of each of [Q, W] questions with random rows, but for the examples in its `without`."""
        return typical(self.store, [(self.space, 1.0)], [questions], self.pool, without, self.column)

    def _stored(self, ids: Sequence[str]) -> dict[str, F32]:
        found: dict[str, F32] = {}
        for space in dict.fromkeys((self.space, *self.asked)):
            rows = mapped.units(self.store, space, [i for i in ids if i not in found], self.column)
            found |= {i: row for i, row in rows.items() if row.any()}
        return found


def chats_of(store: Store, ids: Sequence[str]) -> list[Messages]:
    """The chats of stored examples. Raises InputError naming one that is not there."""
    chats = examples.get_messages(store, ids)
    if gone := [i for i in ids if i not in chats]:
        raise InputError(f"example {gone[0][:8]} is not in the store any more")
    return [chats[i] for i in ids]


def unit(questions: F32) -> F32:
    """[Q, W] questions of length 1. Raises InputError for one of zeros, and for numbers that are not finite."""
    lengths = np.linalg.norm(np.asarray(questions, np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise InputError("a question has numbers that are not finite; leave it out")
    if not (lengths > 0).all():
        raise InputError("a question is all zeros, which point nowhere: the rows cancel each other out")
    return np.asarray(questions / lengths, np.float32)
