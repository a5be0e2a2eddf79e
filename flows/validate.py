"""The `validate` flow: arms of what a store's last run chose, each run as a Prefect task."""

from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner

from gradsift.datastore import runs
from gradsift.datastore.place import Place
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.flows.artifacts import publish
from gradsift.flows.runners import Workers, recorded_workers
from gradsift.flows.tasks import as_task, in_flow
from gradsift.pipelines.model.work import Spread
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Fields, recorded_recipe
from gradsift.pipelines.runs.revalidate import revalidate


def validate_with_prefect(
    place: Place,
    settings: Fields | None = None,
    *,
    out: Path | None = None,
    progress: Progress = quiet,
    processes: int | None = None,
    task_runner: TaskRunner[Any] | None = None,
) -> RunResult:
    """`revalidate` as the Prefect flow `validate`, its runs done by so many processes, by a task runner, or by the
    workers that the store's last recipe names.

    Raises what the work raised.
    """
    if task_runner is None:
        with Store(place, create=False) as store:
            recipe = recorded_recipe(runs.last_run(store).recipes.resolved, "this validation")
        recipe = recipe.with_processes(processes) if processes else recipe
        workers = recorded_workers(recipe)
    else:
        workers = Workers(task_runner)

    def run(spread: Spread) -> RunResult:
        with Store(place, create=False) as store:
            result = revalidate(store, settings, out=out, step=as_task, progress=progress, spread=spread)
            publish(store, Path(result.report).stem, result)
            return result

    return in_flow("validate", place.root.resolve().name or "store", run, workers)
