"""How alike selections are: the examples they share, and how their scores agree with each other and with length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradsift.datastore import features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import BY_HAND, last_run
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.tables import Row
from gradsift.scorers import compare
from gradsift.scorers.statistics import spearman


@dataclass(frozen=True)
class Overlap:
    """How alike selections are: two tables with a line and a column for each. `by_chance` is what `measure` gives for
    as many examples drawn at random, None where the pool's size is not known."""

    measure: str
    by_chance: float | None
    rows: list[Row]
    scores: list[Row]


def overlap(store: Store, names: Sequence[str], target: str | None = None, k: int | None = None) -> Overlap:
    """How alike selections are: their Jaccard indices (or overlap of the first k), what chance gives, and the rank
    correlations of their scores with each other and with answer length. Without names those that methods made."""
    if names:
        chosen = [selections.get(store, name) for name in names]
    else:
        chosen = [one for one in selections.newest(store) if one.method != BY_HAND]
    if not names and target is None and len(targets := sorted({one.target for one in chosen})) > 1:
        raise InputError(f"this store has selections for {', '.join(targets)}; give --target, or names to compare")
    chosen = [one for one in chosen if target in (None, one.target)]
    if len(chosen) < 2:
        raise InputError("overlap compares at least two selections; make more with `gradsift select`")
    tables = [selections.details(store, one) for one in chosen]
    pool = max((table.num_rows for table in tables if table is not None), default=0)
    rows: list[Row] = [
        {"selection": one.name, "examples": len(one.example_ids)}
        | {other.name: _shared(one.example_ids, other.example_ids, k) for other in chosen}
        for one in chosen
    ]
    sizes = [len(one.example_ids) for one in chosen]
    mean = round(sum(sizes) / len(sizes))
    by_chance = (min(k, mean) / pool if k else compare.expected_jaccard(mean, mean, pool)) if pool else None
    return Overlap(f"overlap@{k}" if k else "jaccard", by_chance, rows, _score_correlations(store, chosen))


def _shared(one: Sequence[str], other: Sequence[str], k: int | None) -> float:
    return compare.overlap_at(one, other, k) if k else compare.jaccard(one, other)


def _score_correlations(store: Store, chosen: Sequence[Selection]) -> list[Row]:
    lengths = _label_tokens(store)
    known = {}
    for selection in chosen:
        table = selections.details(store, selection)
        if table is not None:
            pairs = zip(table["example_id"].to_pylist(), table["score"].to_pylist(), strict=True)
            known[selection.name] = {name: score for name, score in pairs if score is not None}  # random has none
    return [
        {"selection": name, "with length": _spearman(scores, lengths)}
        | {other: _spearman(scores, theirs) for other, theirs in known.items()}
        for name, scores in known.items()
    ]


def _spearman(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    both = sorted(set(a) & set(b))
    if len(both) < 3:
        return None
    value = spearman(np.array([a[i] for i in both]), np.array([b[i] for i in both]))
    return None if np.isnan(value) else value


def _label_tokens(store: Store) -> dict[str, float]:
    rows = last_run(store, computed=True).result.pool_rows
    lengths: dict[str, float] = {}
    for block in features.read(store, rows[0].space_id) if rows else ():
        lengths |= zip(block.example_ids, block.signal("n_label_tokens").tolist(), strict=True)
    return lengths
