"""Stage: one mixture out of several parts, whose budget is met exactly.

Parts are filled in their order, and an example belongs to the first that takes it. The budget is divided among parts
by largest remainder; a part divides its own among sources by its weights, within caps, floors and what there is
(copies included), again by largest remainder; the examples of each source come in rank order, or in an order drawn
from the seed and the ids alone. With a budget in tokens the last gap is closed by the examples whose lengths fit
(scorers/filling.py). The table says what falls short. A part with a target chooses with its method from what
is left for it: so a share of a source can be asked of any method.

Legend: N pool examples, G sources of a part.
"""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec
from gradsift.datastore.runs import MixturePlan, MixtureReport, plan_as_json
from gradsift.datastore.selections import MASK, MIXTURE, PLAN, Picks, Selection
from gradsift.pipelines.features.gather import Material, evidence, pool_rows
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.mix.order import Mixer, Pool
from gradsift.pipelines.mix.part import Taken, fill_part
from gradsift.pipelines.model.lengths import lengths, lengths_spec
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Mix
from gradsift.pipelines.select.select import VERSION as METHODS_VERSION
from gradsift.pipelines.select.select import extra_spec
from gradsift.scorers import budgets

VERSION = 1
RULE = (
    "each example belongs to the first part that takes it; a source whose budget exceeds its size gives whole copies "
    "of all its examples, then its best once more"
)
ORDER = "shuffled by the seed, the example's id and the number of its copy"


def make_mixture(work: Work, material: Material) -> Selection:
    """Make and record the recipe's mixture, or give the one recorded. Raises InputError when it cannot be
    filled."""
    spec, fill = mixture_of(work, material)
    recorded = selections.use(work.store, spec)
    if recorded is not None:
        return recorded
    return selections.save(work.store, work.recipe.name, MIXTURE, spec, fill())


def mixture_of(work: Work, material: Material) -> tuple[Spec, Callable[[], Picks]]:
    """All that decides the recipe's mixture, and a function that fills it; nothing is recorded. Raises InputError for a
    recipe without one; so does the function when it cannot be filled."""
    mix = work.recipe.mix
    if mix is None:
        raise InputError(f"recipe {work.recipe.name!r} has no `mix`")
    evidence_of = _evidence(work, material, mix)
    spec = _spec(work, mix, material.pool, evidence_of)
    return spec, lambda: _filled(work, material, mix, evidence_of)


def _filled(work: Work, material: Material, mix: Mix, evidence_of: Mapping[str, Evidence]) -> Picks:
    pool = _pool(work, mix, material.pool)
    rows = pool_rows(work, material.pool, *material.pairs) if material.pairs else None
    mixer = Mixer(work, mix, pool, evidence_of, rows)
    taken = Taken(np.ones(len(pool.code), bool))
    if pool.lengths is not None:
        taken.free &= pool.lengths > 0  # nothing to learn from, or not to be rendered
    total, parts = _total(mix, len(material.pool.example_ids)), mix.all_parts()
    shares = budgets.bounded([part.share or 0.0 for part in parts], total, [0] * len(parts), [total] * len(parts))
    for number, (part, budget) in enumerate(zip(parts, shares.tolist(), strict=True), 1):
        fill_part(mixer, part, budget, taken)
        work.progress("parts of the mixture", number, len(parts))
    return _picks(mixer, total, taken)


def _evidence(work: Work, material: Material, mix: Mix) -> dict[str, Evidence]:
    """{part: what it looks at}, of the parts with a target."""
    found: dict[str, Evidence] = {}
    for part in mix.all_parts():
        if part.target is not None and part.name is not None:
            method = work.recipe.method_of(part)
            found[part.name] = evidence(work, material, part.target, method.encoder, needs=method.needs)
    return found


