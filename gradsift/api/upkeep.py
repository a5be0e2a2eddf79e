"""Functions that look after a store: whether it is whole, mending it, and making it small."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyStore, folder_of, opened
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.api.checks import Check
    from gradsift.datastore.compact import Compacted
    from gradsift.pipelines.runs.repair import Mend


@dataclass(frozen=True)
class Unreferenced:
    """A file that no catalog row refers to, and its bytes."""

    file: str
    bytes: int


def doctor(store: AnyStore = "store") -> "list[Check]":
    """Check this installation and, if there is one, the store.

    Parameters
    ----------
    store
        Folder of the store, which need not be there, or an open one.

    Returns
    -------
    list of Check
        What was looked at, its `state` (ok, warn, bad), and words.

    Raises
    ------
    OSError
        For a folder that cannot be looked at.

    Example
    -------
    >>> [check.check for check in gradsift.doctor("store") if check.state == "bad"]
    []
    """
    from gradsift.api.checks import checks

    return checks(folder_of(store))


def verify(
    store: AnyStore = "store",
    *,
    repair: bool = False,
    accept_loss: bool = False,
    dry_run: bool = False,
    progress: Progress = quiet,
) -> "list[Mend]":
    """Check every byte of a store and its exports against their digests, and say what can be done about damage.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    repair
        Make damaged files again: text from its sources, checkpoints, feature rows, scores and reports from what the
        store's runs recorded. Without it nothing is changed.
    accept_loss
        With `repair`: remove what cannot be made again, with all that it takes down.
    dry_run
        With `repair`: change nothing, and list what would be done.
    progress
        Called with the stage's name, files done, and files in all.

    Returns
    -------
    list of Mend
        What is damaged, and what was done about it or would be; empty for a store that is whole.

    Raises
    ------
    InputError
        For `accept_loss` and `dry_run` without `repair`.
    CorruptionError
        For a damaged catalog.
    BusyError
        With `repair`: while a run works on the store.

    Example
    -------
    >>> gradsift.verify("store")
    []
    """
    from gradsift.datastore import maintenance
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.runs.copies import damaged_exports

    if (accept_loss or dry_run) and not repair:
        raise InputError("--accept-loss and --dry-run go with --repair")
    with opened(store) as there:
        if not repair and not maintenance.verify(there) and not any(damaged_exports(there)):
            return []
        from gradsift.pipelines.runs.repair import mend

        return mend(there, dry_run=dry_run or not repair, accept_loss=accept_loss, progress=progress)


def gc(store: AnyStore = "store", *, grace_hours: float = 1.0, dry_run: bool = False) -> list[Unreferenced]:
    """Delete files that no catalog row refers to, and half-made exports in the store (left by killed processes).

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    grace_hours
        Keep files younger than this; a live writer may be about to commit them.
    dry_run
        Only list them.

    Returns
    -------
    list of Unreferenced
        What was deleted, or would be.

    Raises
    ------
    InputError
        For a grace that is not a number.
    BusyError
        While a run works on the store.

    Example
    -------
    >>> left_behind = gradsift.gc("store", dry_run=True)
    """
    from gradsift.datastore import maintenance
    from gradsift.datastore.amounts import require_hours
    from gradsift.pipelines.runs import leftover

    require_hours("grace_hours", grace_hours)
    with opened(store) as there:
        grace = grace_hours * 3600
        if dry_run:
            found = maintenance.garbage(there, grace) + leftover.left_behind(there, grace)
        else:
            found = maintenance.collect(there, grace) + leftover.collect(there, grace)
        return [Unreferenced(name, size) for name, size in found]


def compact(
    store: AnyStore = "store",
    *,
    target_mib: int = 256,
    grace_hours: float = 1.0,
    dry_run: bool = False,
    progress: Progress = quiet,
) -> "Compacted":
    """Merge small files into large ones; nothing that they hold changes.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    target_mib
        Size of a full file of gradient rows; of examples, an eighth of it.
    grace_hours
        Keep the merged files this long: other processes may have begun to read them.
    dry_run
        Only list what would be merged.
    progress
        Called with the stage's name, merges done, and merges in all.

    Returns
    -------
    Compacted
        The merges, and how many files there were and are.

    Raises
    ------
    InputError
        For a target below one byte, or a negative grace.
    BusyError
        While a run or another command changes the store.
    CorruptionError
        For a damaged file; what was merged before it stays merged.

    Example
    -------
    >>> plan = gradsift.compact("store", dry_run=True)
    >>> plan.shards_after <= plan.shards_before
    True
    """
    from gradsift.datastore.amounts import require_hours, require_number
    from gradsift.datastore.compact import compact as merge
    from gradsift.pipelines.runs import forget

    require_hours("grace_hours", grace_hours)
    require_number("target_mib", target_mib)
    with opened(store) as there:
        if not dry_run:
            forget.finish(there, progress)
        return merge(
            there,
            target=target_mib << 20,
            grace=grace_hours * 3600,
            dry_run=dry_run,
            report=lambda n, of: progress("compact", n, of),
        )
