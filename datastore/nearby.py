"""Rows near stored rows or vectors, without a model: what `Store.neighbours` does. `pipelines/query` asks more."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, mapped, where
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import PLAIN, Point, is_plain, searched
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import Neighbour, best_of_pool, neighbours
from gradsift.datastore.store import Store

F32 = NDArray[np.float32]


def near(
    store: Store,
    question: str | Sequence[str] | NDArray[np.generic],
    k: int,
    *,
    unlike: Sequence[str],
    opposed: bool,
    checkpoint: int | None,
    predicate: str | None,
    everything: bool,
) -> list[Neighbour]:
    """The neighbours of a question, as `Store.neighbours` says."""
    if k < 1:
        raise InputError(f"k must be 1 or more, not {k}")
    last = last_run(store)
    pool = None if everything else last.result.ingest.pool.used_dataset_id
    (point,) = searched(store, last, [checkpoint], pool)
    if isinstance(question, np.ndarray):
        like, rows = [], np.asarray(question, np.float64)
        if rows.ndim != 1 or unlike:
            raise InputError("a vector is of one dimension, [D], and stands alone; `gradsift.neighbours` takes several")
    else:
        like = [examples.find_prefix(store, i) for i in ([question] if isinstance(question, str) else question)]
        if not like:
            raise InputError("give an example, examples or a vector to be near to")
        rows = _mean(store, point, like)
    unlike = [examples.find_prefix(store, i) for i in unlike]
    if unlike:
        rows = rows - _mean(store, point, unlike)
    out = [*like, *unlike]
    ids = None if predicate is None else where.matching(store, predicate, "where")
    sign = np.float32(-1 if opposed else 1)
    asked = sign * _unit(rows)[None]

    def search(count: int, without: Sequence[str]) -> list[list[Neighbour]]:
        return neighbours(store, point.space, asked, count, ids, without=[*without, *out])

    (found,) = best_of_pool(store, point.space, pool, k, search)
    return [Neighbour(n.example_id, float(sign) * n.cosine) for n in found]


def _mean(store: Store, point: Point, ids: Sequence[str]) -> NDArray[np.float64]:
    """[D] mean of the plain unit rows of examples."""
    rows: dict[str, F32] = {}
    for space in [point.space, point.asked] if is_plain(store, point) else [point.asked]:
        rows |= mapped.units(store, space, [i for i in ids if i not in rows])
    if lacking := [i for i in ids if i not in rows]:
        raise InputError(
            f"the store has no plain gradient of example {lacking[0][:8]}; `gradsift query --id` has the model compute "
            f"it, and `features.plain_rows: true` keeps them (a row that is not `{PLAIN}` is compared with no other)"
        )
    mean: NDArray[np.float64] = np.stack([rows[i] for i in ids]).astype(np.float64).mean(axis=0)
    return mean


def _unit(row: NDArray[np.float64]) -> F32:
    length = float(np.linalg.norm(row))
    if not np.isfinite(length) or not length:
        raise InputError("the question is all zeros or not finite, and points nowhere")
    return np.asarray(row / length, np.float32)
