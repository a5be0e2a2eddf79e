"""The `curate` flow: each stage of `pipelines.runs.curate` as one Prefect task."""

from pathlib import Path

from gradsift.datastore.place import Place
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.flows.tasks import Runner, as_task, in_flow, publish, spread_over
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.runs.curate import curate


def curate_with_prefect(
    recipe: Recipe,
    place: Place,
    *,
    export_root: Path | None = None,
    progress: Progress = quiet,
    task_runner: Runner | None = None,
    new_warmup: bool | None = None,
) -> RunResult:
    """Run a recipe as the Prefect flow `curate`; validation runs are spread over the task runner, if one is given.

    Raises what the work raised.
    """

    def run() -> RunResult:
        with Store(place) as store:
            result = curate(
                recipe,
                store,
                export_root=export_root,
                step=as_task,
                progress=progress,
                spread=spread_over(task_runner),
                new_warmup=new_warmup,
            )
            publish(store, result.name, result.arms)
            return result

    return in_flow("curate", recipe.name, run, task_runner)
