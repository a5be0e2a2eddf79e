"""Nearest neighbours by an index: candidates from FAISS, cosines from the rows themselves, new rows searched exactly.

An index decides only which rows are looked at. What is answered are cosines of the stored rows, of examples that the
catalog has, and never fewer than k where there are k. Legend: N rows, Q questions, D dims, M candidates of a question.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import ann, features, indexes
from gradsift.datastore.engine import marks
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.indexes import Index
from gradsift.datastore.rows import unpack_int4
from gradsift.datastore.search import Neighbour, neighbours
from gradsift.datastore.store import Store

AUTO = "auto"
OVERFETCH = 4  # candidates for each row that is wanted
LEAST = 32  # candidates of a question at least
GOOD = 0.95  # recall that `auto` asks of an index
SELECTIVE = 0.5  # a filter that keeps a smaller share of the rows is answered exactly
ASKED_AT_ONCE = 500  # ids in one statement
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """Neighbours of each question, best first, and how they were found: by which kind of index ('' is exact search),
    its recall as it was measured, and what else there is to say."""

    neighbours: list[list[Neighbour]]
    index: str = ""
    recall: float | None = None
    note: str = ""


@dataclass(frozen=True)
class MappedRows:
    """Rows of a record batch of a shard as they lie in its file; ids are not decoded."""

    ids: pa.Array
    vectors: NDArray[Any]  # [n, D] int8 or float16, or [n, D/2] uint8 for int4
    scale: F32  # [n]

    def __len__(self) -> int:
        return len(self.scale)

    @property
    def dims(self) -> int:
        """D."""
        return int(self.vectors.shape[1]) * (2 if self.vectors.dtype == np.uint8 else 1)

    def unit(self, rows: NDArray[np.int64] | slice) -> F32:
        """[m, D] unit rows at these positions."""
        kept = self.vectors[rows]
        numbers = unpack_int4(kept) if kept.dtype == np.uint8 else kept
        return np.asarray(numbers.astype(np.float32) * self.scale[rows, None], np.float32)


@dataclass(frozen=True)
class Opened:
    """An index ready to be asked: FAISS's, and the rows that it holds, in its order."""

    faiss: Any
    kind: ann.Kind
    parts: list[MappedRows]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[parts + 1] position of each part's first row, and the number of all rows."""
        return np.cumsum([0, *(len(part) for part in self.parts)], dtype=np.int64)

    def ask(self, questions: F32, count: int, effort: int) -> NDArray[np.int64]:
        """[Q, count] positions of candidates, −1 where there are no more."""
        return ann.candidates(self.faiss, self.kind, questions, count, effort)

    def cosines(self, positions: NDArray[np.int64], question: F32) -> tuple[list[str], NDArray[np.float64]]:
        """Ids of the rows at [M] positions and their cosines with a question [D], as exact search has them."""
        ids: list[str] = []
        cosines = [np.zeros(0)]
        ordered = np.sort(positions[positions >= 0])
        owner = np.searchsorted(self.starts, ordered, side="right") - 1
        for place in np.unique(owner):
            part, rows = self.parts[place], ordered[owner == place] - self.starts[place]
            ids += part.ids.take(pa.array(rows)).to_pylist()
            cosines.append((part.unit(rows) @ question).astype(np.float64))
        return ids, np.concatenate(cosines)


def map_rows(store: Store, space_id: int, shards: Sequence[int]) -> list[MappedRows]:
    """The rows of shards of a space, digests checked on first use, nothing copied. Raises CorruptionError."""
    space = fingerprint(features.space_spec(store, space_id))
    parts = []
    for shard_id in shards:
        with store.map(shard_id) as source:
            file = pa.ipc.open_file(source)
            batches = [file.get_batch(k) for k in range(file.num_record_batches)]
        recorded = (file.schema.metadata or {}).get(b"gradsift.space", b"").decode()
        if recorded != space:
            raise CorruptionError(f"shard {shard_id} holds rows of space {recorded[:12]}, not {space[:12]}")
        for batch in batches:
            vector = batch["vector"]
            flat = vector.flatten().to_numpy(zero_copy_only=False).reshape(-1, vector.type.list_size)
            parts.append(MappedRows(batch["example_id"], flat, batch["scale"].to_numpy()))
    return parts


_OPENED: WeakKeyDictionary[Store, dict[str, Opened]] = WeakKeyDictionary()


def open_index(store: Store, index: Index) -> tuple[Opened, list[int]]:
    """An index ready to be asked, kept for the next question, and the numbers of the shards that it does not hold.

    Raises InputError where it is stale, CorruptionError where its file is damaged.
    """
    held, new = indexes.placed(store, index)
    known = _OPENED.setdefault(store, {})
    if index.name not in known:
        parts = map_rows(store, index.space_id, held)
        known[index.name] = Opened(indexes.read(store, index, parts[0].dims), index.kind, parts)
        for name in set(known) - indexes.names(store):
            del known[name]
    return known[index.name], [shard.shard_id for shard in new]


