"""What a store holds already of a run that has not begun: the checkpoints that it would use, and rows at them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsift.datastore import checkpoints, examples, features, marks, runs, tombstones
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store, is_store
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.model.load import Loaded
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.training.warmup import of_pool, reusable


@dataclass(frozen=True)
class Held:
    """Checkpoints that the run would keep, all of a warm-up or the first ones, and the rows of pool and targets that
    exist at them, in all."""

    checkpoints: int = 0
    pool_rows: int = 0
    target_rows: int = 0


def held_by(
    root: Path, recipe: Recipe, loaded: Loaded, pool: Sequence[Example], targets: Sequence[str], new: bool | None
) -> Held:
    """Of a recipe's run on these examples: at the checkpoints of an earlier warm-up, or at those that the present
    pool's own has so far, if that was begun. Cost: a look-up of every id at each checkpoint; for the present pool's own
    warm-up, reading the test sets and a digest of the pool for each of its screenings, too."""
    warmup = recipe.warmup
    if warmup is None or not is_store(root):
        return Held()
    with Store(root, create=False) as store:
        wanted = runs.wants_new_warmup(store, recipe.name) if new is None else new
        work = Work(store, recipe, loaded)
        for run in [] if wanted or warmup.reuse == "never" else reusable(work, warmup):
            points = checkpoints.listed(store, run.fingerprint)
            if len(points) == run.epochs:
                return _at(work, points, pool, targets)
        for digest, rows in _versions(work, pool):
            points = checkpoints.listed(store, of_pool(work, warmup, digest, rows).fingerprint)
            if points:
                return _at(work, points, pool, targets)
    return Held()


def _at(work: Work, points: Sequence[Checkpoint], pool: Sequence[Example], targets: Sequence[str]) -> Held:
    jobs, ids = [make_job(work, point) for point in points], [one.example_id for one in pool]
    return Held(
        checkpoints=len(points),
        pool_rows=sum(_rows(work.store, fingerprint(job.space()), ids) for job in jobs),
        target_rows=sum(_rows(work.store, fingerprint(job.as_query().space()), targets) for job in jobs),
    )


def _versions(work: Work, pool: Sequence[Example]) -> Iterator[tuple[str, int]]:
    """(digest, rows) of what a run may make of these examples before its warm-up, as far as the store's screenings
    tell: without what was deleted and test rows, then without what was marked."""
    store = work.store
    gone = tombstones.known(store, [one.example_id for one in pool])
    members = {one.example_id: one.subtask for one in pool if one.example_id not in gone}
    held_out = {
        row.example_id
        for target in work.recipe.targets.values()
        if target.test is not None
        for row in read_source(target.test, work.recipe.seed)
        if isinstance(row, Example)
    }
    if held_out & members.keys():
        members = dict.fromkeys(members.keys() - held_out, "")
    versions = [members]
    while versions:
        members = versions.pop()
        digest = examples.digest_of(members)
        yield digest, len(members)
        for screening in reversed(marks.of_pool(store, digest)):
            left = members.keys() - {mark.example_id for mark in marks.of_screening(store, screening)}
            if 0 < len(left) < len(members):
                versions.append(dict.fromkeys(left, ""))


def _rows(store: Store, space_digest: str, ids: Sequence[str]) -> int:
    space = features.space_by_fingerprint(store, space_digest)
    return 0 if space is None else len(ids) - len(features.to_come(store, space, ids))
