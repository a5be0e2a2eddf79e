"""Functions that run everything: a recipe, or the arms of what was chosen."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsift.api.shared import AnyPath, AnyStore, as_path, folder_of, open_store, opened, section_of, whereabouts
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

    from gradsift.datastore.runs import RunResult
    from gradsift.pipelines.recipe import Recipe
    from gradsift.pipelines.runs.dryrun import Plan

START = 0.5  # seconds of an interpreter and of reading the recipe
# What Prefect and its temporary server add to a run, in times of this package's own imports: 9.4 s against 1.7 s (a run
# of 20 rows with nothing left to do takes 12.4 s, and 3.0 s without Prefect; medians of five on two cores).
PREFECT = 5.5
# The same where a server is up and named: 7.3 s against 4.7 s on busy cores, where the imports took about 2.7 s.
PREFECT_WITH_SERVER = 1.0


def run(
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    store: AnyStore = "store",
    *,
    export_to: AnyPath | None = None,
    new_warmup: bool | None = None,
    prefect: bool = False,
    processes: int | None = None,
    task_runner: "TaskRunner[Any] | None" = None,
    progress: Progress = quiet,
) -> "RunResult":
    """Run a recipe, or finish a run that was interrupted.

    Parameters
    ----------
    recipe
        The recipe: its file (YAML), its fields as a mapping, or a `Recipe`. Relative paths of a file are taken from its
        folder, those of a mapping from the working directory.
    store
        Folder of the store, which is made where it is not there, or an open one.
    export_to
        Folder for the exports; default: exports/ in the store.
    new_warmup
        Train checkpoints on the present pool and compute all rows again, instead of keeping the store's checkpoints.
        Asked for once, it stands until a run has finished with it, or is given False.
    prefect
        Run as a Prefect flow, with your settings of Prefect, instead of in this process alone.
    processes
        With Prefect: the recipe's `runner: process` with this many `workers`.
    task_runner
        With Prefect: any task runner, instead of the recipe's `runner`.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    RunResult
        What was read, chosen, exported and measured, and where the report is.

    Raises
    ------
    InputError
        For a recipe that makes no sense, and for sources without a usable row.
    BusyError
        While another run works on the store.
    StoreFullError
        When the disk is full; the same call goes on.

    Example
    -------
    >>> import json, pathlib
    >>> rows = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(40)]
    >>> lines = chr(10).join(map(json.dumps, rows))
    >>> _ = pathlib.Path("sums.jsonl").write_text(lines)
    >>> recipe = {"name": "sums", "pool": [{"path": "sums.jsonl"}], "mix": {"examples": 10}}
    >>> result = gradsift.run(recipe, "sums-store")
    >>> result.mixtures[0].rows
    10
    """
    loaded = _recipe(recipe)
    _check_workers(prefect, processes, task_runner)
    root = as_path(export_to)
    if prefect:
        from gradsift.flows.curate import curate_with_prefect

        if processes:
            loaded = loaded.with_processes(processes)
        place = whereabouts(store, loaded)
        return curate_with_prefect(
            loaded, place, export_root=root, progress=progress, task_runner=task_runner, new_warmup=new_warmup
        )
    loaded.require_threads()
    from gradsift.pipelines.runs.curate import curate
    from gradsift.pipelines.runs.events import telling, webhook

    with opened(store, loaded) as there:
        return telling(
            loaded.name,
            there.root,
            webhook(loaded.notify, progress),
            lambda: curate(loaded, there, export_root=root, new_warmup=new_warmup, progress=progress),
        )


def dry_run(
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    store: AnyStore = "store",
    *,
    new_warmup: bool | None = None,
    prefect: bool = False,
) -> "Plan":
    """What a run would do: rows, bytes, minutes. Writes nothing.

    Parameters
    ----------
    recipe
        As `run` takes it.
    store
        Folder of the store, which need not be there, or an open one: what it has already need not be computed.
    new_warmup
        As `run` takes it.
    prefect
        Count the start of Prefect, too.

    Returns
    -------
    Plan
        Counts of rows, checkpoints and validation runs, bytes and minutes by stage, and notes.

    Raises
    ------
    InputError
        As the run would: for sources without a usable row, for a pool or target without a label.

    Example
    -------
    >>> import json, pathlib
    >>> _ = pathlib.Path("one.jsonl").write_text(json.dumps({"prompt": "Say yes.", "completion": "Yes."}))
    >>> recipe = {"name": "one", "pool": [{"path": "one.jsonl"}], "mix": {"examples": 1}}
    >>> gradsift.dry_run(recipe).pool_rows
    1
    """
    ready = starting(prefect=prefect)
    from gradsift.pipelines.runs.dryrun import plan_run

    return plan_run(_recipe(recipe), folder_of(store), new_warmup, ready)


def starting(*, prefect: bool = True) -> float:
    """Seconds that a run takes before it begins, by what this process takes to import the same. To be called first."""
    began = time.perf_counter()
    import gradsift.pipelines.runs.dryrun  # noqa: F401 - it is timed

    more = (PREFECT_WITH_SERVER if "PREFECT_API_URL" in os.environ else PREFECT) if prefect else 0.0
    return START + (time.perf_counter() - began) * (1 + more)


def validate(
    settings: Mapping[str, Any] | AnyPath | None = None,
    *,
    out: AnyPath | None = None,
    prefect: bool = False,
    processes: int | None = None,
    task_runner: "TaskRunner[Any] | None" = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "RunResult":
    """Train and measure the arms of what the last run chose, and write the report. Goes on where it was stopped.

    Parameters
    ----------
    settings
        The fields of a recipe's `validate`, or a YAML file with them; default: the recipe's own.
    out
        Where to write the report; default: reports/ in the store.
    prefect
        Run as a Prefect flow, with your settings of Prefect, instead of in this process alone.
    processes
        With Prefect: do this many runs at once, each in a process of its own; default: the `runner` of the last recipe.
    task_runner
        With Prefect: any task runner, instead of that.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, runs done, and runs in all.

    Returns
    -------
    RunResult
        With `arms`, the measured ones, and `report`, where the page is.

    Raises
    ------
    InputError
        Where there is nothing to validate, or no model to train.
    FeatureSpaceMismatch
        Where the model is not the one that chose any more.

    Example
    -------
    >>> arms = gradsift.validate(store="store").arms
    >>> best = min(arms, key=lambda arm: arm.test_loss_mean)
    """
    _check_workers(prefect, processes, task_runner)
    section = None if settings is None else section_of(settings, "validate")
    from gradsift.datastore.outputs import refuse_taken

    if (page := as_path(out)) is not None:
        refuse_taken(whereabouts(store), page, "HTML page")
    if prefect:
        place = whereabouts(store)
        open_store(place.root).close()  # a folder that is no store should fail before Prefect starts
        from gradsift.flows.validate import validate_with_prefect

        return validate_with_prefect(
            place, section, out=page, progress=progress, processes=processes, task_runner=task_runner
        )
    with opened(store) as there:
        from gradsift.pipelines.runs.revalidate import revalidate

        return revalidate(there, section, out=page, progress=progress)


def _recipe(recipe: "Recipe | Mapping[str, Any] | str | Path") -> "Recipe":
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.recipe import Recipe, load_recipe, parse_recipe

    if isinstance(recipe, str | Path):
        return load_recipe(Path(recipe))
    if not isinstance(recipe, Recipe | Mapping):
        raise InputError(f"`recipe` is {recipe!r}: give a file, a mapping or a Recipe")
    return recipe if isinstance(recipe, Recipe) else parse_recipe(dict(recipe))


def _check_workers(prefect: bool, processes: int | None, task_runner: "TaskRunner[Any] | None") -> None:
    from gradsift.datastore.errors import InputError

    if processes is not None and processes < 2:
        raise InputError("processes must be at least 2; without it validation does one run after the other")
    if processes is not None and not prefect:
        raise InputError("processes are those of Prefect's pool: give prefect=True, too")
    if task_runner is not None and (processes is not None or not prefect):
        raise InputError("a task runner is Prefect's, and instead of processes: give prefect=True, and no processes")
