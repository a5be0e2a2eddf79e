"""What a selection's scores follow, besides what they are meant to: checks that need no training.

Scores that follow length or loss would choose much the same without looking at a target, and an average of token
gradients favours short answers. A strong correlation is no proof of harm; it says which random arm
to compare with (`random_lengths`, `random_tokens`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import features
from gradsift.datastore.store import Store
from gradsift.pipelines.tables import Row
from gradsift.scorers.statistics import spearman

F64 = NDArray[np.float64]
LOOKED_AT = {
    "n_label_tokens": "answer length, tokens",
    "n_tokens": "whole length, tokens",
    "loss": "loss, nats per token",
    "entropy": "entropy, nats",
    "grad_norm": "gradient norm",
}


def correlates(store: Store, space_id: int, scores: Mapping[str, float], chosen: Sequence[str]) -> list[Row]:
    """One line for each signal of a space: Spearman's correlation with the [N] scores, its medians among all and among
    the chosen. O(N log N); blocks are read one after the other, only their signals are kept."""
    known: dict[str, list[F64]] = {}
    ids: list[str] = []
    for block in features.read(store, space_id, list(scores)):
        ids += block.example_ids
        for name in LOOKED_AT.keys() & set(block.signals.column_names):
            known.setdefault(name, []).append(np.asarray(block.signal(name), np.float64))
    if len(ids) < 3:
        return []
    values = np.array([scores[i] for i in ids])
    picked = set(chosen)
    mine = np.array([i in picked for i in ids])
    lines: list[Row] = []
    for name, label in LOOKED_AT.items():
        if name not in known:
            continue
        signal = np.concatenate(known[name])
        correlation = spearman(values, signal)
        lines.append(
            {
                "against": label,
                "rank correlation": None if np.isnan(correlation) else correlation,
                "median of all": float(np.median(signal)),
                "median of chosen": float(np.median(signal[mine])) if mine.any() else None,
            }
        )
    return lines
