"""What later work takes from a run that is over: its recipe, its datasets, the spaces of its gradient rows."""

from gradsift.datastore import examples, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import mean_lr, plain_space, space_at
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material, Shortlist
from gradsift.pipelines.methods.evidence import SpacePair
from gradsift.pipelines.model.encode import WITHOUT_LABEL
from gradsift.pipelines.model.work import Work, open_work
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, Select, recorded_recipe

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
    parted = result.cascade
    short = None
    if parted is not None:
        space = next(row.space_id for row in result.pool_rows if row.checkpoint == parted.checkpoint)
        statuses = features.statuses(store, space, pool.dataset_id)  # every example without a label has one there
        usable = len(pool.example_ids) - sum(statuses.get(status, 0) for status in WITHOUT_LABEL)
        short = Shortlist(examples.standing(store, parted.dataset_id), usable)
    return Material(pool, targets, pairs=_pairs(store, last, checkpoint), shortlist=short)


def work_on(
    store: Store, recipe: Recipe, material: Material, progress: Progress = quiet, *, trains: bool = False
) -> Work:
    """Later work on a run's material. Its gradient rows say all that is needed of the model; where there are none, or
    those of a part of the pool, the recipe's model is opened (its tokenizer; no weights are loaded), which tells usable
    examples and their tokens as in the run itself. So it is where the work `trains` it.

    Raises FeatureSpaceMismatch where it trains another model than the rows are of, InputError where it is not there.
    """
    if material.pairs and material.shortlist is None and not trains:
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


def require_whole(last: Run, recipe: Recipe, checkpoint: int | None = None) -> None:
    """Raise InputError where a later recipe looks at gradient rows that a cascade of the run left out: it serves what
    it was made for, the same method up to the same budget at all checkpoints. (Methods that look at all rows are
    refused by the recipe itself.)"""
    parted = last.result.cascade
    if parted is None or recipe.selecting is None or not recipe.needs_rows:
        return
    own = recorded_recipe(last.recipes.resolved, "the recipe of its run").select
    same = recipe.select.parts() == own.parts() and checkpoint is None
    if same and _at_most(recipe.select, own, parted.usable):
        return
    raise InputError(
        f"the store's last run, {last.name!r}, computed gradient rows of {parted.shortlist:,} of {parted.usable:,} "
        f"examples (`features.cascade`): enough for method {own.method!r} with the budget that it had, at all "
        "checkpoints. For another choice by gradients run the recipe with that, or without `features.cascade`: only "
        "the rows that are missing are computed"
    )


def _at_most(asked: Select, own: Select, usable: int) -> bool:
    if asked.label_tokens is not None or own.label_tokens is not None:
        within = asked.label_tokens is not None and asked.label_tokens <= (own.label_tokens or 0)
        return within and (asked.at_least or 0) <= (own.at_least or 0)
    size, most = (one.examples or int((one.fraction or 0.0) * usable) for one in (asked, own))
    return size <= most