def _spec(work: Work, mix: Mix, pool: Dataset, evidence_of: Mapping[str, Evidence]) -> Spec:
    """All that decides a mixture."""
    recipe = work.recipe
    settings = mix.model_dump(mode="json", exclude_none=True)
    for part in settings["parts"]:
        part.get("select", {}).pop("encoder", None)  # its space names it
    default = [recipe.select.method, *recipe.select.parts()] if recipe.selecting else None
    of_parts = {part.name: recipe.method_of(part) for part in mix.all_parts()}
    extra = {name: extra_spec(work, of_parts[name], e) for name, e in evidence_of.items()}
    return {
        **({"extra": extra} if any(extra.values()) else {}),
        "version": [VERSION, METHODS_VERSION],
        "method": MIXTURE,
        "name": recipe.name,
        "mix": settings,
        "default": default,
        "seed": recipe.seed,
        "pool": pool.digest,
        "provenance": examples.provenance_digest(work.store, pool),
        "targets": {name: e.target.digest for name, e in evidence_of.items()},
        "spaces": {name: e.fingerprints(with_encoder=True) for name, e in evidence_of.items()},
        "context": _model_spec(work, mix),
    }


def _model_spec(work: Work, mix: Mix) -> Spec:
    """What of the model decides a mixture: nothing, unless it counts tokens or trains."""
    fitted = any(part.weights == "scaling_law" for part in mix.all_parts())
    if work.loaded is None or not (mix.tokens or mix.label_tokens or fitted):
        return {}
    return {"lengths": lengths_spec(work), "model": work.loaded.model_digest}


def _pool(work: Work, mix: Mix, pool: Dataset) -> Pool:
    names: dict[str, int] = {}
    code = np.array([names.setdefault(s, len(names)) for s in examples.source_column(work.store, pool)], np.int64)
    ranked = sorted(names)
    places = np.array([ranked.index(name) for name in names], np.int64)
    counts = None
    if mix.tokens or mix.label_tokens:
        counts = lengths(work, pool)["n_tokens" if mix.tokens else "n_label_tokens"]
    return Pool(pool, ranked, places[code], counts)


def _total(mix: Mix, size: int) -> int:
    if mix.fraction is not None:
        return max(1, round(mix.fraction * size))
    return int(mix.examples or mix.label_tokens or mix.tokens or 0)


def _picks(mixer: Mixer, total: int, taken: Taken) -> Picks:
    pool = mixer.pool
    positions = np.concatenate(taken.positions)
    copies = np.concatenate(taken.copies)
    scores = np.concatenate(taken.scores)
    if not len(positions):
        raise InputError("the mixture is empty: its budget is smaller than its shortest example")
    parts = [name for name, rows in zip(taken.parts, taken.positions, strict=True) for _ in range(len(rows))]
    ids = [pool.data.example_ids[k] for k in positions.tolist()]
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
    realised = int(copies.sum()) if pool.lengths is None else int((pool.lengths[positions] * copies).sum())
    plan = MixturePlan(_unit(mixer), total, realised, taken.table, RULE, ORDER)
    table = table.replace_schema_metadata({PLAN: json.dumps(plan_as_json(plan))})
    known_scores = [None if np.isnan(score) else float(score) for score in scores.tolist()]
    return Picks(ids, known_scores, table, copies.tolist())


def _unit(mixer: Mixer) -> str:
    if mixer.pool.lengths is None:
        return "rows"
    return "label_tokens" if mixer.mix.label_tokens else "tokens"


def describe_mixture(work: Work, chosen: Selection) -> MixtureReport:
    """What a run reports of its mixture: budget, and requested against realised by part and source."""
    plan = selections.plan(work.store, chosen) or MixturePlan()
    by_source: dict[str, int] = {}
    for line in plan.table:
        by_source[line.source] = by_source.get(line.source, 0) + line.rows
    return MixtureReport(
        name=chosen.name,
        digest=chosen.digest,
        examples=len(chosen.example_ids),
        rows=chosen.rows,
        unit=plan.unit,
        requested=plan.requested,
        realised=plan.realised,
        by_source=dict(sorted(by_source.items(), key=lambda item: (-item[1], item[0]))),
        table=plan.table,
        selection_id=chosen.selection_id,
    )
