"""How work runs under Prefect: as tasks, in a flow, and validation runs on any task runner.

Prefect shows progress and keeps logs; the catalog decides what is done, so every task is `NO_CACHE` and keeps no
result. Without a server, Prefect starts a temporary one for the run.
"""

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.base import ServerType
from prefect.context import FlowRunContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.runs import ArmRow, Json
from gradsift.datastore.store import Store
from gradsift.flows.retries import policy
from gradsift.pipelines.report.page import markdown
from gradsift.pipelines.report.report import report
from gradsift.pipelines.validate.job import Job, do_job
from gradsift.pipelines.validate.validate import Spread

T = TypeVar("T")
Runner = TaskRunner[Any]
SERVER_START_SECONDS = 120


def _task(name: str, action: Callable[[], Any]) -> Any:
    """A task without parameters (a runner may look into those, and change them): what it needs is in `action`. It is
    tried again after failures that may pass (`retries`)."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False, **policy())(action)


def as_task(name: str, action: Callable[[], Any]) -> Any:
    """Run a piece of work as a Prefect task. Nothing is passed or kept: the store holds all state."""
    return _task(name, action)()


def submit_jobs(jobs: Sequence[Job]) -> None:
    """Do jobs on the task runner of the flow that this is called in, in whatever process or machine that has.

    All are tried; then the first failure is raised, and what was done is recorded.
    """
    with _server_for_children():
        futures = [_task(job.name, _action_of(job)).submit() for job in jobs]
    try:
        for future in futures:
            future.wait()
        for future in futures:
            future.result()
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():  # a pool's processes would go on with the next job
            child.terminate()
        raise


@contextmanager
def _server_for_children() -> Iterator[None]:
    """The flow's server in the settings that processes inherit; else each would start a temporary one of its own."""
    running = FlowRunContext.get()
    known = {} if running is None else {PREFECT_API_URL: str(running.client.api_url)}
    with temporary_settings(known):
        yield


def _action_of(job: Job) -> Callable[[], None]:
    def action() -> None:
        do_job(job)

    return action


def spread_over(runner: Runner | None) -> Spread | None:
    """How validation spreads its runs over a task runner; None without one, where it does them itself."""
    return None if runner is None else submit_jobs


def processes(count: int) -> Runner:
    """A task runner of processes on this machine, its cores shared out between them."""
    threads = max(1, (os.cpu_count() or 1) // count)
    return ProcessPoolTaskRunner(max_workers=count, initializer=_prepare, initargs=(threads,))


def _prepare(count: int) -> None:
    import torch

    torch.set_num_threads(count)
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    """End this process at once, but give back its semaphores, which Prefect made: Python would name each that is left.
    In a thread, with a limit: what was interrupted may hold a lock that this needs."""
    thread = threading.Thread(target=multiprocessing.util._run_finalizers, args=(0,), daemon=True)  # type: ignore[attr-defined]
    thread.start()
    thread.join(1.0)
    os._exit(128 + signal.SIGTERM)


def _hang_up() -> None:
    """Close the client of a temporary server, which a Ctrl-C has ended too: Prefect would ask it again for a minute."""
    running = FlowRunContext.get()
    if running is not None and running.client.server_type is ServerType.EPHEMERAL:
        running.client.__exit__(None, None, None)


@contextmanager
def _patient() -> Iterator[None]:
    """A temporary server may be slow to start on a busy machine: that is waited for, longer if the user says so."""
    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    with temporary_settings({patience: max(SERVER_START_SECONDS, patience.value())}):
        yield


def in_flow(name: str, run_name: str, action: Callable[[], T], runner: Runner | None = None) -> T:
    """Do an action as a Prefect flow run.

    Raises what the action raised, even where Prefect then fails too: a Ctrl-C in a terminal also ends the temporary
    server, and the error of not reaching it must not hide the interrupt.
    """
    failures: list[BaseException] = []

    def attempt() -> T:
        try:
            return action()
        except BaseException as error:
            failures.append(error)
            if isinstance(error, KeyboardInterrupt):
                _hang_up()
            raise

    def first_cause() -> BaseException | None:
        chain = failures[0] if failures else None
        while chain is not None and not isinstance(chain, KeyboardInterrupt | GradsiftError) and chain.__context__:
            chain = chain.__context__
        return chain

    as_flow = flow(
        name=name, flow_run_name=run_name, persist_result=False, validate_parameters=False, task_runner=runner
    )
    run = as_flow(attempt)
    try:
        with _patient():
            return run()
    except BaseException as error:
        cause = first_cause()
        if isinstance(cause, KeyboardInterrupt | GradsiftError):
            raise cause from cause.__cause__  # Prefect's own are left out
        raise error from None


def publish(store: Store, name: str, arms: Sequence[ArmRow]) -> None:
    """The report as Prefect artifacts of the flow run: the page as Markdown, and the table of arms as a table."""
    key = f"gradsift-{name}"
    create_markdown_artifact(markdown(report(store)), key=key, description=f"Report of {name}")
    if arms:
        columns = ("target", "arm", "examples", "test_loss_mean", "test_loss_ci95", "score_mean", "forgetting")
        rows: list[Json] = [{c: getattr(arm, c) for c in columns} for arm in arms]
        create_table_artifact(rows, key=f"{key}-arms", description="Test loss by arm, mean over seeds")
