"""How work runs under Prefect: as tasks, in a flow, and its pieces on any task runner.

Prefect shows progress and keeps logs; the catalog decides what is done, so every task is `NO_CACHE` and keeps no
result. Without a server, Prefect starts a temporary one for the run.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, cast
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from gradsift.datastore.errors import GradsiftError
from gradsift.flows import dead, server
from gradsift.flows.logs import log_units
from gradsift.flows.retries import policy
from gradsift.flows.runners import Workers
from gradsift.pipelines.model.pieces import do
from gradsift.pipelines.model.work import Done, Piece, Spread

T = TypeVar("T")
SERVER_START_SECONDS = 120


def _task(name: str, action: Callable[[], Any], **options: Any) -> Any:
    """A task without parameters (a runner may look into those, and change them): what it needs is in `action`. It is
    tried again after failures that may pass (`retries`)."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False, **(policy() | options))(action)


def as_task(name: str, action: Callable[[], Any], **options: Any) -> Any:
    """Run a piece of work as a Prefect task. Nothing is passed or kept: the store holds all state."""
    with _named(action) as key:
        return _task(name, lambda: _do_named(key), **options)()


_NAMED: dict[str, Callable[[], Any]] = {}


@contextmanager
def _named(action: Callable[[], Any]) -> Iterator[str]:
    """A name for an action of this process. The flow and its tasks hold the name alone: Prefect sends them along with
    each piece, and what an action holds (open stores, models, progress bars) does not pickle."""
    key = uuid4().hex
    _NAMED[key] = action
    try:
        yield key
    finally:
        del _NAMED[key]


def _do_named(key: str) -> Any:
    return _NAMED[key]()


@contextmanager
def spreading(workers: Workers) -> Iterator[Spread]:
    """How a run, inside this block and inside its flow, has its pieces done: each as a task, by these workers.

    All pieces are tried; then the first failure is raised, and what was done is recorded. What a worker had that died
    is neither done nor a failure. A pool of processes, which ends with the first of them that dies, is made anew.
    """
    with ExitStack() as fresh:
        runner = workers.runner

        def spread(pieces: Sequence[Piece], done: Done) -> Sequence[str]:
            nonlocal runner
            in_thread = runner is None or isinstance(runner, ThreadPoolTaskRunner)
            failures: list[Exception] = []
            lost: list[str] = []
            waiting = []
            with server_for_children(), _devices_of(runner):
                for piece in pieces:
                    one = _task(piece.name, _action_of(piece, workers.threads))
                    if runner is None or (in_thread and piece.alone):
                        one()
                        done(piece)
                    elif runner is workers.runner:
                        waiting.append((piece, one.submit()))
                    else:
                        waiting.append((piece, runner.submit(one, {})))
            with _ending_processes() if isinstance(runner, ProcessPoolTaskRunner) else nullcontext():
                for piece, future in waiting:
                    end = _end_of(future)
                    if end is None:
                        done(piece)
                    elif end.lost:
                        lost.append(f"{type(end.error).__name__}: {end.error}")
                    else:
                        failures.append(end.error)
            if failures:
                raise failures[0]
            if lost and isinstance(runner, ProcessPoolTaskRunner):
                runner = fresh.enter_context(runner.duplicate())
            return lost

        yield spread


@dataclass(frozen=True)
class _End:
    """How a task ended that did not complete: by its own error, or because its worker was lost."""

    error: Exception
    lost: bool


def _end_of(future: PrefectFuture[Any]) -> _End | None:
    """Wait for a task; None when it completed."""
    failed = False
    try:
        future.wait()
        failed = future.state.is_failed()  # by what it raised; all else that is no success is a worker that ended
        future.result()
    except Exception as error:  # noqa: BLE001 - whatever a task or its runner raises is told
        return _End(error, not failed)
    return None


@contextmanager
def _ending_processes() -> Iterator[None]:
    """End a pool's processes when this is stopped: they would go on with the next piece. Clusters end their own."""
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal):
        for child in multiprocessing.active_children():
            child.terminate()
        raise


@contextmanager
def server_for_children() -> Iterator[None]:
    """The flow's server in the settings that processes inherit; else each would start a temporary one of its own."""
    running = FlowRunContext.get()
    known = {} if running is None else {PREFECT_API_URL: str(running.client.api_url)}
    with temporary_settings(known):
        yield


@contextmanager
def _devices_of(runner: TaskRunner[Any] | None) -> Iterator[None]:
    """Ask Ray for a GPU for each task where the cluster has some: a task sees no device that was not asked for."""
    if runner is None or type(runner).__module__.partition(".")[0] != "prefect_ray":
        yield
        return
    ray, context = import_module("ray"), import_module("prefect_ray.context")
    with context.remote_options(num_gpus=1) if ray.cluster_resources().get("GPU") else nullcontext():
        yield


def _action_of(piece: Piece, threads: int | None) -> Callable[[], None]:
    def action() -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        log_units()
        do(piece)

    return action


@contextmanager
def _patient() -> Iterator[None]:
    """A temporary server may be slow to start on a busy machine: that is waited for, longer if the user says so."""
    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    with temporary_settings({patience: max(SERVER_START_SECONDS, patience.value())}):
        yield


def in_flow(name: str, run_name: str, action: Callable[[Spread], T], workers: Workers) -> T:
    """Do an action as a Prefect flow run; it is given what spreads pieces of work over these workers.

    Raises what the action raised, even where Prefect then fails too: the error of not reaching a server that ends
    meanwhile must not hide an interrupt.
    """
    failures: list[BaseException] = []

    def attempt() -> T:
        try:
            dead.begin()
            with spreading(workers) as spread:
                return action(spread)
        except BaseException as error:
            failures.append(error)
            raise

    def first_cause() -> BaseException | None:
        chain = failures[0] if failures else None
        while chain is not None and not isinstance(chain, KeyboardInterrupt | GradsiftError) and chain.__context__:
            chain = chain.__context__
        return chain

    as_flow = flow(
        name=name, flow_run_name=run_name, persist_result=False, validate_parameters=False, task_runner=workers.runner
    )
    server.use()
    try:
        with _patient(), _named(attempt) as key:
            return cast("T", as_flow(lambda: _do_named(key))())
    except BaseException as error:
        cause = first_cause()
        if isinstance(cause, KeyboardInterrupt | GradsiftError):
            raise cause from cause.__cause__  # Prefect's own are left out
        raise error from None
