"""Workers by what a recipe says: threads, processes of this host, Dask, Ray, or a task runner of the user's own."""

import importlib
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from gradsift.datastore.errors import InputError
from gradsift.flows.parent import end_with
from gradsift.pipelines.recipe import Recipe, Runner
from gradsift.pipelines.recipe.runner import DASK, KINDS, PROCESS, RAY, THREADS

# A Ctrl-C in a terminal goes to each process: the run's own ends the others, which else would each tell of it.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
TRUSTED = "GRADSIFT_RUNNER"  # the one function or address that a store's recorded recipe may name
RAY_STORE = 100 * 2**20  # bytes of Ray's object store: pieces of work are small


@dataclass(frozen=True)
class Workers:
    """Who does the pieces of a run: a task runner (None: the run's own thread), and how many threads of torch each
    worker uses (None: as many as it finds)."""

    runner: TaskRunner[Any] | None = None
    threads: int | None = None


def recorded_workers(recipe: Recipe) -> Workers:
    """`workers_of` a recipe that a store recorded, which its reader may never have seen: code is run, and pickles are
    exchanged, where its reader's environment says so.

    Raises InputError for a function or a cluster that GRADSIFT_RUNNER does not name.
    """
    runner = recipe.runner
    named = runner.address or (runner.kind if runner.kind not in KINDS else None)
    if named is not None and named != os.environ.get(TRUSTED):
        raise InputError(
            f"the store's recorded recipe has its work done by {named}, which could run any code here: set "
            f"{TRUSTED}={named} where that is yours, or give `--processes N` (in Python, `task_runner`)"
        )
    return workers_of(runner, recipe.workers)


def workers_of(runner: Runner, workers: int) -> Workers:
    """The workers of a recipe's `runner` and `workers`. Those that are started on this host share its cores.

    Raises InputError where a package is missing, or a function of the user's gives no task runner.
    """
    share = max(1, _cores() // workers)
    if runner.kind == THREADS:
        return Workers(ThreadPoolTaskRunner(max_workers=workers) if workers > 1 else None)
    if runner.kind == PROCESS:
        return Workers(processes(workers), share)
    if runner.kind == DASK:
        return Workers(_dask(runner.address, workers), None if runner.address else share)
    if runner.kind == RAY:
        return Workers(_ray(runner.address, workers), None if runner.address else share)
    return Workers(_own(runner.kind, workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(count: int) -> TaskRunner[Any]:
    """A task runner of processes on this host."""
    return ProcessPoolTaskRunner(max_workers=count, initializer=_end_at_once)


def _end_at_once() -> None:
    signal.signal(signal.SIGTERM, _end)
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        end_with(parent.pid, _end)


def _end(*_: object) -> None:
    """End this process at once, but give back its semaphores, which Prefect made: Python would name each that is left.
    In a thread, with a limit: what was interrupted may hold a lock that this needs."""
    thread = threading.Thread(target=multiprocessing.util._run_finalizers, args=(0,), daemon=True)  # type: ignore[attr-defined]
    thread.start()
    thread.join(5.0)
    os._exit(128 + signal.SIGTERM)


def _dask(address: str | None, workers: int) -> TaskRunner[Any]:
    own: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
    }
    own["preload"] = [DEAF]
    make = _package("prefect_dask", DASK).DaskTaskRunner
    logging.getLogger("distributed").setLevel(logging.ERROR)  # each worker's coming and going else
    made: TaskRunner[Any] = make(address=address) if address else make(cluster_kwargs=own)
    return made


def _ray(address: str | None, workers: int) -> TaskRunner[Any]:
    settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        settings |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        settings |= {"object_store_memory": RAY_STORE}
    elif address == "auto":  # as an address of Prefect's this would start a Ray of its own
        settings, address = settings | {"address": "auto"}, None
    made: TaskRunner[Any] = _package("prefect_ray", RAY).RayTaskRunner(address=address, init_kwargs=settings)
    return made


def _package(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"runner `{extra}` needs packages that are not here: pip install 'gradsift[{extra}]'"
        ) from error


def _own(function: str, workers: int) -> TaskRunner[Any]:
    where, _, name = function.partition(":")
    try:
        make = getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"runner {function!r} cannot be imported: {error}") from error
    made = make(workers) if callable(make) else make
    if not isinstance(made, TaskRunner):
        raise InputError(f"runner {function!r} gave {made!r}: it must be a task runner of Prefect's")
    return made
