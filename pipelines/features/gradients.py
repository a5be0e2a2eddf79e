"""Stage: gradient rows of a dataset: plan the missing ones as units of work, compute and commit them.

A unit is `unit_rows` examples of similar length, batched by tokens: the longest come first, so that a batch that does
not fit into memory shows in the first minute. Rows do not depend on the unit or batch they were computed in (to float
rounding).
"""

from dataclasses import dataclass, replace

from gradsift.datastore import examples, features
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.leases import Lease
from gradsift.datastore.points import plain_space
from gradsift.datastore.runs import SpaceRows
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.features.space import GradientJob, make_job
from gradsift.pipelines.features.units import Part, UnitsPiece, claimed, compute_open, require_space
from gradsift.pipelines.methods.evidence import SpacePair
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.pieces import own_model
from gradsift.pipelines.model.work import Work

JOB = "gradient job"


def checkpoint_rows(work: Work, material: Material, point: Checkpoint) -> tuple[SpacePair, list[SpaceRows]]:
    """Feature rows of all targets, then of the pool, at one checkpoint: where they are, and how many. Rows of the plain
    gradient are made beside the pool's own where the recipe needs them, in a pass of their own where those exist."""
    job = make_job(work, point)
    # Targets first: one that cannot be used should fail before the long part.
    rows = [dataset_rows(work, job.as_query(), target) for target in material.targets.values()]
    query = rows[0].space_id  # targets share their space
    beside = job.as_plain() if work.recipe.needs_plain else job
    rows.append(dataset_rows(work, job, material.pool, beside=None if beside is job else beside))
    train = rows[-1].space_id
    if beside is not job:
        label = f"checkpoint {point.ordinal}: plain gradients of {material.pool.name}"
        rows.append(replace(dataset_rows(work, beside, material.pool, label=label), role="plain"))
    return SpacePair(train, query, point.mean_lr, plain_space(work.store, train)), rows


def dataset_rows(
    work: Work,
    job: GradientJob,
    dataset: Dataset,
    *,
    beside: GradientJob | None = None,
    label: str = "",
) -> SpaceRows:
    """Compute the rows that a dataset lacks, by the workers of the run with a model each; and `beside` them, from the
    same pass, those of the plain gradient. Raises InputError when it has none in the end."""
    store = work.store
    space_id, _ = plan_rows(store, job, dataset)
    plain = None if beside is None else features.define_space(store, beside.space())
    ordinal = job.checkpoint.ordinal
    order, label = work.order(model=True), label or f"checkpoint {ordinal}: gradients of {dataset.name}"

    def piece_of(part: Part) -> GradientPiece:
        return GradientPiece(order, part, space_id, plain, job.checkpoint, job.transform, job.loss, job.bare)

    work.kept[JOB, space_id] = job
    try:
        computed = compute_open(work, space_id, dataset, label, piece_of)
    finally:
        del work.kept[JOB, space_id]
    statuses = features.statuses(store, space_id, dataset.dataset_id)
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
    lengths = examples.ById[int]()
    for part in examples.in_parts(store, todo):
        for name, messages in examples.get_messages(store, part).items():
            chat = encode(job.loaded.tokenizer, messages, job.encoding.max_length, job.encoding.truncation)
            lengths[name] = len(chat.input_ids)
            if not chat.usable:
                flagged[name] = chat.status
    todo.sort(key=lambda name: (-lengths[name], name))
    return space_id, features.plan(store, space_id, todo, flagged, job.features.unit_rows)


@dataclass(frozen=True)
class GradientPiece(UnitsPiece):
    """Units of gradient rows at a checkpoint, and the space of plain rows that are made beside them, if any."""

    space_id: int
    plain: int | None
    checkpoint: Checkpoint
    transform: str
    loss: str
    bare: bool

    def run(self, work: Work) -> None:
        """Compute the units that are open and free. Raises FeatureSpaceMismatch where this process would make other
        rows."""

        def compute(unit: int, lease: Lease) -> None:
            _compute(work.store, own_model(work, self.space_id, lambda: self._extractor(work)), self, unit, lease)

        claimed(work, self.part.units, compute)

    def _extractor(self, work: Work) -> Extractor:
        job = work.kept.get((JOB, self.space_id))  # the run's own process has it
        if job is None:
            job = make_job(work, self.checkpoint)
            job = replace(job, transform=self.transform, loss=self.loss, bare=self.bare)
            require_space(work.store, self.space_id, job.space())
        return Extractor(job)


def _compute(store: Store, extractor: Extractor, piece: GradientPiece, unit: int, lease: Lease) -> None:
    ids = features.unit_ids(store, unit)
    messages = examples.get_messages(store, ids)
    chats = [extractor.encode(messages[i]) for i in ids]
    made = extractor.extract(ids, chats, plain=piece.plain is not None)
    mine = features.commit_unit(store, piece.space_id, unit, made.block, made.rejected, lease)
    if mine and piece.plain is not None and made.plain is not None:
        # Where this is interrupted, the rows are missing, and computed in a pass of their own.
        features.commit_rows(store, piece.plain, made.plain, made.plain_rejected or {})


def require_rows(dataset: Dataset, statuses: dict[str, int]) -> None:
    """Raise InputError when no member of a dataset has a usable row."""
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
