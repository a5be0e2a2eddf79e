"""The flows that a deployment names: `nightly` runs a recipe (ingest → features → curate), `weekly` its validation.

Their parameters are plain, so that a schedule, `prefect deployment run` and the UI can give them. What they do is what
`gradsift run` and `gradsift validate` do, as a flow run of its own below this one. A night that finds another at work
in the store ends as `AlreadyRunning`, which is no failure. What fails of a thing that may pass is tried again, first
the task that it happened in, then once the whole (`flows.retries`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled

from gradsift.datastore import leases
from gradsift.datastore.errors import BusyError
from gradsift.datastore.place import place_of
from gradsift.datastore.store import Store
from gradsift.flows import dead
from gradsift.flows.curate import curate_with_prefect
from gradsift.flows.events import emit
from gradsift.flows.logs import logged, warned
from gradsift.flows.parent import end_with
from gradsift.flows.tasks import as_task
from gradsift.flows.validate import validate_with_prefect
from gradsift.pipelines.recipe import load_recipe
from gradsift.pipelines.runs.events import failure, webhook

AGAIN_SECONDS = 600.0  # before the whole is tried once more
ALREADY_RUNNING = "AlreadyRunning"
SERVED_BY = "GRADSIFT_SERVED_BY"  # in a night's environment: the process that started it


@contextmanager
def nights_end_with_this() -> Iterator[None]:
    """Nights that are started as children of this process inside the block end when it does, however it ends: nobody
    else knows of them then, and the next serves a new one."""
    os.environ[SERVED_BY] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[SERVED_BY]


def _run_name() -> str:
    """The recipe (or store) and the day that the run was due: `alpaca 2026-03-01`."""
    given = flow_run.parameters
    what = Path(str(given.get("recipe") or given["store"])).stem
    return f"{what} {flow_run.scheduled_start_time:%Y-%m-%d}"


@flow(name="nightly", flow_run_name=_run_name, persist_result=False)
def nightly(recipe: str, store: str, export_to: str | None = None) -> State[None] | None:
    """Run a recipe: read what came, compute what is missing, choose, export, and write the report.

    Parameters
    ----------
    recipe
        The recipe file (YAML), as the machine that runs this finds it.
    store
        Folder of the store, which is made where it is not there.
    export_to
        Folder for the exports; default: exports/ in the store.

    Returns
    -------
    State
        `AlreadyRunning` (a cancelled run) where another run works on the store, else none.

    Raises
    ------
    GradsiftError
        As `gradsift.run` does.
    """
    loaded = load_recipe(Path(recipe))
    place = loaded.place(Path(store))

    def work() -> None:
        with Store(place) as there:
            if leases.is_held(there, leases.RUN):  # asked first, so that no flow run begins for nothing
                raise BusyError(f"another run is working on {place.root}; the next scheduled run goes on")
            export_root = None if export_to is None else Path(export_to)
            progress = logged(there, loaded.name)
            curate_with_prefect(loaded, place, export_root=export_root, progress=progress, tell_failure=False)

    try:
        return _tried("curate", work)
    except Exception as error:
        failed = failure(place.root, loaded.name, error)
        emit(failed)
        webhook(loaded.notify, warned)(failed)
        raise


@flow(name="weekly", flow_run_name=_run_name, persist_result=False)
def weekly(store: str, recipe: str | None = None) -> State[None] | None:
    """Train and measure the arms of what the store's last run chose, and write its report.

    Parameters
    ----------
    store
        Folder of the store.
    recipe
        The recipe file whose `validate` says how; default: what the store recorded, of which task folders of lm-eval
        and trackers are not followed.

    Returns
    -------
    State
        `AlreadyRunning` (a cancelled run) where a deletion that must end first is at work, else none.

    Raises
    ------
    GradsiftError
        As `gradsift.validate` does.
    """
    place = place_of(Path(store))

    def work() -> None:
        section = None if recipe is None else load_recipe(Path(recipe)).validate_
        settings = None if section is None else section.model_dump(mode="json", by_alias=True)
        with Store(place, create=False) as there:
            validate_with_prefect(place, settings, progress=logged(there, place.root.name))

    try:
        return _tried("validate", work)
    except Exception as error:
        emit(failure(place.root, place.root.name, error))
        raise


def _tried(name: str, work: Callable[[], None]) -> State[None] | None:
    """Do the work as a task, once more after a failure that may pass; where the store is busy, that is the answer."""
    if served_by := os.environ.get(SERVED_BY):
        end_with(int(served_by))
    dead.begin()

    def attempt() -> str | None:
        try:
            work()
        except BusyError as error:
            return str(error)
        return None

    busy = as_task(name, attempt, retries=1, retry_delay_seconds=AGAIN_SECONDS)
    return None if busy is None else Cancelled(name=ALREADY_RUNNING, message=busy)
