"""What a run would do: rows, bytes and minutes, by reading the sources as it does, looking at what the store has
already, and timing a few real batches."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradsift.datastore import examples
from gradsift.datastore.chats import chars
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.memory import default_budget
from gradsift.pipelines.model.encode import Encoded, template_notes
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.positions import check_length
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.recipe import Features, Recipe, packages
from gradsift.pipelines.report.cost import weights_outside_embeddings
from gradsift.pipelines.runs.data import Data, opened, read_aside
from gradsift.pipelines.runs.look import Looked, answers_of, due_of, look, lost_labels, sampled, warmup_rows
from gradsift.pipelines.runs.minutes import Due, minutes
from gradsift.pipelines.runs.price import Price, Priced, prices
from gradsift.pipelines.runs.probe import Seen, Speeds, probe
from gradsift.pipelines.runs.trainings import Pool, Training, trainings
from gradsift.pipelines.select.need import planned, refused
from gradsift.pipelines.training.adopted import with_adapter_of

TEXT_COPIES = 3  # in the store, in exports, and while one is written
ROW_OVERHEAD_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """What a run would do. Rows of the pool are those that are left of `left_out`, all counted as the run counts them;
    what is left out by gradients or embeddings (`dedup.semantic`) nobody knows before. Of a pool of more than a
    thousand rows the share with a label is estimated, and what follows from it. Without a model there are no tokens."""

    pool_rows: int
    pool_quarantined: int
    usable_share: float
    mean_tokens: float
    checkpoints: int
    arms: int  # validation runs, recorded ones included
    bytes_needed: int
    bytes_free: int
    tokens_per_second: float  # of a gradient pass; 0 where none is needed
    minutes: dict[str, float]  # by stage
    notes: list[str] = field(default_factory=list)  # of the model's weights in the rows, of methods that do not fit
    checkpoints_kept: int = 0
    rows_to_compute: int = 0  # of pool and targets, at all checkpoints
    rows_kept: int = 0  # of pool and targets, at all checkpoints, that the store has
    memory: dict[str, int] = field(default_factory=dict)  # bytes that each method will hold, and what it may
    left_out: dict[str, int] = field(default_factory=dict)  # rows that were read and are no part of the pool, by reason
    arms_kept: int = 0  # validation runs that the store has
    warnings: list[str] = field(default_factory=list)  # of files not read, of files and sources that gave little
    prices: list[Price] = field(default_factory=list)  # of choosing and of training, whatever is kept


def plan_run(recipe: Recipe, store: Path, new_warmup: bool | None = None, started: float = 0.0) -> Plan:
    """Read the sources into a store that is thrown away, encode a sample and time a few batches. Writes nothing into
    the store. `new_warmup` as `curate` has it; `started` is the seconds that a run takes before its first stage.

    Raises InputError as the run would: for sources without a usable row, for a pool or target without a label.
    """
    packages.check(recipe)
    recipe = with_adapter_of(recipe)
    start = time.perf_counter()
    loaded = open_model(recipe.model) if recipe.lm is not None else None
    if loaded is not None:
        check_length(recipe, loaded)
    started += time.perf_counter() - start
    with opened(recipe, store) as known, read_aside(recipe, known) as data:
        work = Work(data.scratch, recipe, loaded)
        plan = _of_data(recipe, data, known, store)
        if loaded is None:
            return replace(plan, minutes=minutes(Due(started, data.seconds), Speeds()))
        lost = lost_labels(work, data.material)
        plan = replace(plan, notes=[*lost, *plan.notes])
        looked = look(work, data.material, known, new_warmup)
        chats = looked.pool.chats
        runs = trainings(recipe, Pool(looked.usable, _mean(looked.pool.lengths), _labels(chats)))
        trains = len(runs) > looked.arms_kept
        speeds, seen = Speeds(), Seen()
        if (recipe.needs_rows or trains) and chats:
            answers = answers_of(work, data.material) if trains else []
            speeds, seen = probe(work, chats, looked.tests.chats, answers, trains=trains)
        due = due_of(work, data, looked, started, runs)
        plan = replace(plan, prices=_prices(work, data.material, looked, speeds, runs))
        return _with_model(plan, work, data, looked, (speeds, seen), minutes(due, speeds), len(runs))


def _of_data(recipe: Recipe, data: Data, known: Store | None, root: Path) -> Plan:
    """What is known of a run without its model."""
    pool = data.material.pool
    memory, notes = _memory(recipe, len(pool.example_ids), _targets(data.material))
    if recipe.dedup is not None and recipe.dedup.semantic is not None:
        notes.append("What `dedup.semantic` leaves out is not known before the run: rows are counted without it.")
    return Plan(
        pool_rows=len(pool.example_ids),
        pool_quarantined=sum(data.ingested.pool.quarantined.values()),
        usable_share=1.0,
        mean_tokens=0.0,
        checkpoints=0,
        arms=0,
        bytes_needed=TEXT_COPIES * _characters(data, known),
        bytes_free=shutil.disk_usage(_existing(root)).free,
        tokens_per_second=0.0,
        minutes={},
        notes=notes,
        memory=memory,
        left_out=data.left_out,
        warnings=warnings(data.ingested),
    )


def _with_model(
    plan: Plan,
    work: Work,
    data: Data,
    looked: Looked,
    probed: tuple[Speeds, Seen],
    spent: dict[str, float],
    runs: int,
) -> Plan:
    """The plan with what the model and the store say of it."""
    recipe, (speeds, seen) = work.recipe, probed
    mean, labels = _mean(looked.pool.lengths), _labels(looked.pool.chats)
    computed = sum(one.rows for one in looked.missing)
    plain = recipe.needs_plain and recipe.features.transform != "sgd"
    targets = {i for one in data.material.targets.values() for i in one.example_ids}
    in_all = (looked.usable + len(targets)) * len(looked.missing)
    memory, refusals = _memory(recipe, looked.usable, _targets(data.material), labels, seen.layers)
    row = speeds.gradient.mean(looked.pool.lengths)
    notes = [*template_notes(work.model.tokenizer), *seen.notes, *refusals]
    if looked.most is not None:
        first, others = looked.most
        share = (first + others * (len(looked.missing) - 1)) / max(1, looked.usable * len(looked.missing))
        notes.append(f"The cascade computes {min(1.0, share):.0%} of the pool's rows at most: these are counted here.")
        in_all = first + others * (len(looked.missing) - 1) + len(targets) * len(looked.missing)
    if recipe.validate_ is not None and recipe.validation.lm_eval is not None:
        notes.append("The tasks of `validate.lm_eval` are not in the minutes.")
    if recipe.selecting is not None and recipe.select.parts()[1] == "portfolio":
        notes.append("The trials of `method: auto` are not in the minutes; their FLOPs are among the prices.")
    width = row_bytes(recipe.features, seen, labels, plain)
    return replace(
        plan,
        usable_share=looked.pool.share,
        mean_tokens=mean,
        checkpoints=len(looked.missing),
        arms=runs,
        bytes_needed=int(computed * width) if recipe.needs_rows else plan.bytes_needed,
        tokens_per_second=mean / row if row else 0.0,
        minutes=spent,
        notes=[*dict.fromkeys([*notes, *(note for note in plan.notes if "would be refused" not in note)])],
        checkpoints_kept=looked.checkpoints_kept,
        rows_to_compute=computed,
        rows_kept=max(0, in_all - computed),
        memory=memory,
        arms_kept=looked.arms_kept,
    )


def _prices(work: Work, material: Material, looked: Looked, speeds: Speeds, runs: Sequence[Training]) -> list[Price]:
    """What choosing costs beside training, of a recipe that does either."""
    recipe, points = work.recipe, len(looked.missing)
    tries = recipe.selecting is not None and bool(recipe.selecting.between)
    if not (points or runs or tries):
        return []
    target_tokens = 0.0
    for target in material.targets.values() if points or tries else ():
        of_target = sampled(work, target.example_ids)
        target_tokens += _mean(of_target.lengths) * of_target.share * len(target.example_ids)
    priced = Priced(
        recipe,
        weights_outside_embeddings(recipe),
        Pool(looked.usable, _mean(looked.pool.lengths), _labels(looked.pool.chats)),
        looked.pool.lengths,
        target_tokens,
        warmup_rows(recipe, len(material.pool.example_ids), looked.pool.share) * points,
        speeds,
    )
    shares: list[float] = []
    if recipe.cascade is not None and looked.most is not None and points:  # of tokens
        listed = looked.most[1] / max(1, looked.usable)
        shares = [max(listed, recipe.cascade.most), *[listed] * (points - 1)]
    return prices(priced, points, runs, shares)


def _characters(data: Data, known: Store | None) -> int:
    """Characters of the pool's chats that the store does not have."""
    ids = data.material.pool.example_ids
    there = examples.known_ids(known, ids) if known is not None else set()
    new = [i for i in ids if i not in there]
    parts = examples.in_parts(data.scratch, new)
    return sum(chars(chat) for part in parts for chat in examples.get_messages(data.scratch, part).values())


