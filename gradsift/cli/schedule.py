"""Commands that run a recipe on a schedule, and the list of runs."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app, quiet_libraries

if TYPE_CHECKING:
    from gradsift.flows.deployments import Deployed


@app.command
def serve(
    recipe: Path,
    /,
    *,
    store: StorePath = DEFAULT_STORE,
    cron: str,
    timezone: str = "UTC",
    validate_cron: str | None = None,
    export_to: Path | None = None,
    name: str | None = None,
) -> None:
    """Run a recipe on a schedule, on this machine, until it is stopped. Needs a Prefect server (PREFECT_API_URL).

    Parameters
    ----------
    recipe
        The recipe file (YAML), which is read anew by each run.
    cron
        When to run it: minute, hour, day, month, day of the week.
    timezone
        Of the schedules.
    validate_cron
        When to train and measure the arms of what the last run chose; default: only in runs of recipes that say so.
    export_to
        Folder for the exports; default: exports/ in the store.
    name
        Of the deployments `nightly/NAME` and `weekly/NAME`; default: the recipe's.
    """
    from gradsift import api
    from gradsift.cli import show

    quiet_libraries()
    api.serve(recipe, store, cron=cron, timezone=timezone, validate_cron=validate_cron, export_to=export_to, name=name,
              ready=_say)  # fmt: skip
    show.line("Stopped. The schedule stays: what is missed runs when it is served again.")


@app.command
def deploy(
    recipe: Path,
    /,
    *,
    store: StorePath = DEFAULT_STORE,
    pool: str,
    cron: str,
    timezone: str = "UTC",
    validate_cron: str | None = None,
    export_to: Path | None = None,
    name: str | None = None,
    json: Json = False,
) -> None:
    """Have the workers of a Prefect work pool run a recipe on a schedule.

    Parameters
    ----------
    recipe
        The recipe file (YAML), where the workers find it, too.
    pool
        The work pool.
    cron
        When to run it: minute, hour, day, month, day of the week.
    timezone
        Of the schedules.
    validate_cron
        When to train and measure the arms of what the last run chose; default: only in runs of recipes that say so.
    export_to
        Folder for the exports; default: exports/ in the store.
    name
        Of the deployments `nightly/NAME` and `weekly/NAME`; default: the recipe's.
    """
    from gradsift import api
    from gradsift.cli import show

    quiet_libraries()
    made = api.deploy(recipe, store, pool=pool, cron=cron, timezone=timezone, validate_cron=validate_cron,
                      export_to=export_to, name=name)  # fmt: skip
    if json:
        show.document([asdict(one) for one in made])
        return
    for one in made:
        _say(one)
    show.line(f"A worker does the runs: prefect worker start --pool {pool}")


def _say(deployed: "Deployed") -> None:
    from gradsift.cli import show

    times = ", ".join(f"{time:%a %Y-%m-%d %H:%M}" for time in deployed.next_times)
    show.line(f"{deployed.name}: {deployed.cron} ({deployed.timezone})")
    show.line(f"  next: {times}")
    show.line(f"  now: prefect deployment run {deployed.name}")


@app.command
def runs(*, close_dead: Flag = False, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """List all runs and how they stand: running, finished, failed, interrupted, or crashed.

    Parameters
    ----------
    close_dead
        Put on record that runs whose process died have crashed, so that nobody waits for them.
    """
    from gradsift import api
    from gradsift.cli import show

    found = api.runs(store, close_dead=close_dead)
    if json:
        show.document([asdict(life) for life in found])
        return
    rows = [
        {
            "run": life.run_id,
            "name": life.name,
            "state": life.state,
            "started_utc": _utc(life.started),
            "ended_utc": _utc(life.ended),
            "process": life.holder,
            "made": ", ".join(life.made),
        }
        for life in found
    ]
    show.table("Runs", rows)
    if dead := sum(life.is_dead for life in found):
        show.line(f"{dead} crashed: the end is when it was last seen. The same recipe goes on; --close-dead closes it.")
    elif close_dead:
        show.line("Runs whose process died are on record as crashed. The same recipe goes on.")


def _utc(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
