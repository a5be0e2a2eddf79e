"""What a store holds already of a run that has not begun: the checkpoints that it would use, and rows at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsift.datastore import checkpoints, features, runs
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store, is_store
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.model.load import Loaded
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.training.warmup import reusable


@dataclass(frozen=True)
class Held:
    """Finished checkpoints that the run would keep, and the rows of pool and targets that exist at them, in all."""

    checkpoints: int = 0
    pool_rows: int = 0
    target_rows: int = 0


def held_by(
    root: Path, recipe: Recipe, loaded: Loaded, pool: Sequence[str], targets: Sequence[str], new: bool | None
) -> Held:
    """Of a recipe's run on these examples. Nothing where there is no store, or a new warm-up is asked for: that is
    drawn from the screened pool, which only the run knows. Cost: a look-up of every id at each checkpoint."""
    warmup = recipe.warmup
    if warmup is None or not is_store(root):
        return Held()
    with Store(root, create=False) as store:
        wanted = runs.wants_new_warmup(store, recipe.name) if new is None else new
        if wanted or warmup.reuse == "never":
            return Held()
        work = Work(store, recipe, loaded)
        for run in reusable(work, warmup):
            points = checkpoints.listed(store, run.fingerprint)
            if len(points) == run.epochs:
                jobs = [make_job(work, point) for point in points]
                return Held(
                    checkpoints=len(points),
                    pool_rows=sum(_rows(store, fingerprint(job.space()), pool) for job in jobs),
                    target_rows=sum(_rows(store, fingerprint(job.as_query().space()), targets) for job in jobs),
                )
    return Held()


def _rows(store: Store, space_digest: str, ids: Sequence[str]) -> int:
    space = features.space_by_fingerprint(store, space_digest)
    return 0 if space is None else len(ids) - len(features.missing(store, space, ids))
