"""The `curate` flow: each stage of `pipelines.runs.curate` as one Prefect task."""

from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner

from gradsift.datastore.place import Place
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.flows.artifacts import publish
from gradsift.flows.events import emit
from gradsift.flows.runners import Workers, workers_of
from gradsift.flows.tasks import as_task, in_flow
from gradsift.pipelines.model.work import Spread
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.events import Event, telling, webhook


def curate_with_prefect(
    recipe: Recipe,
    place: Place,
    *,
    export_root: Path | None = None,
    progress: Progress = quiet,
    task_runner: TaskRunner[Any] | None = None,
    new_warmup: bool | None = None,
    tell_failure: bool = True,
) -> RunResult:
    """Run a recipe as the Prefect flow `curate`; its pieces are done by the workers that the recipe names, or by a task
    runner. What happened is told as Prefect events and to the recipe's webhook; a failure only if `tell_failure`, which
    is not for a caller that tries again.

    Raises what the work raised.
    """
    workers = Workers(task_runner) if task_runner else workers_of(recipe.runner, recipe.workers)

    post = webhook(recipe.notify, progress)

    def tell(event: Event) -> None:
        if tell_failure or event.what != "run failed":
            emit(event)
            post(event)

    def work(spread: Spread) -> RunResult:
        with Store(place) as store:
            result = curate(
                recipe,
                store,
                export_root=export_root,
                step=as_task,
                progress=progress,
                spread=spread,
                new_warmup=new_warmup,
            )
            publish(store, result.name, result)
            return result

    def run(spread: Spread) -> RunResult:
        return telling(recipe.name, place.root, tell, lambda: work(spread))

    return in_flow("curate", recipe.name, run, workers)
