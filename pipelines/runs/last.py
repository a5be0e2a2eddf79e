"""What later work takes from a run that is over: its recipe, its datasets, the spaces of its gradient rows."""

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import mean_lr, plain_space, space_at
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.methods.evidence import SpacePair
from gradsift.pipelines.model.work import Work, open_work
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe

OLDER = "the store's last run is of an older version; run its recipe again"


def material_of(store: Store, last: Run, checkpoint: int | None = None) -> Material:
    """Datasets and spaces of a run, at all of its checkpoints or at one.

    Where examples of a dataset were deleted since, what is left of it stands for it. Raises InputError for a run of an
    older version, which must be finished again, and for an unknown checkpoint.
    """
    result = last.result
    if result.ingest.pool.used_dataset_id is None or any(row.dataset_id is None for row in result.rows):
        raise InputError(OLDER)
    targets = {
        name: examples.find_dataset(store, "target", name, report.digest)
        for name, report in result.ingest.targets.items()
    }
    pool = examples.standing(store, result.ingest.pool.used_dataset_id)
    return Material(pool, targets, pairs=_pairs(store, last, checkpoint))


def work_on(
    store: Store, recipe: Recipe, material: Material, progress: Progress = quiet, *, trains: bool = False
) -> Work:
    """Later work on a run's material. Its gradient rows say all that is needed of the model; where there are none, the
    recipe's model is opened (its tokenizer; no weights are loaded), which tells usable examples and their tokens as in
    the run itself. So it is where the work `trains` it.

    Raises FeatureSpaceMismatch where it trains another model than the rows are of, InputError where it is not there.
    """
    if material.pairs and not trains:
        return Work(store, recipe, progress=progress)
    from gradsift.pipelines.features.space import require_model  # loads torch, which later choices do without

    work = open_work(store, recipe, progress)
    for pair in material.pairs:
        require_model(store, pair.train, work.model)
    return work


def _pairs(store: Store, last: Run, checkpoint: int | None) -> tuple[SpacePair, ...]:
    if checkpoint is not None:
        space_at(last, checkpoint)
    of_targets = {row.checkpoint: row.space_id for row in last.result.rows if row.role == "target"}
    return tuple(
        SpacePair(
            row.space_id,
            of_targets[row.checkpoint],
            mean_lr(store, row.space_id),
            plain_space(store, row.space_id),
        )
        for row in last.result.pool_rows
        if checkpoint is None or row.checkpoint == checkpoint
    )
