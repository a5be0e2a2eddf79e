"""Stage: gradient rows of a dataset: plan the missing ones as units of work, compute and commit them.

A unit is `unit_rows` examples of similar length, batched by tokens: the longest come first, so that a batch that does
not fit into memory shows in the first minute. Rows do not depend on the unit or batch they were computed in (to float
rounding).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

from gradsift.datastore import examples, features, leases
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.runs import SpaceRows
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.features.space import GradientJob, make_job, plain_space
from gradsift.pipelines.methods.evidence import SpacePair
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.progress import Progress, quiet


def checkpoint_rows(work: Work, material: Material, point: Checkpoint) -> tuple[SpacePair, list[SpaceRows]]:
    """Feature rows of all targets, then of the pool, at one checkpoint: where they are, and how many. Rows of the plain
    gradient are made beside the pool's own where the recipe needs them, in a pass of their own where those exist."""
    job = make_job(work, point)
    workers = work.recipe.workers
    # Targets first: one that cannot be used should fail before the long part.
    rows = [dataset_rows(work, job.as_query(), target) for target in material.targets.values()]
    query = rows[0].space_id  # targets share their space
    beside = job.as_plain() if work.recipe.needs_plain else job
    rows.append(dataset_rows(work, job, material.pool, workers, beside=None if beside is job else beside))
    train = rows[-1].space_id
    if beside is not job:
        label = f"checkpoint {point.ordinal}: plain gradients of {material.pool.name}"
        rows.append(replace(dataset_rows(work, beside, material.pool, workers, label=label), role="plain"))
    return SpacePair(train, query, point.mean_lr, plain_space(work.store, train)), rows


def dataset_rows(
    work: Work,
    job: GradientJob,
    dataset: Dataset,
    workers: int = 1,
    *,
    beside: GradientJob | None = None,
    label: str = "",
) -> SpaceRows:
    """Compute the rows that a dataset lacks, by `workers` threads with a model each; and `beside` them, from the same
    pass, those of the plain gradient. Raises InputError when it has none in the end, BusyError when some are being
    computed elsewhere."""
    space_id, _ = plan_rows(work.store, job, dataset)
    plain = None if beside is None else features.define_space(work.store, beside.space())
    ordinal = job.checkpoint.ordinal
    units = Units(work.store, job, space_id, dataset, plain)

    def one_worker(_number: int) -> int:
        return compute(units, work.progress, label or f"checkpoint {ordinal}: gradients of {dataset.name}")

    if workers == 1:
        computed = one_worker(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            computed = sum(pool.map(one_worker, range(workers)))
    statuses = features.statuses(work.store, space_id, dataset.dataset_id)
    require_rows(dataset, statuses)
    return SpaceRows(
        role=dataset.role,
        space_id=space_id,
        dataset=dataset.name,
        checkpoint=ordinal,
        transform=job.transform,
        computed=computed,
        dataset_id=dataset.dataset_id,
        statuses=statuses,
    )


def plan_rows(store: Store, job: GradientJob, dataset: Dataset) -> tuple[int, int]:
    """Plan the dataset's missing rows; returns (space id, rows planned now). Encodes the missing ones only."""
    space_id = features.define_space(store, job.space())
    todo = features.unplanned(store, space_id, dataset.dataset_id)
    flagged: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for start in range(0, len(todo), 5_000):
        for name, messages in examples.get_messages(store, todo[start : start + 5_000]).items():
            chat = encode(job.loaded.tokenizer, messages, job.encoding.max_length, job.encoding.truncation)
            lengths[name] = len(chat.input_ids)
            if not chat.usable:
                flagged[name] = chat.status
    todo.sort(key=lambda name: (-lengths[name], name))
    return space_id, features.plan(store, space_id, todo, flagged, job.features.unit_rows)


@dataclass
class Done:
    """Rows of a dataset that were computed now, counted by all workers of a process together, of those to compute."""

    total: int
    rows: int = 0
    lock: Lock = field(default_factory=Lock)

    def add(self, rows: int) -> int:
        """Count more of them; returns how many there are now."""
        with self.lock:
            self.rows += rows
            return self.rows


@dataclass(frozen=True)
class Units:
    """The open units of a dataset in a space, and the space of plain rows that are made beside them, if any."""

    store: Store
    job: GradientJob
    space_id: int
    dataset: Dataset
    plain: int | None = None

    def open(self) -> list[int]:
        """Their numbers, oldest first."""
        return features.open_units(self.store, self.space_id, self.dataset.dataset_id)

    @cached_property
    def done(self) -> Done:
        """None yet, of the members of the dataset that are to have a row and had none when this was first asked."""
        return Done(features.statuses(self.store, self.space_id, self.dataset.dataset_id).get("planned", 0))


def compute(units: Units, progress: Progress = quiet, label: str = "") -> int:
    """Compute open units until none is left for this worker; returns the number of rows computed.

    Units are claimed by lease: any number of workers may do this at the same time.
    """
    extractor: Extractor | None = None
    computed = 0
    seen: set[int] = set()
    done = units.done
    while left := [u for u in units.open() if u not in seen]:
        for unit in left:
            seen.add(unit)  # computed here, or by another worker
            with leases.held(units.store, f"unit/{unit}") as mine:
                if not mine or not features.is_open(units.store, unit):
                    continue
                extractor = extractor or Extractor(units.job)
                rows = _compute_unit(units, extractor, unit)
            computed += rows
            progress(label or f"gradients of {units.dataset.name}", min(done.total, done.add(rows)), done.total)
    return computed


def _compute_unit(units: Units, extractor: Extractor, unit: int) -> int:
    store = units.store
    ids = features.unit_ids(store, unit)
    messages = examples.get_messages(store, ids)
    chats = [extractor.encode(messages[i]) for i in ids]
    made = extractor.extract(ids, chats, plain=units.plain is not None)
    features.commit_unit(store, units.space_id, unit, made.block, made.rejected)
    if units.plain is not None and made.plain is not None:
        # Where this is interrupted, the rows are missing, and computed in a pass of their own.
        features.commit_rows(store, units.plain, made.plain, made.plain_rejected or {})
    return len(ids)


def require_rows(dataset: Dataset, statuses: dict[str, int]) -> None:
    """Raise InputError when no member of a dataset has a usable row, BusyError when some are still to come."""
    if statuses.get("planned"):
        raise BusyError(
            f"{statuses['planned']} rows of {dataset.name!r} are being computed by a worker elsewhere; "
            "run again when it has finished, or when its lease has expired (two minutes)"
        )
    if not statuses.get("ok"):
        counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))
        if set(statuses) == {"unrenderable"}:
            raise InputError(
                f"{dataset.role} {dataset.name!r} has no usable gradient row ({counts}): the tokenizer's chat template "
                "refuses every chat, or does not render it turn by turn. Look at the template in the model's folder."
            )
        raise InputError(
            f"{dataset.role} {dataset.name!r} has no usable gradient row ({counts}). Rows without a label token "
            "have none: raise encoding.max_length, or check that the chats end in an assistant turn."
        )
