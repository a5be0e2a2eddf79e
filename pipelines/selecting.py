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
    total: dict[str, F64] = {}
    seen: dict[str, int] = {}
    for pair, weight in zip(pairs, weights, strict=True):
        features.check_spaces(store, pair.train, pair.query)
        query = features.read_all(store, pair.query, target.example_ids)
        subtask = dict(zip(target.example_ids, target.subtasks, strict=True))
        means, _ = less.subtask_means(query.unit(), [subtask[i] for i in query.example_ids])
        for block in features.read(store, pair.train, pool.example_ids):
            part = weight * less.similarity(block.unit(), means).astype(np.float64)
            for name, row in zip(block.example_ids, part, strict=True):
                total[name] = total[name] + row if name in total else row
                seen[name] = seen.get(name, 0) + 1
    ids = sorted(i for i, n in seen.items() if n == len(pairs))
    if not ids:
        raise InputError(f"pool {pool.name!r} has no example with a row at every checkpoint")
    matrix: F64 = np.round(np.stack([total[i] for i in ids]), SCORE_DECIMALS)
    return ids, matrix


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
