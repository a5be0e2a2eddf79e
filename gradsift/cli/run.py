"""Commands that run everything: a recipe, or the demo."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.cli.shared import (
    DEFAULT_STORE,
    Flag,
    Json,
    StorePath,
    app,
    check_processes,
    quiet_libraries,
    quiet_prefect,
)

if TYPE_CHECKING:
    from gradsift.datastore.runs import RunResult
    from gradsift.pipelines.progress import Progress
    from gradsift.pipelines.recipe import Recipe
    from gradsift.pipelines.runs.dryrun import Plan

START = 0.5  # seconds of the interpreter and of reading the recipe
PREFECT = 2.0  # what Prefect and its temporary server take to start, against this package's own imports


@app.command
def run(
    recipe: Path,
    /,
    *,
    store: StorePath = DEFAULT_STORE,
    export_to: Path | None = None,
    dry_run: Flag = False,
    new_warmup: bool | None = None,
    no_prefect: Flag = False,
    processes: int | None = None,
    json: Json = False,
) -> None:
    """Run a recipe, or finish a run that was interrupted.

    Parameters
    ----------
    recipe
        The recipe file (YAML).
    export_to
        Folder for the exports; default: exports/ in the store.
    dry_run
        Show what would run: rows, bytes, minutes. Writes nothing.
    new_warmup
        Train checkpoints on the present pool and compute all rows again, instead of keeping the store's checkpoints.
        Asked for once, it stands until a run has finished with it, or is given --no-new-warmup.
    no_prefect
        Run the stages without Prefect.
    processes
        Do this many validation runs at once, each in a process of its own.
    """
    from gradsift.cli import show, tables
    from gradsift.datastore.runs import as_json
    from gradsift.pipelines.recipe import load_recipe

    loaded = load_recipe(recipe)
    check_processes(no_prefect, processes)
    if dry_run:
        plan = planned(loaded, store, new_warmup, prefect=not no_prefect)
        show.document(asdict(plan)) if json else tables.show_plan(plan)
        return
    quiet_libraries()
    with show.progress() as progress:
        call = Call(loaded, store, export_to, progress, new_warmup)
        result = _directly(call) if no_prefect else _under_prefect(call, processes)
    if json:
        from gradsift.pipelines.report.funnel import document

        show.document({**as_json(result), **document(result)})
        return
    tables.show_result(result)
    tables.show_upkeep(store)


def planned(recipe: "Recipe", store: Path, new_warmup: bool | None = None, *, prefect: bool = True) -> "Plan":
    """What a run would do; what it takes to start is judged by the start of this process."""
    started = starting(prefect=prefect)
    from gradsift.pipelines.runs.dryrun import plan_run

    return plan_run(recipe, store, new_warmup, started)


def starting(*, prefect: bool = True) -> float:
    """Seconds that a run takes before it begins, by what this process takes to import the same. To be called first."""
    began = time.perf_counter()
    quiet_libraries()
    import gradsift.pipelines.runs.dryrun  # noqa: F401 - it is timed

    return START + (time.perf_counter() - began) * (1 + (PREFECT if prefect else 0))


@app.command
def demo(*, folder: Path = Path("demo"), no_prefect: Flag = False, json: Json = False) -> None:
    """Make a pool with planted truth and a small model, run everything, and show what was found.

    Parameters
    ----------
    folder
        Where to put data, model, store, export and result.json.
    no_prefect
        Run the stages without Prefect.
    """
    from gradsift.cli import show, tables
    from gradsift.pipelines.demo.demo import run_demo

    quiet_libraries()
    with show.progress() as progress:

        def run_one(recipe: "Recipe", store: Path, export_to: Path) -> "RunResult":
            call = Call(recipe, store, export_to, progress)
            return _directly(call) if no_prefect else _under_prefect(call)

        outcome = run_demo(folder, run_one, progress)
    if json:
        show.document(outcome.document())
        return
    tables.show_result(outcome.result)
    tables.show_planted(outcome.truth)
    show.line(f"Everything is in {folder}/ ; the table as data: {folder}/result.json")


@dataclass(frozen=True)
class Call:
    """A run that was asked for."""

    recipe: "Recipe"
    store: Path
    export_to: Path | None
    progress: "Progress"
    new_warmup: bool | None = None


def _directly(call: Call) -> "RunResult":
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.curate import curate

    with Store(call.store) as opened:
        return curate(
            call.recipe, opened, export_root=call.export_to, progress=call.progress, new_warmup=call.new_warmup
        )


def _under_prefect(call: Call, count: int | None = None) -> "RunResult":
    """As a flow; validation on `count` processes, if that is given."""
    quiet_prefect()
    from gradsift.flows.curate import curate_with_prefect
    from gradsift.flows.tasks import processes

    runner = processes(count) if count else None
    return curate_with_prefect(
        call.recipe,
        call.store,
        export_root=call.export_to,
        progress=call.progress,
        task_runner=runner,
        new_warmup=call.new_warmup,
    )
