"""How alike selections are: the examples they share, and how their scores agree with each other and with length."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradsift.datastore import features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import last_run
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.scorers import compare
from gradsift.scorers.statistics import spearman


def overlap(store: Store, names: Sequence[str], target: str | None = None, k: int | None = None) -> dict[str, Any]:
    """How alike selections are: their Jaccard indices (or overlap of the first k), what chance gives, and the rank
    correlations of their scores with each other and with answer length."""
    chosen = [selections.get(store, name) for name in names] if names else selections.newest(store)
    if not names and target is None and len(targets := sorted({s.target for s in chosen})) > 1:
        raise InputError(f"this store has selections for {', '.join(targets)}; give --target, or names to compare")
    chosen = [s for s in chosen if target in (None, s.target)]
    if len(chosen) < 2:
        raise InputError("overlap compares at least two selections; make more with `gradsift select`")
    pool = max((d.num_rows for d in (selections.details(store, s) for s in chosen) if d is not None), default=0)
    rows = []
    for one in chosen:
        row: dict[str, Any] = {"selection": one.name, "examples": len(one.example_ids)}
        for other in chosen:
            alike = compare.jaccard(one.example_ids, other.example_ids)
            row[other.name] = compare.overlap_at(one.example_ids, other.example_ids, k) if k else alike
        rows.append(row)
    sizes = [len(s.example_ids) for s in chosen]
    mean = round(sum(sizes) / len(sizes))
    by_chance = (min(k, mean) / pool if k else compare.expected_jaccard(mean, mean, pool)) if pool else None
    return {"measure": f"overlap@{k}" if k else "jaccard", "by_chance": by_chance, "rows": rows,
            "scores": _score_correlations(store, chosen)}  # fmt: skip


def _score_correlations(store: Store, chosen: Sequence[Selection]) -> list[dict[str, Any]]:
    lengths = _label_tokens(store)
    known = {}
    for selection in chosen:
        table = selections.details(store, selection)
        if table is not None:
            pairs = zip(table["example_id"].to_pylist(), table["score"].to_pylist(), strict=True)
            known[selection.name] = dict(pairs)
    rows = []
    for name, scores in known.items():
        row: dict[str, Any] = {"selection": name, "with length": _spearman(scores, lengths)}
        rows.append(row | {other: _spearman(scores, theirs) for other, theirs in known.items()})
    return rows


def _spearman(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    import numpy as np

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
