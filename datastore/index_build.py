"""Building search indexes: from the shards of a space, in bounded memory, and measured against exact search.

Memory: the index itself (`ann.bytes_of`) and a block of rows; a sample for the training, of at most SAMPLE_BYTES or a
row for each list, and the lists' centres. The same shards, settings and seed make the same index. A caller that holds
the store for something else (a repair) calls `rebuild`; `build` and `refresh` take it for themselves.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from statistics import median
from typing import Any

import numpy as np

from gradsift.datastore import ann, features, forget, indexes, leases, mapped
from gradsift.datastore.ann import Kind, Plan
from gradsift.datastore.errors import BusyError, CorruptionError, FeatureSpaceMismatch, InputError
from gradsift.datastore.free import free_bytes
from gradsift.datastore.index_search import F32, Opened, rows_of, search
from gradsift.datastore.indexes import Index, Measured, Shard
from gradsift.datastore.mapped import Rows
from gradsift.datastore.search import merge, neighbours
from gradsift.datastore.store import Store

NEAREST = 10  # recall@10
AIM = 0.97  # recall of the questions that tune; those that measure may come out a little lower
QUESTIONS = 200  # half of them tune, half measure
FEW = 20  # rows of targets that are too few to measure by
TIMED = 20  # questions that are timed one by one
BLOCK_ROWS = 4096
SAMPLE_EACH = 64  # rows of the training sample for each list
SAMPLE_BYTES = 256 << 20
CENTRES = 2  # copies of the lists' centres while FAISS trains: its k-means' and the index's
SAME = 1e-6  # cosines that differ by less are a tie
Report = Callable[[str, int, int], None]


def _silent(_what: str, _done: int, _all: int) -> None:
    pass


@dataclass(frozen=True)
class Wish:
    """What a caller may decide: 0 lists and no effort are for `build` to choose."""

    kind: Kind = "ivf_sq8"
    lists: int = 0
    effort: int | None = None
    seed: int = 0


DEFAULT = Wish()


def build(store: Store, space_id: int, wish: Wish = DEFAULT, report: Report = _silent) -> Index:
    """Build the index of a kind over a space, in the place of an older one, and measure it.

    Raises InputError for a space without rows, a wish that makes no sense or an index that memory does not hold,
    BusyError while something else changes the store.
    """
    with leases.alone(store, "build the index"):
        return rebuild(store, space_id, wish, report)


def rebuild(store: Store, space_id: int, wish: Wish, report: Report = _silent) -> Index:
    """As `build`, for a caller that holds the store."""
    _check(wish)
    _require_no_deletion(store)
    shards = indexes.shards_of(store.catalog, space_id)
    if not shards:
        raise InputError(f"feature space {space_id} has no rows to index; run the recipe first")
    rows = rows_of(store, space_id, [shard.shard_id for shard in shards])
    lists = min(len(rows), wish.lists or max(1, 2 * isqrt(len(rows)))) if wish.kind in ann.IVF else 0
    sampled = max(SAMPLE_BYTES, 4 * rows.dim * _sample_size(rows, lists))
    _check_memory(wish.kind, len(rows), rows.dim, sampled + CENTRES * 4 * rows.dim * lists)
    sample = _sample(rows, lists, wish.seed)
    report(f"training {wish.kind}", 0, 1)
    plan = Plan(wish.kind, lists, len(sample), wish.seed, wish.lists, wish.effort)
    made = ann.make(plan, rows.dim, sample)
    report(f"training {wish.kind}", 1, 1)
    del sample
    _add(made, wish.kind, rows, 0, report)
    return _finish(store, space_id, made, plan, shards, rows)


def refresh(store: Store, index: Index, report: Report = _silent) -> Index:
    """Make an index hold the rows of its space again: itself where it does, with the new shards' rows added to it where
    some came, built again where one of its shards has left or its file is damaged. Measured again, if changed."""
    with leases.alone(store, "refresh the index"):
        return refreshed(store, index, report)


def refreshed(store: Store, index: Index, report: Report = _silent) -> Index:
    """As `refresh`, for a caller that holds the store."""
    _require_no_deletion(store)
    again = Wish(index.kind, index.plan.wished, index.plan.effort, index.plan.seed)
    try:
        held, new = indexes.placed(store, index)
        made = indexes.read(store, index, rows_of(store, index.space_id, held[:1]).dim)
    except (InputError, CorruptionError):
        return rebuild(store, index.space_id, again, report)
    if not new:
        return index
    known = {shard.shard_id: shard for shard in indexes.shards_of(store.catalog, index.space_id)}
    shards = [*(known[number] for number in held), *new]
    rows = rows_of(store, index.space_id, [shard.shard_id for shard in shards])
    _check_memory(index.kind, len(rows) - index.rows, rows.dim, 0)
    _add(made, index.kind, rows, index.rows, report)
    return _finish(store, index.space_id, made, index.plan, shards, rows)


def _check(wish: Wish) -> None:
    if wish.lists < 0 or (wish.effort is not None and wish.effort < 1):
        raise InputError("lists and probes of an index must be at least 1; leave them out, and they are chosen")
    if wish.lists and wish.kind not in ann.IVF:
        raise InputError(f"a {wish.kind} index has no lists; {' and '.join(ann.IVF)} have")


def _require_no_deletion(store: Store) -> None:
    """Shards may still hold rows of examples that are being deleted: no index is to hold them again."""
    if forget.pending(store):
        raise BusyError("a deletion was interrupted and its rows are still in files; `gradsift delete` finishes it")


def _finish(store: Store, space_id: int, made: Any, plan: Plan, shards: Sequence[Shard], rows: Rows) -> Index:
    measured = measure(store, space_id, Opened(made, plan.kind, rows, [shard.shard_id for shard in shards]), plan)
    return indexes.commit(store, space_id, lambda handle: ann.write(made, handle), plan, measured, shards)


def _add(made: Any, kind: Kind, rows: Rows, first: int, report: Report) -> None:
    """Add the rows from number `first` on, a block at a time."""
    for start in range(first, len(rows), BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, len(rows))
        ann.add(made, kind, rows.unit(np.arange(start, end)))
        report(f"adding rows to {kind}", end - first, len(rows) - first)


def _sample(rows: Rows, lists: int, seed: int) -> F32:
    """[n, D] unit rows drawn from all, as many as `lists` need; none for kinds without lists."""
    size = _sample_size(rows, lists)
    numbers = np.sort(np.random.default_rng(seed).choice(len(rows), size, replace=False))
    sample = np.empty((size, rows.dim), np.float32)
    for start in range(0, size, BLOCK_ROWS):  # at once, there would be copies of all
        sample[start : start + BLOCK_ROWS] = rows.unit(numbers[start : start + BLOCK_ROWS])
    return sample


def _sample_size(rows: Rows, lists: int) -> int:
    """SAMPLE_EACH rows for each list, as many of them as SAMPLE_BYTES hold; one for each at least."""
    return min(len(rows), SAMPLE_EACH * lists, max(lists, SAMPLE_BYTES // (4 * rows.dim)))


def _check_memory(kind: Kind, rows: int, dims: int, beside: int) -> None:
    """Refuse rows in an index, and so many bytes beside it, that the machine or its container cannot hold."""
    needed, free = ann.bytes_of(kind, rows, dims) + beside, free_bytes()
    if needed > free:
        smaller = "" if kind == "ivf_sq8" else " The kind ivf_sq8 takes about a quarter."
        raise InputError(
            f"{rows:,} rows × {dims:,} in a {kind} index need about {needed / 2**30:.1f} GiB of memory; "
            f"{free / 2**30:.1f} GiB are free.{smaller} Exact search needs no index."
        )


def measure(store: Store, space_id: int, opened: Opened, plan: Plan) -> Measured:
    """Recall and speed of an index against exact search.

    Half of the questions choose the effort (unless given), the least that finds AIM of the NEAREST; the others measure.
    Questions are rows of targets where the store has some that the space's rows may be compared with, else rows of the
    space; each is left out of its own answer.
    """
    names, questions, of_targets = _questions(store, space_id, opened.rows, plan.seed)
    k = NEAREST + 1  # with itself
    truth = neighbours(store, space_id, questions, k)

    def recall(which: slice, effort: int) -> float:
        answers = search(store, space_id, opened, questions[which], k, effort)
        pairs = zip(names[which], truth[which], answers, strict=True)
        return float(np.mean([_recall(*pair) for pair in pairs]))

    tuning, measuring = slice(0, None, 2), slice(1 if len(names) > 1 else 0, None, 2)
    steps = _efforts(plan)
    chosen = next((step for step in steps[:-1] if recall(tuning, step) >= AIM), steps[-1])
    asked = questions[measuring]

    def by_index(some: F32) -> None:
        search(store, space_id, opened, some, k, chosen)

    def exactly(some: F32) -> None:
        neighbours(store, space_id, some, k)

    singly = [asked[n : n + 1] for n in range(min(TIMED, len(asked)))]
    return Measured(
        k=NEAREST,
        recall=round(recall(measuring, chosen), 4),
        effort=chosen,
        speedup=_ratio(exactly, by_index, singly),
        speedup_many=_ratio(exactly, by_index, [asked] * 3),
        questions=len(asked),
        of_targets=sum(of_targets[measuring]),
    )


def _efforts(plan: Plan) -> list[int]:
    if plan.effort is not None:
        return [plan.effort]
    if plan.kind == "flat":
        return [0]
    most = plan.lists if plan.kind in ann.IVF else 2048
    first = 1 if plan.kind in ann.IVF else 16
    steps = [first << n for n in range(most.bit_length()) if first << n < most]
    return [*steps, most]


def _recall(name: str, truth: Sequence[Any], answer: Sequence[Any]) -> float:
    """Share of the nearest that an answer has; a row as near as the last of them is one of them."""
    nearest = merge([[n for n in truth if n.example_id != name]], NEAREST)
    if not nearest:
        return 1.0
    reached = [n for n in answer if n.example_id != name and n.cosine >= nearest[-1].cosine - SAME]
    return min(len(reached), len(nearest)) / len(nearest)


def _ratio(exactly: Callable[[F32], None], by_index: Callable[[F32], None], parts: Sequence[F32]) -> float:
    """Median of the ratio of times, question by question, both warm."""
    exactly(parts[0])
    by_index(parts[0])
    ratios = []
    for part in parts:
        begin = time.perf_counter()
        exactly(part)
        middle = time.perf_counter()
        by_index(part)
        ratios.append((middle - begin) / (time.perf_counter() - middle))
    return round(median(ratios), 2)


def _questions(store: Store, space_id: int, rows: Rows, seed: int) -> tuple[list[str], F32, list[bool]]:
    """Ids and unit rows of the questions, shuffled, and which of them are a target's."""
    asked, of_targets = _target_rows(store, space_id)
    rng = np.random.default_rng(seed + 1)
    some = [of_targets[n] for n in rng.permutation(len(of_targets))[:QUESTIONS]]
    units = mapped.units(store, asked, some)
    # Two rows of Adam's steps are never compared: where questions are of another transform, they are targets' rows.
    if len(some) < FEW or _transform(store, asked) == _transform(store, space_id):
        drawn = np.sort(rng.choice(len(rows), min(len(rows), QUESTIONS), replace=False))
        drawn = drawn[mapped.listed(store, space_id, rows, drawn)]
        own = dict(zip(rows.ids(drawn), rows.unit(drawn), strict=True))
        more = [name for name in own if name not in units][: QUESTIONS - len(units)]
        units |= {name: own[name] for name in more}
    names = list(units)
    mixed = [names[n] for n in rng.permutation(len(names))]
    targets = set(some)
    return mixed, np.stack([units[name] for name in mixed]), [name in targets for name in mixed]


def _target_rows(store: Store, space_id: int) -> tuple[int, list[str]]:
    """The space that has most rows of targets, of those that may be compared with this one, and their ids."""
    best: tuple[int, list[str]] = (space_id, [])
    for space in (int(row["space_id"]) for row in store.catalog.rows("SELECT space_id FROM feature_space")):
        try:
            features.check_spaces(store, space_id, space)
        except FeatureSpaceMismatch:
            continue
        rows = store.catalog.rows(
            "SELECT example_id FROM feature_row WHERE space_id=? AND status='ok' AND example_id IN "
            "(SELECT m.example_id FROM dataset AS d JOIN dataset_member AS m USING (dataset_id) "
            "WHERE d.role='target' AND d.void IS NULL) ORDER BY example_id",
            (space,),
        )
        if len(rows) > len(best[1]):
            best = (space, [str(row["example_id"]) for row in rows])
    return best


def _transform(store: Store, space_id: int) -> Any:
    return features.space_spec(store, space_id).get("transform")
