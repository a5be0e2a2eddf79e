"""What a scheduled run says in Prefect's log: a line every so often, and one for each unit of work, each with its store
and run."""

import logging
import time
from contextlib import suppress
from functools import cache
from typing import TypeAlias

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from gradsift.datastore import lives
from gradsift.datastore.store import Store
from gradsift.flows.artifacts import progress_bars
from gradsift.pipelines.features.units import LOG as UNITS
from gradsift.pipelines.progress import Progress

Logs: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]
EVERY_SECONDS = 30.0


def logged(store: Store, name: str, every: float = EVERY_SECONDS) -> Progress:
    """Progress that writes to the log of the flow or task run that it is called in: when a stage begins and ends, and
    every `every` seconds between. Lines begin with store and run, since the log of a task does not say them:
    `[/data/store run 12] gradients-1: 512 of 4,096`. A stage that takes longer than that gets a progress artifact, too.
    To be made inside a flow run."""
    flow_log = get_run_logger()
    show = progress_bars(name)
    long: set[str] = set()
    said: dict[str, float] = {}
    number: list[int] = []

    def progress(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        begun = stage in said
        if begun and done != total and now - said[stage] < every:
            return
        said[stage] = now
        if begun and done != total:
            long.add(stage)
        if stage in long and total is not None:
            show(stage, done, total)
        if not number:
            number.extend(lives.open_numbers(store, name)[:1])
        which = f"run {number[0]}" if number else f"run of {name}"
        of = "" if total is None else f" of {total:,}"
        _log(flow_log).info("[%s %s] %s: %s%s", store.root.resolve(), which, stage, f"{done:,}", of)

    return progress


def warned(stage: str, done: int, total: int | None) -> None:  # noqa: ARG001 - as progress is told
    """Progress that is a warning in the log of the run that it is called in."""
    get_run_logger().warning(stage)


@cache  # once for a process
def log_units() -> None:
    """Have each unit that this process computes told in the log of its task run, wherever that is done:
    `[/data/store run 12 unit 345] computed in 5.2 s`."""
    UNITS.addHandler(_TaskLog())
    UNITS.setLevel(logging.INFO)


class _TaskLog(logging.Handler):
    """Passes records on to the log of the task run that they come from."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, unless it comes from no task run."""
        with suppress(MissingContextError):
            get_run_logger().info("%s", record.getMessage())


def _log(flow_log: Logs) -> Logs:
    """The task run's log where this is called in one; a worker's own thread has neither."""
    try:
        return get_run_logger()
    except MissingContextError:
        return flow_log
