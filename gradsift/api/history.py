"""Functions about versions: list them, export an old one as it was, drop old ones."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyPath, AnyStore, as_path, opened
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.datastore.prune import Pruned
    from gradsift.datastore.versions import Entry
    from gradsift.pipelines.export.checkout import CheckedOut


def log(name: str | None = None, *, store: AnyStore = "store") -> "list[Entry]":
    """List the numbered versions of pools, selections and mixtures, those of the newest run first.

    Parameters
    ----------
    name
        Only versions of this name, or of this kind: pool, selection, mixture.
    store
        Folder of the store, or an open one.

    Returns
    -------
    list of Entry
        Each with its run and its `report`: the version, its rows, what came and what left.

    Raises
    ------
    InputError
        For a name that has no version.

    Example
    -------
    >>> newest = gradsift.log("selection", store="store")[0]
    >>> words = f"{newest.report.version}: {newest.report.rows} rows"
    """
    from gradsift.datastore import versions

    with opened(store) as there:
        return versions.log(there, name)


def checkout(
    version: str,
    *,
    out: AnyPath | None = None,
    push: str | None = None,
    revision: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "CheckedOut":
    """Export an old version of a selection or mixture, byte for byte as its run did.

    Parameters
    ----------
    version
        NAME@NUMBER, or selection@NUMBER and mixture@NUMBER where the store has one name of that kind.
    out
        Where to write it; default: exports/NAME@NUMBER in the store.
    push
        Also push it to this data set on the Hugging Face Hub, `owner/name`, as `gradsift.export` does.
    revision
        Branch to push to; default: the main one.
    private
        A new data set is private, and one that is public is refused.
    dry_run
        Write the export and ask the hub what it has, but push nothing.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    CheckedOut
        The folder, how many rows, whether its run exported the same bytes, and what was pushed.

    Raises
    ------
    InputError
        For a version that is void or was pruned, a folder that holds anything but an export, and where the same bytes
        cannot be made any more. Of a push: as `gradsift.export`.

    Example
    -------
    >>> version = gradsift.log("selection", store="store")[-1].report.version
    >>> made = gradsift.checkout(version, out="as-it-was", store="store")
    """
    from gradsift.pipelines.export.checkout import checkout as write
    from gradsift.pipelines.export.push import destination
    from gradsift.pipelines.export.push import push as send

    to = destination(push, revision=revision, private=private, dry_run=dry_run)
    with opened(store) as there:
        made = write(there, version, as_path(out), progress)
    return replace(made, pushed=send(Path(made.folder), to, progress)) if to else made


def prune(store: AnyStore = "store", *, keep: int, examples: bool = False, dry_run: bool = False) -> "Pruned":
    """Drop old versions: lists of rows, tables of scores, checkpoints. Never what a kept version or the last run needs.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    keep
        How many of the newest versions of each name to keep.
    examples
        Also drop examples that nothing kept holds, with their gradient rows, and those of dropped checkpoints: should
        they come back, they must be computed again.
    dry_run
        Only list what would be dropped, and its bytes.

    Returns
    -------
    Pruned
        What went, by kind, and which versions were kept.

    Raises
    ------
    InputError
        For `keep` below 1.
    BusyError
        While a run works on the store.

    Example
    -------
    >>> would_go = gradsift.prune("store", keep=5, dry_run=True).bytes
    """
    from gradsift.datastore.prune import prune as drop
    from gradsift.pipelines.runs import forget

    with opened(store) as there:
        if not dry_run:
            forget.finish(there)
        return drop(there, keep, examples=examples, dry_run=dry_run)
