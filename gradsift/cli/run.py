"""Commands that run everything: a recipe, or the demo."""

import shlex
from dataclasses import asdict
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
    from gradsift.pipelines.recipe import Recipe


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
        The recipe's `runner: process` with this many `workers`: units and validation runs in processes of their own.
    """
    from gradsift import api
    from gradsift.cli import show, tables
    from gradsift.datastore.runs import as_json
    from gradsift.pipelines.recipe import load_recipe

    loaded = load_recipe(recipe)
    check_processes(no_prefect, processes)
    quiet_libraries()
    quiet_prefect()
    if dry_run:
        plan = api.dry_run(loaded, store, new_warmup=new_warmup, prefect=not no_prefect)
        show.document(asdict(plan)) if json else tables.show_plan(plan)
        return
    with show.progress() as progress:
        result = api.run(loaded, store, export_to=export_to, new_warmup=new_warmup, prefect=not no_prefect,
                         processes=processes, progress=progress)  # fmt: skip
    if json:
        from gradsift.pipelines.report.funnel import document

        show.document({**as_json(result), **document(result)})
        return
    tables.show_result(result)
    tables.show_upkeep(store)


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
    from gradsift import api
    from gradsift.cli import show, tables
    from gradsift.pipelines.demo.demo import run_demo

    quiet_libraries()
    quiet_prefect()
    with show.progress() as progress:

        def run_one(recipe: "Recipe", store: Path, export_to: Path) -> "RunResult":
            return api.run(recipe, store, export_to=export_to, prefect=not no_prefect, progress=progress)

        outcome = run_demo(folder, run_one, progress)
    if json:
        show.document(outcome.document())
        return
    tables.show_result(outcome.result)
    tables.show_planted(outcome.truth)
    show.line(f"Everything is in {folder}/ ; the table as data: {folder}/result.json")
    show.line(f"To look at it in the browser: gradsift explore --store {shlex.quote(str(folder / 'store'))}")
