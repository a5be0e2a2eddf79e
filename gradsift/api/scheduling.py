"""Functions that run a recipe on a schedule, and that tell how runs ended."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyPath, AnyStore, as_path, folder_of, opened

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from gradsift.datastore.lives import Life
    from gradsift.flows.deployments import Deployed


def _say_nothing(_deployed: "Deployed") -> None:
    pass


def serve(
    recipe: AnyPath,
    store: AnyStore = "store",
    *,
    cron: str,
    timezone: str = "UTC",
    validate_cron: str | None = None,
    export_to: AnyPath | None = None,
    name: str | None = None,
    ready: "Callable[[Deployed], None]" = _say_nothing,
) -> None:
    """Run a recipe on a schedule, on this machine, until the call is stopped. Needs a Prefect server.

    Parameters
    ----------
    recipe
        The recipe file (YAML), which is read anew by each run.
    store
        Folder of the store, which is made where it is not there.
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
    ready
        Called with each deployment before its first run: its name, schedule and next times.

    Returns
    -------
    None
        When it is stopped.

    Raises
    ------
    InputError
        For a recipe or a schedule that makes no sense, and where PREFECT_API_URL names no server.
    UnavailableError
        Where the server does not answer.

    Example
    -------
    >>> when = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    >>> gradsift.serve("recipe.yaml", "store", **when)  # doctest: +SKIP
    """
    made, told = _deployments(recipe, store, cron, timezone, validate_cron, export_to, name)
    from gradsift.flows.deployments import serve as serve_here

    serve_here(made, told, ready)


def deploy(
    recipe: AnyPath,
    store: AnyStore = "store",
    *,
    pool: str,
    cron: str,
    timezone: str = "UTC",
    validate_cron: str | None = None,
    export_to: AnyPath | None = None,
    name: str | None = None,
) -> "list[Deployed]":
    """Have the workers of a Prefect work pool run a recipe on a schedule.

    Parameters
    ----------
    recipe
        The recipe file (YAML), where the workers find it, too.
    store
        Folder of the store, where the workers find it, too.
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

    Returns
    -------
    list of Deployed
        Each deployment's name, schedule and next times.

    Raises
    ------
    InputError
        For a recipe or a schedule that makes no sense, where PREFECT_API_URL names no server, and where the server has
        no such pool.
    UnavailableError
        Where the server does not answer.

    Example
    -------
    >>> when = {"cron": "0 3 * * *", "validate_cron": "0 6 * * 0", "timezone": "Europe/Berlin"}
    >>> gradsift.deploy("recipe.yaml", "store", pool="gradsift", **when)  # doctest: +SKIP
    """
    made, told = _deployments(recipe, store, cron, timezone, validate_cron, export_to, name)
    from gradsift.flows.deployments import deploy as deploy_to

    deploy_to(made, pool)
    return told


def _deployments(
    recipe: AnyPath,
    store: AnyStore,
    cron: str,
    timezone: str,
    validate_cron: str | None,
    export_to: AnyPath | None,
    name: str | None,
) -> "tuple[list[RunnerDeployment], list[Deployed]]":
    from gradsift.pipelines.recipe import load_recipe

    loaded, root = load_recipe(Path(recipe)), folder_of(store)
    loaded.place(root)  # a folder of another store is refused before anything waits for the night
    from gradsift.flows.deployments import Timetable, deployments_of, reach

    times = Timetable(cron, timezone, validate_cron)
    made = deployments_of(name or loaded.name, Path(recipe), root, as_path(export_to), times)
    reach()
    return made


def runs(store: AnyStore = "store", *, close_dead: bool = False) -> "list[Life]":
    """List all runs and how they stand: running, finished, failed, interrupted, or crashed.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    close_dead
        Put on record that runs whose process died have crashed, so that nobody waits for them.

    Returns
    -------
    list of Life
        The oldest first, each with its state, times (UTC), process, and the versions that it made.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> gradsift.runs("store")[0].state
    'finished'
    """
    from gradsift.datastore import lives

    with opened(store) as there:
        if close_dead:
            lives.close_dead(there)
        return lives.lives(there)
