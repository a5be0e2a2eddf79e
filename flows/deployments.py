"""Deployments: a recipe on a schedule, served by this machine (`serve`) or by the workers of a work pool (`deploy`).

Prefect does all of it: its server keeps the schedule, and a runner or a worker starts each run in a process of its own.
A deployment runs once at a time: a run that is due while the one before it is at work is cancelled by the server.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from prefect import serve as serve_all
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from gradsift.datastore.errors import InputError, UnavailableError
from gradsift.flows.nightly import nightly, nights_end_with_this, weekly

ONCE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
NEXT = 3
PATIENCE_SECONDS = 30.0  # a server on a busy machine takes about 15 to listen
START = "start one with `prefect server start`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`"


@dataclass(frozen=True)
class Timetable:
    """When a recipe runs and, if that is given, when its validation does: cron expressions in a time zone."""

    cron: str
    timezone: str = "UTC"
    validate_cron: str | None = None


@dataclass(frozen=True)
class Deployed:
    """A deployment as FLOW/NAME, its schedule, and the next times that it runs."""

    name: str
    cron: str
    timezone: str
    next_times: tuple[datetime, ...]


def deployments_of(
    name: str, recipe: Path, store: Path, export_to: Path | None, times: Timetable
) -> tuple[list[RunnerDeployment], list[Deployed]]:
    """The deployments `nightly/NAME` and, if it has a schedule, `weekly/NAME`. Asks no server.

    Raises InputError for what is not a schedule.
    """
    parameters = {"recipe": str(recipe.resolve()), "store": str(store.resolve())}
    if export_to is not None:
        parameters["export_to"] = str(export_to.resolve())
    wanted: list[tuple[Any, str, dict[str, str]]] = [(nightly, times.cron, parameters)]
    if times.validate_cron is not None:
        wanted.append((weekly, times.validate_cron, {name: parameters[name] for name in ("store", "recipe")}))
    made = []
    for flow, cron, given in wanted:
        _check(cron, times.timezone)
        deployment = RunnerDeployment.from_flow(
            flow,
            name,
            schedules=[Cron(cron, timezone=times.timezone)],
            parameters=given,
            concurrency_limit=ONCE,
            tags=["gradsift"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        made.append((deployment, Deployed(f"{flow.name}/{name}", cron, times.timezone, _next(cron, times.timezone))))
    return [deployment for deployment, _ in made], [told for _, told in made]


def serve(deployments: Sequence[RunnerDeployment], told: Sequence[Deployed], ready: Callable[[Deployed], None]) -> None:
    """Register deployments and do their runs on this machine until it is stopped; `ready` is told of each before."""
    for one in told:
        ready(one)
    # The schedule stays when this stops: a night that is missed runs when somebody serves again.
    with nights_end_with_this():
        serve_all(*deployments, pause_on_shutdown=False, print_starting_message=False)


def deploy(deployments: Sequence[RunnerDeployment], pool: str) -> None:
    """Register deployments with a work pool, whose workers do their runs. Raises InputError where there is none."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise InputError(
                f"there is no work pool {pool!r}; make one with `prefect work-pool create {pool} --type process`"
            ) from None
    for deployment in deployments:
        deployment.work_pool_name = pool
        deployment.apply()


def _check(cron: str, timezone: str) -> None:
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        if "timezone" in where:
            raise InputError(f"there is no time zone {timezone!r}; give one such as Europe/Berlin") from None
        raise InputError(
            f'{cron!r} is not a schedule: give five fields such as "0 3 * * *" (every day at three)'
        ) from None


def _next(cron: str, timezone: str) -> tuple[datetime, ...]:
    from prefect.server.schemas.schedules import CronSchedule as Dates  # slow to import: not for what is refused

    dates = asyncio.run(Dates(cron=cron, timezone=timezone).get_dates(NEXT))
    return tuple(datetime.fromisoformat(date.isoformat()) for date in dates)


def reach(patience: float = PATIENCE_SECONDS) -> None:
    """Wait for the server: one that was just started in the background does not listen yet.

    Raises InputError where none is named, UnavailableError where it does not answer in time.
    """
    url = PREFECT_API_URL.value()
    if url is None:
        raise InputError(f"no Prefect server is named, and without one nothing keeps a schedule: {START}")
    until = time.monotonic() + patience
    while (failure := _health()) is not None and time.monotonic() < until:
        time.sleep(0.5)
    if failure is not None:
        raise UnavailableError(
            f"the Prefect server at {url} does not answer ({type(failure).__name__}); start it with "
            "`prefect server start`, or correct PREFECT_API_URL"
        )


def _health() -> Exception | None:
    """What is wrong with the server."""
    try:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck()
    except httpx.HTTPError as error:
        return error