def near(
    store: Store,
    space_id: int,
    questions: F32,
    k: int,
    ids: Collection[str] | None = None,
    kind: str = AUTO,
) -> Found:
    """The k rows of a space (of the given ids, if any) that are nearest to each of [Q, D] unit questions, by an index.

    `kind`: which index; `auto` takes the fastest that finds 95 % and is not stale, and searches exactly where there is
    none. Rows that came since the index was built are searched exactly. Exact search answers, and `Found.note` says so,
    where `ids` are fewer than half of its rows; and, in silence, questions of which the index gives fewer than k.
    Raises InputError for a kind that there is not, or a stale index, CorruptionError for a damaged one.
    """
    index, note = _choose(store, space_id, kind)
    if index is None:
        return Found(neighbours(store, space_id, questions, k, _listed(ids)), note=note)
    wanted = None if ids is None else set(ids)
    if wanted is not None and len(wanted) < SELECTIVE * index.rows:
        note = "the rows that are looked at are fewer than half of the index's: searched exactly"
        return Found(neighbours(store, space_id, questions, k, _listed(ids)), note=note)
    opened, new = open_index(store, index)
    effort = index.measured.effort
    factor = 1 if wanted is None else ceil(index.rows / max(1, len(wanted)))
    answers = search(store, space_id, opened, questions, k, effort, wanted, factor)
    for place in [number for number, answer in enumerate(answers) if len(answer) < k]:
        answers[place] = _exactly(store, space_id, opened.parts, questions[place], k, wanted)
    if new:
        mapped = map_rows(store, space_id, new)
        for place, question in enumerate(questions):
            answers[place] = merge([answers[place], _exactly(store, space_id, mapped, question, k, wanted)], k)
        note = f"{sum(map(len, mapped)):,} rows came since the index was built: searched exactly"
    return Found(answers, index.kind, index.measured.recall, note)


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
    wanted: Collection[str] | None = None,
    factor: int = 1,
) -> list[list[Neighbour]]:
    """At most k neighbours of each question among the candidates of an index, `factor` times as many as usual."""
    rows = int(opened.starts[-1])
    count = min(rows, factor * max(OVERFETCH * k, LEAST))
    positions = opened.ask(questions, count, effort)
    answers = []
    for question, row in zip(questions, positions, strict=True):
        ids, cosines = opened.cosines(row, question)
        answers.append(_best(store, space_id, ids, cosines, k, wanted))
    return answers


def _best(
    store: Store,
    space_id: int,
    ids: Sequence[str],
    cosines: NDArray[np.float64],
    k: int,
    wanted: Collection[str] | None,
) -> list[Neighbour]:
    """The k best of candidates that are wanted and that the catalog has; ties go to the smaller id."""
    candidates = [Neighbour(name, float(c)) for name, c in zip(ids, cosines, strict=True)]
    ordered = merge([[n for n in candidates if wanted is None or n.example_id in wanted]], len(candidates))
    best: list[Neighbour] = []
    step = max(k, 1)
    for start in range(0, len(ordered), step):  # mostly one: rows of which the example left are few
        part = ordered[start : start + step]
        live = _live(store, space_id, [neighbour.example_id for neighbour in part])
        best += [neighbour for neighbour in part if neighbour.example_id in live]
        if len(best) >= k:
            break
    return best[:k]


def _live(store: Store, space_id: int, ids: Sequence[str]) -> set[str]:
    """Those of the ids that have a row in the space: a shard may hold rows whose examples were dropped."""
    live: set[str] = set()
    for start in range(0, len(ids), ASKED_AT_ONCE):
        part = ids[start : start + ASKED_AT_ONCE]
        rows = store.catalog.rows(
            f"SELECT example_id FROM feature_row WHERE space_id=? AND status='ok' AND example_id IN ({marks(part)})",
            (space_id, *part),
        )
        live.update(str(row["example_id"]) for row in rows)
    return live


def _exactly(
    store: Store, space_id: int, parts: Sequence[MappedRows], question: F32, k: int, wanted: Collection[str] | None
) -> list[Neighbour]:  # fmt: skip
    """The k best of some rows, all of them looked at."""
    found: list[list[Neighbour]] = []
    for part in parts:
        cosines = (part.unit(slice(None)) @ question).astype(np.float64)
        found.append(_best(store, space_id, part.ids.to_pylist(), cosines, k, wanted))
    return merge(found, k)


def merge(lists: Sequence[Sequence[Neighbour]], k: int) -> list[Neighbour]:
    """The k best of several lists; ties go to the smaller id."""
    joined = [neighbour for one in lists for neighbour in one]
    return sorted(joined, key=lambda neighbour: (-neighbour.cosine, neighbour.example_id))[:k]


def _listed(ids: Collection[str] | None) -> list[str] | None:
    return None if ids is None else list(ids)
