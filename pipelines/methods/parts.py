"""What single checkpoints say, one after the other: similarities (of each layer, where rows are by module), raw rows.

Legend: N pool examples, V target rows, J columns, L layers, D dims.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import blocks, checkpoints, features
from gradsift.datastore.rows import FeatureBlock
from gradsift.pipelines.methods.evidence import Evidence, Per, Represent, SpacePair
from gradsift.pipelines.methods.memory import PARTS_BYTES
from gradsift.scorers.rows import Rows, block_rows, unit_rows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def similarities(e: Evidence, represent: Represent, per: Per, renormalise: bool = False) -> Iterator[tuple[float, F64]]:
    """(weight, [N, J] cosines, as `Evidence.similarity` takes them) of each checkpoint, or of each layer of each; the
    weights sum to one. Reads a checkpoint's rows once, and once more for each further 256 MiB of 4·N·J·L.

    Raises InputError for layers in rows of integers.
    """
    for pair, weight in e.weighted(represent):
        features.check_spaces(e.store, pair.train, pair.query)
        layers = len(e.layer_sizes(pair, represent)) if represent in ("gradients", "plain") else 0
        count = max(1, layers)
        query, subtasks = e.query_rows(pair, represent)
        means = by_layer(e.mean_of(by_layer(query, count).reshape(query.shape), subtasks, per), count, renormalise)
        together = max(1, PARTS_BYTES // (4 * len(e.ids) * len(means)))
        for first in range(0, count, together):
            out = np.zeros((min(together, count - first), len(e.ids), len(means)), np.float32)
            for positions, block in e.blocks(pair, represent):
                rows = by_layer(_unit(block, represent), count)
                for k, layer in enumerate(out, first):
                    layer[positions] = rows[:, k] @ means[:, k].T
            for layer in out:
                yield weight / count, layer.astype(np.float64)


def by_layer(rows: F32, count: int, unit: bool = True) -> F32:
    """[n, D] rows of layers side by side → [n, L, D/L], the part of each layer of unit length if `unit`."""
    parts = rows.reshape(-1, rows.shape[1] // count)
    return (unit_rows(parts) if unit else parts).reshape(len(rows), count, -1)


def _unit(block: FeatureBlock, represent: Represent) -> F32:
    return unit_rows(block.signal("embedding")) if represent == "embedding" else block.unit()


def steps(e: Evidence) -> list[int]:
    """[C] optimizer steps between each checkpoint and the one before it (or the start), at least one."""
    points = [
        checkpoints.by_digest(e.store, features.space_spec(e.store, pair.train)["checkpoint"]) for pair in e.pairs
    ]
    ends = [0, *(point.step for point in points)]
    return [max(1, after - before) for before, after in pairwise(ends)]


def raw_rows(e: Evidence, pair: SpacePair, represent: Represent) -> Rows:
    """[N, D] rows of one checkpoint with the length they had, read by blocks in the order of the ids; zeros for an
    example without a row. Takes a scratch file of the size of the stored rows."""
    stored = ((places, block.vectors, block.scale * block.norm) for places, block in e.blocks(pair, represent))
    laid = blocks.lay_out(e.store, len(e.ids), stored)
    return Rows((len(e.ids), laid.dims), laid.decode, block_rows(laid.dims))
