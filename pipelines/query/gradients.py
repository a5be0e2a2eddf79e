"""Gradients as a space: which pool rows have a gradient like this chat's, or like that row's?

The question is always a plain gradient, as a target's row is: of a chat that is asked about, or of a stored example,
taken from the store where it has one, else computed. It is compared with the pool's plain rows where the store keeps
them for the whole pool (`features.plain_rows`), else with the pool's own rows, as LESS compares a target with them. Two
rows of Adam's steps are never compared: momentum gives all of them a common part, and everything looks alike.

At `all` checkpoints, cosines are added with the weights of LESS, the checkpoints' mean learning rates over their sum.
Legend: Q questions, C checkpoints, D dims of a row, W = C·D.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, features, index_search, mapped
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import Point, is_plain, mean_lr, searched
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import Neighbour, Typical, best_of_pool, neighbours_combined, typical
from gradsift.datastore.store import Store
from gradsift.pipelines.query.spaces import Found, Kind, Near, part_note
from gradsift.scorers.less import checkpoint_weights

F32 = NDArray[np.float32]
At = int | Literal["all"] | None  # a checkpoint, all of them, or the last


@dataclass(frozen=True)
class Place(Point):
    """A point, and the weight of its cosines."""

    weight: float


@dataclass(frozen=True)
class Gradients:
    """Where a run's rows are searched: at which checkpoints, and the pool whose members are looked at (None: all)."""

    store: Store
    places: tuple[Place, ...]
    pool: int | None
    checkpoint: int | Literal["all"]
    index: str | None = None  # kind of the index that is asked, or `auto`; None for exact search
    by_model: bool = True  # whether the model is loaded for a row that the store does not keep
    note: str = ""  # of rows that a cascade left out
    name: Kind = "gradients"
    needs_answers: bool = True

    @property
    def rows(self) -> str:
        """The transform of the pool's rows."""
        return str(features.space_spec(self.store, self.places[0].space)["transform"])

    @property
    def plain(self) -> bool:
        """Whether the pool's rows are as a question is: of the same transform and loss."""
        return is_plain(self.store, self.places[0])

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids whose plain row the store has at every checkpoint, in their order."""
        stored = self._stored(ids)
        return [i for i in ids if i in stored]

    def of_ids(self, ids: Sequence[str]) -> F32:
        """[Q, W] unit rows of stored examples, at one checkpoint after the other. The model is loaded where the store
        has no plain row of one. Raises InputError where it may not be, and where it cannot compute it."""
        stored = self._stored(ids)
        lacking = [i for i in dict.fromkeys(ids) if i not in stored]
        if lacking:
            stored |= zip(lacking, self._computed(lacking), strict=True)
        return np.stack([stored[i] for i in ids])

    def of_chats(self, chats: Sequence[Messages]) -> F32:
        """[Q, W] unit rows of chats, computed by the model of the store's last run. Raises InputError for a chat that
        has no gradient, and where no model may be loaded; FeatureSpaceMismatch where it is not that of the rows any
        more."""
        if not self.by_model:
            raise InputError(
                "the gradient of a text takes the model, and none is loaded here; ask with a stored example"
            )
        from gradsift.pipelines.query.computed import rows_of

        return np.concatenate(rows_of(self.store, [place.space for place in self.places], chats), axis=1)

    def unit(self, questions: F32) -> F32:
        """[Q, W] questions of which the part of each checkpoint is of length 1."""
        by_place = np.asarray(questions, np.float64).reshape(len(questions), len(self.places), -1)
        lengths = np.linalg.norm(by_place, axis=2, keepdims=True)
        if not np.isfinite(lengths).all():
            raise InputError("a question has numbers that are not finite; leave it out")
        if not (lengths > 0).all():
            raise InputError("a question is all zeros, which point nowhere: the rows cancel each other out")
        return np.asarray((by_place / lengths).reshape(questions.shape), np.float32)

    def near(self, questions: F32, k: int, *, ids: Sequence[str] | None = None, opposed: bool = False) -> Found:
        """The k members of the pool (of these ids, if any) with the highest cosine to each of [Q, W] questions, or the
        lowest. Cost: that of `datastore.search.neighbours`."""
        parts = self._parts(questions, opposed)
        if self.index is None:
            spaces = [(place.space, place.weight) for place in self.places]

            def search(count: int, without: Sequence[str]) -> list[list[Neighbour]]:
                return neighbours_combined(self.store, spaces, parts, count, ids, without=without)

            near = best_of_pool(self.store, spaces[0][0], self.pool, k, search)
            return Found(_signed(near, opposed), note=self.note)
        if opposed or len(parts) > 1:
            raise InputError("an index is of the nearest rows at one checkpoint; ask anything else without --index")
        space, kind = self.places[0].space, self.index
        asked: list[index_search.Found] = []

        def by_index(count: int, without: Sequence[str]) -> list[list[Neighbour]]:
            asked.append(index_search.near(self.store, space, parts[0], count, ids, without=without, kind=kind))
            return asked[-1].neighbours

        near = best_of_pool(self.store, space, self.pool, k, by_index)
        return Found(_signed(near, opposed), asked[-1].index, asked[-1].recall, asked[-1].note or self.note)

    def typical(self, questions: F32, without: Sequence[Collection[str]]) -> list[Typical | None]:
        """Cosines of each of [Q, W] questions with random rows, but for the examples in its `without`."""
        spaces = [(place.space, place.weight) for place in self.places]
        return typical(self.store, spaces, self._parts(questions, opposed=False), self.pool, without)

    def by_module(self, question: F32, ids: Sequence[str]) -> list[dict[str, float]]:
        """For each of the ids {parameter: cosine of its part of the row with that of a question [W]}, where rows are by
        module (`features.projector.per_module`); {} each where they are not. A part of zeros is left out.

        Of rows of integers, one scale for all parts has rounded small ones: those of `row_dtype: f16` tell more.
        """
        names = features.modules_of(self.store, self.places[0].space)
        if not names:
            return [{} for _ in ids]
        total = np.zeros((len(ids), len(names)))
        for place, asked in zip(self.places, np.split(question, len(self.places)), strict=True):
            rows = mapped.units(self.store, place.space, ids)
            stacked = np.stack([rows[i] for i in ids]).reshape(len(ids), len(names), -1).astype(np.float64)
            parts = asked.reshape(len(names), -1).astype(np.float64)
            lengths = np.linalg.norm(stacked, axis=2) * np.linalg.norm(parts, axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                total += place.weight * np.einsum("kmd,md->km", stacked, parts) / lengths
        return [
            {name: round(float(value), 4) for name, value in zip(names, row, strict=True) if np.isfinite(value)}
            for row in total
        ]

    def _parts(self, questions: F32, opposed: bool) -> list[F32]:
        """[Q, D] for each checkpoint. Raises InputError for another width than that of the rows."""
        dim = mapped.open_rows(self.store, self.places[0].space).dim
        if questions.ndim != 2 or (dim and questions.shape[1] != dim * len(self.places)):
            raise InputError(
                f"questions of shape {questions.shape} do not fit rows of {dim} numbers at "
                f"{len(self.places)} checkpoint{'s' * (len(self.places) > 1)}"
            )
        sign = np.float32(-1 if opposed else 1)
        return [np.ascontiguousarray(sign * part) for part in np.split(questions, len(self.places), axis=1)]

    def _stored(self, ids: Sequence[str]) -> dict[str, F32]:
        """{example: its plain row [W]}, of a target's or of the pool where both are of the same loss."""
        parts = []
        for place in self.places:
            found: dict[str, F32] = {}
            for space in [place.space, place.asked] if self.plain else [place.asked]:
                found |= mapped.units(self.store, space, [i for i in ids if i not in found])
            parts.append(found)
        return {i: np.concatenate([part[i] for part in parts]) for i in ids if all(i in part for part in parts)}

    def _computed(self, ids: Sequence[str]) -> F32:
        missing = f"the store has no plain gradient of example {ids[0][:8]}"
        keep = "(`features.plain_rows: true` keeps them)"
        if not self.by_model:
            raise InputError(f"{missing}, and no model is loaded here {keep}")
        chats = examples.get_messages(self.store, ids)
        try:
            return self.of_chats([chats[i] for i in ids])
        except InputError as error:
            raise InputError(f"{missing}, and its model cannot compute it: {error} {keep}") from error


