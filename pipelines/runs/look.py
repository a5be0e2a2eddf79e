"""What a dry run looks at: samples of the rows as tokens, what the store lacks of them, and so what a run has to do."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.model.encode import Encoded, encode
from gradsift.pipelines.model.labels import check_labels, measured_sets
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Cascade, Recipe
from gradsift.pipelines.runs.data import Data
from gradsift.pipelines.runs.held import Held, Missing, held_by, trained
from gradsift.pipelines.runs.minutes import Due, Rows
from gradsift.pipelines.runs.probe import Answers
from gradsift.pipelines.runs.trainings import Training
from gradsift.pipelines.training.adopted import folders

SAMPLE = 1_000  # rows of a set that are encoded


@dataclass(frozen=True)
class Sample:
    """Usable chats of a sample of a set, the share of the set that they stand for, and the seconds to encode a row."""

    chats: Sequence[Encoded]
    share: float = 1.0
    seconds: float = 0.0
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return [len(chat.input_ids) for chat in self.chats]


@dataclass(frozen=True)
class Looked:
    """What a look at datasets, model and store gave: samples of the pool and of what validation measures (of as many
    rows), what is missing at each checkpoint, held or not, and what is there."""

    pool: Sample
    tests: Sample
    measured: int
    missing: Sequence[Missing]
    checkpoints_kept: int
    arms_kept: int
    usable: int  # rows of the pool
    most: tuple[int, int] | None = None  # rows of the pool that a cascade computes, see `most_rows`


def look(work: Work, material: Material, known: Store | None, new: bool | None) -> Looked:
    """Encode samples, and ask the store what it has. Raises InputError where the pool or a target has no label."""
    recipe = work.recipe
    sample = sampled(work, material.pool.example_ids)
    if (recipe.needs_rows or recipe.validate_ is not None) and not sample.chats:
        _refuse("pool", sample)
    for name, target in material.targets.items() if recipe.needs_rows else ():
        if not (of_target := sampled(work, target.example_ids)).chats:
            _refuse(f"target {name!r}", of_target)
    benches = _measured(work, material)
    usable = round(sample.share * len(material.pool.example_ids))
    held, kept, in_store = Held(), 0, replace(work, store=known) if known is not None else None
    if in_store is not None:
        held = held_by(in_store, material, new) if recipe.needs_rows else Held()
        kept = trained(in_store, material, held)
    missing = _missing(work, material, held, sample) if recipe.needs_rows else []
    most = None
    if recipe.cascade is not None:
        most = most_rows(recipe, recipe.cascade, usable, sample.lengths, _outputs(recipe, material))
        missing = at_most(missing, most)
    tests = sampled(work, benches, SAMPLE // 4)
    return Looked(sample, tests, len(benches), missing, len(held.points), kept, usable, most)


def most_rows(recipe: Recipe, settings: Cascade, usable: int, lengths: Sequence[int], outputs: int) -> tuple[int, int]:
    """Rows of the pool that a cascade computes at most, for so many outputs: (at its first checkpoint, at the others).
    At the first the shortest of the sample's `lengths` that `most` of the tokens are enough for."""
    select = recipe.select
    chosen = select.examples or int((select.fraction or 0.0) * usable) or usable
    listed = min(usable, ceil(settings.shortlist * chosen) * outputs)
    total = np.cumsum(sorted(lengths))
    within = int(np.searchsorted(total, settings.most * total[-1], side="right")) if len(total) else 0
    return max(listed, ceil(usable * within / max(1, len(total)))), listed


def _outputs(recipe: Recipe, material: Material) -> int:
    """Lists of the best that a cascade looks for: one for each target, or for each of its columns that take turns."""
    _, rule, options = recipe.select.parts()
    per, targets = options.get("per", "subtask"), material.targets.values()
    if rule == "top_k" or per == "all":
        return len(targets)
    return sum(len(one.example_ids if per == "query" else set(one.subtasks)) for one in targets)


def at_most(missing: Sequence[Missing], most: tuple[int, int]) -> list[Missing]:
    """What is missing at each checkpoint, of the pool no more than a cascade computes."""
    first, others = most
    return [
        Missing(one.pool[: others if number else first], one.plain, one.targets) for number, one in enumerate(missing)
    ]


def lost_labels(work: Work, material: Material) -> list[str]:
    """What there is to say of targets that lose their labels; raises InputError where that is most of one."""
    by_role = {"val": material.targets, "test": material.tests}
    sets = {
        f"targets.{name}.{which}": examples.get_messages(work.store, by_role[which][name].example_ids).values()
        for name, which in measured_sets(work.recipe)
    }
    return check_labels(work.model.tokenizer, work.recipe.encoding, sets) if sets else []


