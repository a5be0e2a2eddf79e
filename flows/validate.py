"""The `validate` flow: arms of what a store's last run chose, each run as a Prefect task."""

from pathlib import Path

from gradsift.datastore.place import Place
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.flows.tasks import Runner, as_task, in_flow, publish, spread_over
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Fields
from gradsift.pipelines.runs.revalidate import revalidate


def validate_with_prefect(
    place: Place,
    settings: Fields | None = None,
    *,
    out: Path | None = None,
    progress: Progress = quiet,
    task_runner: Runner | None = None,
) -> RunResult:
    """`revalidate` as the Prefect flow `validate`, its runs spread over the task runner, if one is given.

    Raises what the work raised.
    """

    def run() -> RunResult:
        with Store(place, create=False) as store:
            result = revalidate(
                store, settings, out=out, step=as_task, progress=progress, spread=spread_over(task_runner)
            )
            publish(store, Path(result.report).stem, result.arms)
            return result

    return in_flow("validate", place.root.resolve().name or "store", run, task_runner)