def open_gradients(
    store: Store,
    checkpoint: At = None,
    *,
    everything: bool = False,
    index: str | None = None,
    by_model: bool = True,
) -> Gradients:
    """The gradients of the store's last run, at a checkpoint, at `all`, or at the last. `everything`: rows that left
    the pool, too. Raises InputError for an unknown checkpoint, and where the run computed no gradients."""
    last = last_run(store)
    if checkpoint == "all" and last.result.pool_rows:
        ordinals: list[int | None] = [row.checkpoint for row in last.result.pool_rows]
    else:
        ordinals = [None if checkpoint == "all" else checkpoint]
    pool = None if everything else last.result.ingest.pool.used_dataset_id
    points = searched(store, last, ordinals, pool)
    weights = checkpoint_weights([mean_lr(store, p.space) for p in points]) if len(points) > 1 else [1.0]
    places = tuple(
        Place(p.space, p.asked, p.ordinal, weight) for p, weight in zip(points, weights, strict=True) if weight > 0
    )
    at: int | Literal["all"] = "all" if checkpoint == "all" else places[0].ordinal
    return Gradients(store, places, pool, at, index, by_model, part_note(last))


def _signed(found: Sequence[Sequence[Neighbour]], opposed: bool) -> list[list[Near]]:
    sign = -1.0 if opposed else 1.0
    return [[Near(n.example_id, sign * n.cosine) for n in best] for best in found]
