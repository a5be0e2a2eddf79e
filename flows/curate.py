"""The `curate` flow: each stage of `pipelines.runs.curate` as one Prefect task."""

from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner

from gradsift.datastore.place import Place
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.flows.runners import Workers, workers_of
from gradsift.flows.tasks import as_task, in_flow, publish
from gradsift.pipelines.model.work import Spread
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.runs.curate import curate


def curate_with_prefect(
    recipe: Recipe,
    place: Place,
    *,
    export_root: Path | None = None,
    progress: Progress = quiet,
    task_runner: TaskRunner[Any] | None = None,
    new_warmup: bool | None = None,
) -> RunResult:
    """Run a recipe as the Prefect flow `curate`; its pieces are done by the workers that the recipe names, or by a task
    runner.

    Raises what the work raised.
    """
    workers = Workers(task_runner) if task_runner else workers_of(recipe.runner, recipe.workers)

    def run(spread: Spread) -> RunResult:
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
            publish(store, result.name, result.arms)
            return result

    return in_flow("curate", recipe.name, run, workers)
