"""Which layers rows have, where the recipe has them chosen from data (`features.layers: {choose: …}`).

Gradients of all layers are taken of a probe at the run's first checkpoint: rows of the pool, drawn by the recipe's
seed, with the pool's transform, and rows of every target with theirs. A block is what stands under one number in the
model (`model.layers.3`); the run of neighbouring blocks that scores best (scorers/layers.py) is kept. Neighbours,
because a backward goes down to the lowest block that is kept: blocks between cost little more.

The choice becomes part of the recipe as it ran, and of the spec of its feature spaces, as shell patterns. It is made
once for a checkpoint and its targets: later runs by the same rule take what an earlier one chose for the same rows of
targets, however the pool has grown, as they take its warm-up; with other targets they choose anew. Cost: a pass over
twice `probe` rows; memory [rows, modules · 256] f32.
Legend: N rows, D dims of a block's part.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, features
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import InputError
from gradsift.datastore.settled import Settled, chosen_layers
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.features.space import GradientJob, make_job
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import ChosenLayers, Projector, Recipe, Signals
from gradsift.scorers import layers as scores
from gradsift.scorers.errors import Unsuitable

DIM = 256  # of each module's sketch in the probe
_EARLIER = "the choice that an earlier run of this warm-up"
_BLOCK = re.compile(r".*?\.\d+\.")  # a weight's name up to its first number


@dataclass(frozen=True)
class Choice:
    """The patterns of the layers that are kept, and what there is to say of them."""

    layers: list[str]
    note: str


def choose(work: Work, material: Material, point: Checkpoint, rule: ChosenLayers) -> Choice:
    """The layers of a run's rows, chosen by an earlier run or now from a probe at its first checkpoint. Raises
    InputError where nothing can be chosen between."""
    before = chosen_before(work, material, rule, point.digest)
    if before is None:
        return _probed(work, material, point, rule)
    names = ", ".join(before.layers)
    told = next((note for note in before.notes if of_choice(note) and f"{names}: " in note), "")
    if not told:  # that run was interrupted
        return Choice(before.layers, f"Rows have the blocks {names}, {_EARLIER} made by {rule.choose}.")
    return Choice(before.layers, told if _EARLIER in told else f"{told} It is {_EARLIER} made.")


def of_choice(note: str) -> bool:
    """Whether a note of a run tells of a choice of layers."""
    return note.startswith("Rows have ")


def settled(work: Work, layers: list[str]) -> Work:
    """The work under its recipe with these layers; for workers another work, so that none goes on with the rule."""
    recipe = work.recipe
    under = recipe.model_copy(update={"features": recipe.features.model_copy(update={"layers": layers})})
    return replace(work, recipe=under, token=uuid4().hex)


def as_before(work: Work, material: Material, points: Sequence[Checkpoint]) -> Work:
    """The work under the layers that an earlier run chose at these checkpoints for these targets; as it is where none
    has."""
    rule = work.recipe.features.layers
    if not isinstance(rule, ChosenLayers) or not points:
        return work
    before = chosen_before(work, material, rule, points[0].digest)
    return work if before is None else settled(work, before.layers)


def chosen_before(work: Work, material: Material, rule: ChosenLayers, checkpoint: str) -> Settled | None:
    """What the newest run by this rule and for these targets chose at a checkpoint, if there are rows of it. Targets
    are known by their rows; those of a run that was interrupted, whose rows are not recorded, by the recipe."""
    store, digests = work.store, sorted(target.digest for target in material.targets.values())
    targets = work.recipe.model_dump(mode="json", by_alias=True)["targets"]
    spaces = [features.space_spec(store, space) for space, _ in features.spaces_at(store, checkpoint)]
    made = [spec["parameters"]["layers"] for spec in spaces if "parameters" in spec]
    every = chosen_layers(store) if made else ()
    return next(
        (
            one
            for one in every
            if one.layers in made
            and (one.targets == targets if one.digests is None else one.digests == digests)
            and ChosenLayers.model_validate(one.rule) == rule
        ),
        None,
    )


def _probed(work: Work, material: Material, point: Checkpoint, rule: ChosenLayers) -> Choice:
    job = _job(make_job(work, point))
    target, groups = _target_rows(material, rule.probe, work.recipe)
    pool = _drawn(material.pool.example_ids, rule.probe, work.recipe.seed)
    of_pool, _ = _parts(work, job, pool)
    of_target, used = _parts(work, job.as_query(), target)
    if not of_pool or not of_target:
        raise InputError("features.layers: no row of the probe has a gradient; raise `features.layers.probe`")
    blocks = [name for name in of_pool if name in of_target]
    if len(blocks) < 2:
        raise InputError(
            "features.layers: this model has no numbered blocks to choose between; name the layers as shell patterns"
        )
    probe = scores.parts([of_pool[b] for b in blocks], [of_target[b] for b in blocks], [groups[i] for i in used])
    try:
        kept, score = scores.best(probe, rule.choose, rule.keep)
    except Unsuitable as error:
        raise InputError(f"features.layers: {error}. Set `choose: agreement`") from None
    names = [f"{block}*" for block in blocks[kept]]
    rows = len(next(iter(of_pool.values()))) + len(used)
    agrees = scores.agreement(probe, kept)
    note = (
        f"Rows have {len(names)} of {len(blocks)} blocks, {', '.join(names)}: highest in {rule.choose} ({score:.3f}) "
        f"on {rows} rows, whose scores by these blocks and by all have a rank correlation of {agrees:.3f}."
    )
    return Choice(names, note)


def _job(job: GradientJob) -> GradientJob:
    """The job with a sketch of every module, and no more."""
    projector = Projector(dim=DIM, seed=job.features.projector.seed, per_module=True)
    changes = {"layers": None, "projector": projector, "row_dtype": "f16", "signals": Signals.none()}
    return replace(job, features=job.features.model_copy(update=changes))


def _drawn(ids: Sequence[str], count: int, seed: int) -> list[str]:
    order = np.random.default_rng([seed, 2]).permutation(len(ids))[:count]
    return [ids[k] for k in order]


def _target_rows(material: Material, count: int, recipe: Recipe) -> tuple[list[str], dict[str, int]]:
    """Ids of the probe's target rows, as many of each target, and the number of the target of each."""
    each = -(-count // len(material.targets))
    found: dict[str, int] = {}
    for number, dataset in enumerate(material.targets.values()):
        found |= {i: number for i in _drawn(dataset.example_ids, each, recipe.seed) if i not in found}
    return list(found), found


def _parts(work: Work, job: GradientJob, ids: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """[N, D] parts of rows by block, lowest first, and the ids of those that have a gradient."""
    extractor = Extractor(job)
    messages = examples.get_messages(work.store, ids)
    chats = {i: extractor.encode(messages[i]) for i in ids}
    usable = [i for i in ids if chats[i].usable]
    if not usable:
        return {}, []
    block, _ = extractor.rows(usable, [chats[i] for i in usable])
    modules = block.raw().reshape(len(block.example_ids), len(extractor.layers), DIM)
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(extractor.layers):
        if inside := _BLOCK.match(name):
            numbers.setdefault(inside[0], []).append(number)
    return {name: modules[:, of].reshape(len(modules), -1) for name, of in numbers.items()}, block.example_ids
