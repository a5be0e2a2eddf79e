"""The `curate` flow: each stage of `pipelines.curate` as one Prefect task.

Prefect shows progress and keeps logs; the catalog decides what is done, so every task is `NO_CACHE` and keeps no
result. Without a server, Prefect starts a temporary one for the run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from datastore.errors import GradsiftError
from datastore.store import Store
from pipelines.curate import RunResult
from pipelines.curate import curate as run_curate
from pipelines.progress import Progress, quiet
from pipelines.recipe import Recipe
from pipelines.report import markdown, report


def as_task(name: str, work: Callable[[], Any]) -> Any:
    """Run a piece of work as a Prefect task. Nothing is passed or kept: the store holds all state."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


def publish(store: Store, result: RunResult) -> None:
    """The report as Prefect artifacts of the flow run: the page as Markdown, and the table of arms as a table."""
    key = f"gradsift-{result.name}"
    create_markdown_artifact(markdown(report(store)), key=key, description=f"Report of {result.name}")
    if result.arms:
        columns = ("target", "arm", "examples", "test_loss_mean", "test_loss_ci95", "score_mean", "forgetting")
        rows: list[dict[str, Any]] = [{c: arm[c] for c in columns} for arm in result.arms]
        create_table_artifact(rows, key=f"{key}-arms", description="Test loss by arm, mean over seeds")


def curate_with_prefect(
    recipe: Recipe, store_root: Path, *, export_root: Path | None = None, progress: Progress = quiet
) -> RunResult:
    """Run a recipe as the Prefect flow `curate`.

    Raises what the work raised, even where Prefect fails in its turn: a Ctrl-C in a terminal also ends the
    temporary server, and the error of not reaching it must not hide the interrupt.
    """
    failures: list[BaseException] = []

    @flow(name="curate", flow_run_name=recipe.name, persist_result=False, validate_parameters=False)
    def curate() -> RunResult:
        try:
            with Store(store_root) as store:
                result = run_curate(recipe, store, export_root=export_root, step=as_task, progress=progress)
                publish(store, result)
                return result
        except BaseException as error:
            failures.append(error)
            raise

    def first_cause() -> BaseException | None:
        chain = failures[0] if failures else None
        while chain is not None and not isinstance(chain, KeyboardInterrupt | GradsiftError) and chain.__context__:
            chain = chain.__context__
        return chain

    try:
        return curate()
    except BaseException as error:
        cause = first_cause()
        if isinstance(cause, KeyboardInterrupt | GradsiftError):
            raise cause from None
        raise error from None