def _missing(work: Work, material: Material, held: Held, sample: Sample) -> list[Missing]:
    """What is missing at each checkpoint that the run will have, without rows that have no label: all rows, at those
    that are not there yet."""
    warmup = work.recipe.warmup
    count = len(folders(warmup.from_)) if warmup and warmup.from_ else warmup.epochs if warmup else 1
    targets = sorted({i for one in material.targets.values() for i in one.example_ids})
    everything = Missing(material.pool.example_ids, (), targets)
    return [
        *(_with_labels(work, one, sample) for one in held.missing),
        *[_with_labels(work, everything, sample)] * (count - len(held.missing)),
    ]


def _with_labels(work: Work, missing: Missing, sample: Sample) -> Missing:
    """Without rows that have no label: exactly where all could be looked at, else as many as the sample has."""

    def usable(ids: Sequence[str]) -> Sequence[str]:
        if len(ids) > SAMPLE:
            return ids[: round(len(ids) * sample.share)]
        return [i for i, chat in _encoded(work, ids).items() if chat.usable]

    return Missing(usable(missing.pool), missing.plain, usable(missing.targets))


def due_of(work: Work, data: Data, looked: Looked, started: float, runs: Sequence[Training]) -> Due:
    """All that a run has to do; of validation, the runs that are not recorded."""
    recipe = work.recipe
    in_pool, left = len(data.material.pool.example_ids), max(0, len(looked.missing) - looked.checkpoints_kept)
    passes = [
        Rows(len(ids), _lengths(work, ids)) for one in looked.missing for ids in (one.targets, one.pool, one.plain)
    ]
    to_do = max(0, len(runs) - looked.arms_kept)
    seen = sum(run.seen for run in runs) * min(1.0, to_do / max(1, len(runs) - 1))
    dims = recipe.features.projector.dim if recipe.needs_rows else 0
    return Due(
        start=started,
        reading=data.seconds,
        encode=looked.pool.seconds,
        warmup_rows=warmup_rows(recipe, in_pool, looked.pool.share) * left,
        passes=passes,
        unit_rows=recipe.features.unit_rows,
        values=float(in_pool * dims * max(1, len(looked.missing)) * max(1, len(recipe.targets))),
        arms=to_do,
        arm_rows=round(seen),
        tests=Rows(looked.measured, looked.tests.lengths),
        in_pool=in_pool,
    )


def warmup_rows(recipe: Recipe, in_pool: int, usable: float) -> int:
    """Rows that the steps of one epoch of the warm-up see; 0 without one."""
    warmup = recipe.warmup
    if not recipe.needs_rows or warmup is None or warmup.from_:
        return 0
    return round(max(warmup.fraction * in_pool, min(in_pool, warmup.min_examples)) * usable)


def _lengths(work: Work, ids: Sequence[str]) -> list[int]:
    return sampled(work, ids).lengths


def sampled(work: Work, ids: Sequence[str], most: int = SAMPLE) -> Sample:
    """A sample of a set, at even distances in the order of ids (which is at random)."""
    chosen = ids[:: max(1, -(-len(ids) // most))]
    start = time.perf_counter()
    chats = list(_encoded(work, chosen).values())
    seconds = (time.perf_counter() - start) / max(1, len(chosen))
    usable = [chat for chat in chats if chat.usable]
    return Sample(usable, len(usable) / max(1, len(chats)), seconds, Counter(chat.status for chat in chats))


def _encoded(work: Work, ids: Sequence[str]) -> dict[str, Encoded]:
    chats, tokenizer = examples.get_messages(work.store, ids), work.model.tokenizer
    wanted = work.recipe.encoding
    return {i: encode(tokenizer, chats[i], wanted.max_length, wanted.truncation) for i in ids}


def _refuse(what: str, sample: Sample) -> None:
    counts = ", ".join(f"{n} {status}" for status, n in sample.statuses.items())
    raise InputError(
        f"none of {sum(sample.statuses.values())} rows of the {what} has a label ({counts}): raise "
        "encoding.max_length, or look at the chat template in the model's folder"
    )


def _measured(work: Work, material: Material) -> list[str]:
    """Ids of the rows that every validation run measures, one for each time."""
    if work.recipe.validate_ is None:
        return []
    most = work.recipe.validation.test_rows
    tests = [i for one in material.tests.values() for i in one.example_ids[:most]]
    return tests + [i for name in material.tests for i in material.targets[name].example_ids]


def answers_of(work: Work, material: Material) -> list[Answers]:
    """The test rows of which every validation run generates answers."""
    recipe, asked = work.recipe, []
    for name, test in material.tests.items():
        target = recipe.targets[name]
        if target.metric != "loss":
            ids = test.example_ids[: recipe.validation.test_rows]
            chats = examples.get_messages(work.store, ids)
            asked.append(Answers([chats[i] for i in ids], target.max_new_tokens))
    return asked
