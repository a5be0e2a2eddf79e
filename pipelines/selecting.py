"""Stage: score the pool against a target and choose.

Scoring streams the pool's shards once for each checkpoint: O(N·J·D) products, memory one shard plus [N, J].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datastore import features, selections
from datastore.errors import InputError
from datastore.examples import Dataset
from datastore.selections import Selection
from datastore.store import Store
from pipelines import recipe as r
from scorers import less
from scorers.select import round_robin, top_k

SCORE_DECIMALS = 6  # finer differences are float rounding; ties then go to the smaller id
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class SpacePair:
    """Pool rows and target rows of one checkpoint, and the checkpoint's mean learning rate."""

    train: int
    query: int
    mean_lr: float


def score_matrix(store: Store, pool: Dataset, pairs: Sequence[SpacePair], target: Dataset) -> tuple[list[str], F64]:
    """([N] ids with a row at every checkpoint, sorted; [N, J] weighted similarity to each subtask).

    Raises FeatureSpaceMismatch when the rows of a pair may not be compared.
    """
    weights = less.checkpoint_weights([p.mean_lr for p in pairs])
    place = {name: k for k, name in enumerate(pool.example_ids)}  # sorted by id
    seen = np.zeros(len(place), np.int64)
    total: F64 = np.zeros((len(place), len(set(target.subtasks))))
    for pair, weight in zip(pairs, weights, strict=True):
        features.check_spaces(store, pair.train, pair.query)
        means = query_means(store, pair.query, target)
        for block in features.read(store, pair.train, pool.example_ids):
            rows = [place[name] for name in block.example_ids]
            total[rows] += weight * less.similarity(block.integers(), means, block.scale)
            seen[rows] += 1
    complete = np.flatnonzero(seen == len(pairs)).tolist()
    if not complete:
        raise InputError(f"pool {pool.name!r} has no example with a row at every checkpoint")
    return [pool.example_ids[k] for k in complete], total[complete].round(SCORE_DECIMALS)


def query_means(store: Store, space_id: int, target: Dataset) -> NDArray[np.float32]:
    """[J, D] mean unit rows of a target's subtasks. Raises InputError for a subtask without a usable row,
    since its column would be missing at this checkpoint only."""
    subtask = dict(zip(target.example_ids, target.subtasks, strict=True))
    query = features.read_all(store, space_id, target.example_ids)
    means, names = less.subtask_means(query.unit(), [subtask[i] for i in query.example_ids])
    if lost := sorted(set(target.subtasks) - set(names)):
        raise InputError(f"target {target.name!r}: subtask {lost[0]!r} has no row with a label token")
    return means


def budget(select: r.Select, usable: int) -> int:
    """Number of examples to choose; raises InputError when there are not as many."""
    size = select.examples or max(1, int((select.fraction or 0.0) * usable))
    if size > usable:
        raise InputError(f"select.examples is {size} but only {usable} examples have a gradient row")
    return size


def select_for(
    store: Store,
    recipe: r.Recipe,
    pool: Dataset,
    pairs: Sequence[SpacePair],
    target_name: str,
    target: Dataset,
) -> Selection:
    """Choose for one target and record the selection; the same inputs again give the recorded one."""
    spec: Mapping[str, Any] = {
        **recipe.select.model_dump(),
        "pool": pool.digest,
        "target": target.digest,
        "spaces": [[_fingerprint(store, p.train), _fingerprint(store, p.query), p.mean_lr] for p in pairs],
        "name": f"{recipe.name}-{target_name}",
    }
    known = selections.find(store, spec)
    if known is not None:
        return known
    ids, matrix = score_matrix(store, pool, pairs, target)
    scores = matrix.max(axis=1)
    size = budget(recipe.select, len(ids))
    order = top_k(scores, ids, size) if recipe.select.rule == "top_k" else round_robin(matrix, ids, size)
    return selections.save(
        store,
        spec["name"],
        target_name,
        spec,
        [ids[k] for k in order],
        [float(scores[k]) for k in order],
        dict(zip(ids, scores.tolist(), strict=True)),
    )


def _fingerprint(store: Store, space_id: int) -> str:
    row = store.catalog.one("SELECT fingerprint FROM feature_space WHERE space_id=?", (space_id,))
    return str(row["fingerprint"]) if row else ""
