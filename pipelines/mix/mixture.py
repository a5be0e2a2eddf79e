"""Stage: one mixture out of several parts, met to the row.

Parts are filled in their order, and an example belongs to the first that takes it. The budget is divided among parts
by largest remainder; a part divides its own among sources by its weights, within caps, floors and what there is
(copies included), again by largest remainder; the examples of each source come in rank order, or in an order drawn
from the seed and the ids alone. With a budget in tokens the last gap is closed by the examples whose lengths fit
(scorers/filling.py). Whatever falls short is said in the table. A part of a target chooses from what is left for it,
with its method: so a source's share can be demanded of any method.

Legend: N pool examples, G sources of a part.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.selections import MASK, MIXTURE, PLAN, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.mix.order import Pool
from gradsift.pipelines.mix.part import Taken, fill_part
from gradsift.pipelines.mix.weights import Context
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Mix, Recipe
from gradsift.scorers import budgets

VERSION = 1
TOKEN_TRIES = 6
I64 = NDArray[np.int64]


def mixture(
    store: Store,
    recipe: Recipe,
    pool: Dataset,
    evidence: Mapping[str, Evidence],
    context: Context,
    progress: Progress = quiet,
) -> Selection:
    """Make and record the mixture of a recipe, or give the one recorded. Raises InputError for what cannot be met."""
    mix = recipe.mix
    if mix is None:
        raise InputError(f"recipe {recipe.name!r} has no `mix`")
    spec = _spec(store, recipe, mix, pool, evidence, context)
    known = selections.find(store, spec)
    if known is not None:
        return known
    whole = _pool(store, mix, pool, context)
    total = _total(mix, len(pool.example_ids))
    parts = mix.all_parts()
    shares = budgets.bounded([p.share or 0.0 for p in parts], total, [0] * len(parts), [total] * len(parts))
    taken, free = Taken(), np.ones(len(whole.code), bool)
    if whole.lengths is not None:
        free &= whole.lengths > 0  # nothing to learn from, or not to be rendered
    for number, (part, budget) in enumerate(zip(parts, shares.tolist(), strict=True), 1):
        fill_part(store, recipe, part, budget, whole, free, evidence, context, taken)
        progress("parts of the mixture", number, len(parts))
    return _record(store, recipe, spec, mix, total, whole, taken)


def _spec(
    store: Store, recipe: Recipe, mix: Mix, pool: Dataset, evidence: Mapping[str, Evidence], context: Context
) -> dict[str, Any]:
    plain = mix.model_dump(mode="json", exclude_none=True)
    for part in plain["parts"]:
        part.get("select", {}).pop("encoder", None)  # its space names it
    default = recipe.selecting.parts() if recipe.selecting else None
    spaces = {
        name: [
            [features.space_fingerprint(store, p.train), features.space_fingerprint(store, p.query), p.mean_lr]
            for p in (*e.pairs, *([e.encoder] if e.encoder else []))
        ]
        for name, e in evidence.items()
    }
    return {
        "version": VERSION,
        "method": MIXTURE,
        "name": recipe.name,
        "mix": plain,
        "default": [recipe.select.method, *default] if default else None,
        "seed": recipe.seed,
        "pool": pool.digest,
        "sources": digest_ids(examples.source_column(store, pool)),
        "targets": {name: e.target.digest for name, e in evidence.items()},
        "spaces": spaces,
        "context": context.spec(mix),
    }


def _pool(store: Store, mix: Mix, pool: Dataset, context: Context) -> Pool:
    names: dict[str, int] = {}
    code = np.array([names.setdefault(s, len(names)) for s in examples.source_column(store, pool)], np.int64)
    ranked = sorted(names)
    places = np.array([ranked.index(name) for name in names], np.int64)
    lengths = None
    if mix.tokens or mix.label_tokens:
        lengths = context.lengths(pool)["n_tokens" if mix.tokens else "n_label_tokens"]
    return Pool(pool, ranked, places[code], lengths)


def _total(mix: Mix, size: int) -> int:
    if mix.fraction is not None:
        return max(1, round(mix.fraction * size))
    return int(mix.examples or mix.label_tokens or mix.tokens or 0)


def _record(
    store: Store, recipe: Recipe, spec: dict[str, Any], mix: Mix, total: int, pool: Pool, taken: Taken
) -> Selection:
    positions = np.concatenate(taken.positions)
    copies = np.concatenate(taken.copies)
    scores = np.concatenate(taken.scores)
    parts = [name for name, found in zip(taken.parts, taken.positions, strict=True) for _ in range(len(found))]
    if not len(positions):
        raise InputError("the mixture is empty: its budget is smaller than its shortest example")
    ids = [pool.data.example_ids[k] for k in positions.tolist()]
    unit = next(b for b in ("examples", "fraction", "label_tokens", "tokens") if getattr(mix, b) is not None)
    realised = int(copies.sum()) if pool.lengths is None else int((pool.lengths[positions] * copies).sum())
    plan = {
        "budget": {"unit": "rows" if pool.lengths is None else unit, "requested": total, "realised": realised},
        "table": [asdict(line) for line in taken.table],
        "rule": "each example belongs to the first part that takes it; a source whose budget exceeds its size gives "
        "whole copies of all its examples, then its best once more",
        "order": "shuffled by the seed, the example's id and the number of its copy",
    }
    table = pa.table(
        {
            "example_id": pa.array(ids, pa.string()),
            "part": pa.array(parts, pa.string()).dictionary_encode(),
            "source": pa.array([pool.names[g] for g in pool.code[positions]], pa.string()).dictionary_encode(),
            "copies": pa.array(copies, pa.int32()),
            "score": pa.array(scores, from_pandas=True),
        }
    )
    if taken.masks:
        masks = [taken.masks[k].tolist() if k in taken.masks else None for k in positions.tolist()]
        table = table.append_column(MASK, pa.array(masks, pa.list_(pa.bool_())))
    table = table.replace_schema_metadata({PLAN: json.dumps(plan)})
    given = [None if np.isnan(s) else float(s) for s in scores.tolist()]
    return selections.save(store, recipe.name, MIXTURE, spec, ids, given, table, copies.tolist())
