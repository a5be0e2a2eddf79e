"""Functions about deletion: take examples out of a store for good, and let them back in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyPath, AnyStore, opened
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.datastore.forget import Picked
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.forget import Deletion


def delete(
    *,
    id: str | Sequence[str] = (),  # noqa: A002 - the name of the command's flag
    source: str | None = None,
    where: str | None = None,
    file: AnyPath | None = None,
    exports: bool = False,
    dry_run: bool = False,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "Deletion":
    """Delete examples for good: texts, gradient rows, scores, marks, excerpts, and the versions that hold them. Without
    a choice, go on with a deletion that was interrupted.

    Nobody is asked, and it cannot be taken back: look with `dry_run=True` first.

    Parameters
    ----------
    id
        Ids of examples, or their first eight characters or more.
    source
        All that was read from this source, also what another source has too.
    where
        All of which this holds, as after WHERE in SQL, over id, source, licence, file, line, chars and text.
    file
        A file with an id on each line.
    exports
        Also write exports on disk that hold them anew, without them; without a choice, those that hold any example that
        was deleted before.
    dry_run
        Only say what would go.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, steps done, and steps in all.

    Returns
    -------
    Deletion
        What went, and what could not be reached. Without a choice, `resumed` is the deletion that was finished, and
        `exports` those that were written anew.

    Raises
    ------
    InputError
        For more than one way to choose, for ids that are not there, and where nothing is chosen and nothing was
        interrupted.
    BusyError
        While a run works on the store, or another process reads its catalog.
    CorruptionError
        For a damaged file that holds an example.

    Example
    -------
    >>> plan = gradsift.delete(where="chars > 100", dry_run=True, store="store")
    >>> plan.examples == len(plan.ids)
    True
    """
    ids = (id,) if isinstance(id, str) else tuple(id)
    made = delete_if(
        lambda _plan: True, choice(ids, source, where, file), exports=exports, dry_run=dry_run, store=store,
        progress=progress,
    )  # fmt: skip
    assert made is not None  # noqa: S101 - for type checkers: nobody said no
    return made


def delete_if(
    confirm: "Callable[[Deletion], bool]",
    pick: "Callable[[Store], Picked] | None",
    *,
    exports: bool = False,
    dry_run: bool = False,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "Deletion | None":
    """`delete` of what `pick` finds, which asks `confirm` about the plan first; None where it says no."""
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.runs import forget

    with opened(store) as there:
        if pick is not None:
            if dry_run:
                return forget.planned(there, pick(there))
            return forget.delete(there, pick, exports=exports, progress=progress, confirm=confirm)
        if dry_run or not (exports or forget.interrupted(there)):
            raise InputError("say what to delete: --id, --source, --where or --file; no deletion was interrupted")
        finished = forget.finish(there, progress)
        anew = forget.rewrite_exports(there, progress) if exports else ()
        return forget.Deletion(0, {}, (), (), anew, (), resumed=finished)


def choice(
    ids: Sequence[str], source: str | None, where: str | None, file: AnyPath | None
) -> "Callable[[Store], Picked] | None":
    """What picks the examples; None where nothing is said. Raises InputError for more than one way."""
    from gradsift.datastore import picks
    from gradsift.datastore.errors import InputError

    ways: list[Callable[[Store], Picked]] = []
    if ids:
        ways.append(lambda store: picks.by_ids(store, ids))
    if source is not None:
        ways.append(lambda store: picks.by_source(store, source))
    if where is not None:
        ways.append(lambda store: picks.by_predicate(store, where))
    if file is not None:
        ways.append(lambda store: picks.by_list(store, Path(file)))
    if len(ways) > 1:
        raise InputError("give one of --id, --source, --where and --file; delete the others after it")
    return ways[0] if ways else None


def revive(*ids: str, file: AnyPath | None = None, store: AnyStore = "store") -> int:
    """Let deleted examples back in: the next run whose sources hold them reads them again.

    Parameters
    ----------
    *ids
        Ids of deleted examples (`gradsift.deleted` lists them), or their first eight characters or more.
    file
        A file with an id on each line.
    store
        Folder of the store, or an open one.

    Returns
    -------
    int
        How many may come back.

    Raises
    ------
    InputError
        For an id that no deleted example has, and where none is given.

    Example
    -------
    >>> kept_out = [row["id"] for row in gradsift.deleted("store")]
    >>> count = gradsift.revive(*kept_out, store="store") if kept_out else 0
    """
    from gradsift.datastore import picks
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.runs import forget

    names = [*ids, *(picks.ids_in(Path(file)) if file is not None else [])]
    if not names:
        raise InputError("say which may come back: ids, or a file of them; `gradsift.deleted` lists all")
    with opened(store) as there:
        return forget.revive(there, names)


def deleted(store: AnyStore = "store") -> list[dict[str, str]]:
    """List what is deleted and kept out, as `gradsift revive` does without ids.

    Parameters
    ----------
    store
        Folder of the store, or an open one.

    Returns
    -------
    list of dict
        `id` and `deleted_utc`, the newest first; some are digests of excerpts, which nothing tells from ids.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> isinstance(gradsift.deleted("store"), list)
    True
    """
    from gradsift.datastore import tombstones

    with opened(store) as there:
        return tombstones.listed(there)
