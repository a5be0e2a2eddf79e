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
from prefect.cache_policies import NO_CACHE

from datastore.store import Store
from pipelines.curate import RunResult
from pipelines.curate import curate as run_curate
from pipelines.progress import Progress, quiet
from pipelines.recipe import Recipe


def as_task(name: str, work: Callable[[], Any]) -> Any:
    """Run a piece of work as a Prefect task. Nothing is passed or kept: the store holds all state."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


def curate_with_prefect(
    recipe: Recipe, store_root: Path, *, export_root: Path | None = None, progress: Progress = quiet
) -> RunResult:
    """Run a recipe as the Prefect flow `curate`."""

    @flow(name="curate", flow_run_name=recipe.name, persist_result=False, validate_parameters=False)
    def curate() -> RunResult:
        with Store(store_root) as store:
            return run_curate(recipe, store, export_root=export_root, step=as_task, progress=progress)

    return curate()
