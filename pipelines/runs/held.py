"""What a store holds already of a run that has not begun: the checkpoints that it would use, rows at them, and trained
arms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradsift.datastore import arms, checkpoints, examples, features, runs, selections
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.points import plain_space
from gradsift.datastore.selections import MIXTURE, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material, evidence
from gradsift.pipelines.features.layers import as_before
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.methods.evidence import SpacePair
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.mix.mixture import mixture_of
from gradsift.pipelines.model.chats import Chats
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.select.select import spec_for
from gradsift.pipelines.training import adopted
from gradsift.pipelines.training.warmup import of_adopted, of_pool, reusable, untrained_fingerprint
from gradsift.pipelines.validate.job import recorded
from gradsift.pipelines.validate.validate import Made, planned_jobs

COSTLY = {"encoder", "training"}  # what an arm may look at that a dry run does not compute


@dataclass(frozen=True)
class Missing:
    """Ids whose rows a run has to compute at one checkpoint: of the pool, of the pool's plain rows alone (the others
    are there), and of targets."""

    pool: Sequence[str]
    plain: Sequence[str]
    targets: Sequence[str]

    @property
    def rows(self) -> int:
        """Rows to compute; those of the plain gradient that come beside others are not counted again."""
        return len(self.pool) + len(self.plain) + len(self.targets)


@dataclass(frozen=True)
class Held:
    """Checkpoints that a run would keep, all of a warm-up or its first ones, and what is missing at each."""

    points: Sequence[Checkpoint] = ()
    missing: Sequence[Missing] = ()


def held_by(work: Work, material: Material, new: bool | None) -> Held:
    """Of a recipe's run on these datasets: at the checkpoints of an earlier warm-up, or at those that the present
    pool's own has so far, if that was begun. Cost: a look-up of every id at each checkpoint."""
    points = _points(work, material, new)
    work = as_before(work, material, points)
    pool = material.pool.example_ids
    targets = sorted({i for target in material.targets.values() for i in target.example_ids})
    return Held(points, [_missing(work, point, pool, targets) for point in points])


def _points(work: Work, material: Material, new: bool | None) -> list[Checkpoint]:
    store, warmup = work.store, work.recipe.warmup
    if warmup is None:
        return checkpoints.listed(store, untrained_fingerprint(work))
    if warmup.from_:
        taken = adopted.read(work.recipe, work.model)
        return checkpoints.listed(store, of_adopted(work, taken, "", 0).fingerprint)
    wanted = runs.wants_new_warmup(store, work.recipe.name) if new is None else new
    for run in [] if wanted or warmup.reuse == "never" else reusable(work, warmup):
        points = checkpoints.listed(store, run.fingerprint)
        if len(points) == run.epochs:
            return points
    pool = material.pool
    return checkpoints.listed(store, of_pool(work, warmup, pool.digest, len(pool.example_ids)).fingerprint)


def _missing(work: Work, point: Checkpoint, pool: Sequence[str], targets: Sequence[str]) -> Missing:
    job = make_job(work, point)
    of_pool_ = _to_come(work.store, fingerprint(job.space()), pool)
    plain: list[str] = []
    if work.recipe.needs_plain and job.as_plain() is not job:
        beside = set(of_pool_)
        lacking = _to_come(work.store, fingerprint(job.as_plain().space()), pool)
        ok = set(pool) - set(_lacking(work.store, fingerprint(job.space()), pool))  # others have no plain row either
        plain = [i for i in lacking if i not in beside and i in ok]
    return Missing(of_pool_, plain, _to_come(work.store, fingerprint(job.as_query().space()), targets))


def _to_come(store: Store, space_digest: str, ids: Sequence[str]) -> list[str]:
    space = features.space_by_fingerprint(store, space_digest)
    return list(ids) if space is None else features.to_come(store, space, ids)


def _lacking(store: Store, space_digest: str, ids: Sequence[str]) -> list[str]:
    space = features.space_by_fingerprint(store, space_digest)
    return list(ids) if space is None else features.lacking(store, space, ids)


def trained(work: Work, material: Material, held: Held) -> int:
    """How many of the run's validation runs are recorded already. 0 where a row is still to be computed or nothing is
    chosen yet, since then nobody knows what the arms train on (but for the model as it is, which costs next to
    nothing). Arms of methods that look at a sentence encoder or train first are not looked for."""
    work = as_before(work, material, held.points)
    recipe = work.recipe
    if recipe.validate_ is None or not arms.any_of(work.store) or any(one.rows for one in held.missing):
        return 0
    found = _recorded_material(work, material, held)
    made = _made(work, found) if found is not None else None
    if found is None or made is None:
        return 0
    left = [name for name in recipe.validation.arms if name not in methods() or not methods()[name].needs & COSTLY]
    settings = recipe.validation.model_copy(update={"arms": left})
    work = work.under(recipe.model_copy(update={"validate_": settings}))
    return sum(recorded(work, job) is not None for job in planned_jobs(work, found, made, Chats(work)))


def _recorded_material(work: Work, material: Material, held: Held) -> Material | None:
    """The same datasets as the store has them, with the spaces of their rows; None where it has not all of them."""
    store = work.store
    try:
        pool = examples.find_dataset(store, "pool", work.recipe.name, material.pool.digest)
        targets = {n: examples.find_dataset(store, "target", n, one.digest) for n, one in material.targets.items()}
        tests = {n: examples.find_dataset(store, "test", n, one.digest) for n, one in material.tests.items()}
    except InputError:
        return None
    pairs = []
    for point in held.points:
        job = make_job(work, point)
        train = features.space_by_fingerprint(store, fingerprint(job.space()))
        query = features.space_by_fingerprint(store, fingerprint(job.as_query().space()))
        if train is None or query is None:
            return None
        pairs.append(SpacePair(train, query, point.mean_lr, plain_space(store, train)))
    return replace(material, pool=pool, targets=targets, tests=tests, pairs=tuple(pairs))


def _made(work: Work, material: Material) -> Made | None:
    """What the store has chosen by these settings from these rows; None where anything is missing."""
    recipe, store = work.recipe, work.store
    known = {(one.name, one.target) for one in selections.newest(store)}
    chosen: dict[str, Selection] = {}
    for name in material.targets if recipe.selecting is not None else ():
        if (f"{recipe.name}-{name}", name) not in known:
            return None  # before evidence is asked for, which would compute an encoder's rows
        found = selections.find(
            store,
            spec_for(work, evidence(work, material, name, recipe.select.encoder, needs=recipe.select.needs), name),
        )
        if found is None:
            return None
        chosen[name] = found
    mixture = None
    if recipe.mix is not None:
        mixture = selections.find(store, mixture_of(work, material)[0]) if (recipe.name, MIXTURE) in known else None
        if mixture is None:
            return None
    return Made(chosen, mixture)
