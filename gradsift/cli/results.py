"""Commands about results: the report of a run, and validation of what a store holds."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

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


@app.command
def report(
    *,
    run: int | None = None,
    all_runs: Annotated[bool, Parameter(name="--list", negative=())] = False,
    out: Path | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write the report of a run: one HTML page that opens from disk, and the same as JSON. Each run keeps its own.

    Parameters
    ----------
    run
        Number of the run; default: the store's last one.
    all_runs
        List the runs instead: number, date, name, what was found, and where the report is.
    out
        Where to write the page; default: reports/ in the store.
    """
    from gradsift import api
    from gradsift.cli import show
    from gradsift.datastore.errors import InputError

    if all_runs and (run is not None or out is not None):
        raise InputError("--list writes no report; leave out --run and --out")
    if all_runs:
        kept = [asdict(one) for one in api.reports(store)]
        show.document(kept) if json else show.table("Runs and their reports", kept)
    elif json:
        show.document(asdict(api.report_data(store, run=run)))
    else:
        path = api.report(store, run=run, out=out)
        show.line(f"{path}; as data: {path.with_suffix('.json')}")


@app.command
def validate(
    settings: Path | None = None,
    /,
    *,
    out: Path | None = None,
    no_prefect: Flag = False,
    processes: int | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Train and measure the arms of what the last run chose, and write the report. Goes on where it was stopped.

    Parameters
    ----------
    settings
        YAML file with the fields of a recipe's `validate`; default: the recipe's own.
    out
        Where to write the report; default: reports/ in the store.
    no_prefect
        Do the runs without Prefect.
    processes
        Do this many runs at once, each in a process of its own.
    """
    from gradsift import api
    from gradsift.cli import show, tables
    from gradsift.datastore.runs import as_json

    check_processes(no_prefect, processes)
    quiet_libraries()
    quiet_prefect()
    with show.progress() as progress:
        result = api.validate(settings, out=out, prefect=not no_prefect, processes=processes, store=store,
                              progress=progress)  # fmt: skip
    if json:
        show.document({"arms": as_json(result)["arms"], "report": result.report})
        return
    tables.show_arms(result.arms)
    show.line(f"Report: {result.report}")