def _targets(material: Material) -> dict[str, tuple[int, int]]:
    return {name: (len(one.example_ids), len(set(one.subtasks))) for name, one in material.targets.items()}


def _memory(
    recipe: Recipe, rows: int, targets: Mapping[str, tuple[int, int]], label_tokens: float = 0.0, layers: int = 1
) -> tuple[dict[str, int], list[str]]:
    """{what: bytes} that the recipe's methods will hold, and what they may; and which of them would be refused."""
    plan, allowed = planned(recipe, rows, targets, label_tokens, layers), recipe.memory or default_budget()
    needs = {what: int(need) for what, (need, _, _) in plan.items()}
    return {**needs, "allowed": allowed}, [f"{what} would be refused: {why}" for what, why in refused(plan, allowed)]


def _mean(values: Sequence[int]) -> float:
    return sum(values) / max(1, len(values))


def _labels(chats: Sequence[Encoded]) -> float:
    return _mean([chat.n_label_tokens for chat in chats])


def _existing(path: Path) -> Path:
    for folder in (path, *path.resolve().parents):
        if folder.exists():
            return folder
    return Path(tempfile.gettempdir())


def row_bytes(features: Features, seen: Seen, label_tokens: float, plain: bool = False) -> float:
    """Mean bytes of a stored row with its signals, and of the plain row beside it."""
    dims = features.projector.dim * (seen.layers if features.projector.per_module else 1)
    vector = ROW_OVERHEAD_BYTES + dims * {"int4": 0.5, "int8": 1, "f16": 2}[features.row_dtype]
    return (
        vector * (2 if plain else 1)
        + 4 * label_tokens * features.signals.tokens
        + 2 * seen.hidden * features.signals.embedding
        + 4 * seen.layers * features.signals.module_norms
    )
