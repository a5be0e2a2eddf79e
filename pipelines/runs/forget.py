"""Deleting examples for good, and letting them back in.

    delete   out of the store: text, rows, scores, marks, versions; its reports; on request, exports on disk
    resume   what is left of a deletion that was interrupted: whoever writes to the store calls it first
    revive   take tombstones away: the next reading of a source brings the examples back

The order, and what a kill leaves: `datastore/forget.py`. Reports and exports: `runs/outside.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gradsift.datastore import forget, leases, picks, tombstones
from gradsift.datastore.errors import InputError
from gradsift.datastore.forget import Picked
from gradsift.datastore.store import Store
from gradsift.datastore.traces import (
    Seen,
    Trace,
    by_source,
    indexes_with,
    seen_by,
    traces,
    versions_that_hold,
)
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.runs.outside import Exported, drop_left_behind, holding, rewritten, write_reports

DOING = "gradsift delete"


@dataclass(frozen=True)
class Finished:
    """What a deletion of so many examples came to outside of the catalog; the rest as in `Deletion`."""

    examples: int = 0
    exports: Sequence[Exported] = ()
    seen: Sequence[Seen] = ()
    left: Sequence[str] = ()


@dataclass(frozen=True)
class Deletion:
    """What a deletion takes out of the store, or would; `ids` is what `revive` takes; `exports` hold the examples on
    disk; `seen` are warm-ups whose weights learned from them; `left` says what was not reached; `indexes` are search
    indexes that are dropped, as KIND of SPACE; `resumed` is what one came to that was interrupted before."""

    examples: int
    sources: dict[str, int]
    traces: Sequence[Trace]
    versions: Sequence[str]
    exports: Sequence[Exported]
    seen: Sequence[Seen]
    gone_before: int = 0
    left: Sequence[str] = ()
    ids: Sequence[str] = ()
    indexes: Sequence[str] = ()
    resumed: Finished | None = None


def planned(store: Store, picked: Picked) -> Deletion:
    """What deleting these would take out; deletes nothing."""
    return Deletion(
        len(picked.ids),
        by_source(store, picked.ids),
        traces(store, picked),
        versions_that_hold(store, picked.ids),
        holding(store, [*picked.ids, *picked.gone]),
        seen_by(store, [*picked.ids, *picked.gone]),
        len(picked.gone),
        ids=picked.ids,
        indexes=indexes_with(store, picked.ids),
    )


def delete(
    store: Store,
    pick: Callable[[Store], Picked],
    *,
    exports: bool = False,
    confirm: Callable[[Deletion], bool] = lambda _plan: True,
    progress: Progress = quiet,
) -> Deletion | None:
    """Delete what `pick` finds, after a deletion that was interrupted, if there is one; `exports` rewrites exports on
    disk, too. None where `confirm` says no to what is planned.

    Raises BusyError while a run works on the store or another process reads its catalog, CorruptionError for a damaged
    file that holds an example; the same call then goes on.
    """
    with leases.alone(store, DOING):
        leases.require_no_other(store, DOING)
        earlier = resume(store, progress, elsewhere=exports)
        try:
            picked = pick(store)
        except InputError as error:  # what is asked for may be what that one took out
            if earlier is None:
                raise
            raise InputError("\n".join([str(error), *told(earlier)])) from error
        plan = replace(planned(store, picked), resumed=earlier)
        if not confirm(plan):
            return None
        done = Finished()
        if picked.ids or picked.quarantined:
            forget.begin(store, picked, exports=exports)
            done = resume(store, progress, elsewhere=exports) or done
        left = drop_left_behind(store, elsewhere=True) if exports else []
        held = holding(store, picked.gone)
        if exports:
            held = [rewritten(store, one, progress, elsewhere=True) for one in held]
    return replace(plan, exports=[*done.exports, *held], left=list(dict.fromkeys([*done.left, *left])))


def rewrite_exports(store: Store, progress: Progress = quiet) -> list[Exported]:
    """Write all exports on disk anew that hold an example which was deleted before. Raises BusyError."""
    with leases.alone(store, DOING):
        resume(store, progress, elsewhere=True)
        drop_left_behind(store, elsewhere=True)
        return [rewritten(store, one, progress, elsewhere=True) for one in holding(store, tombstones.every(store))]


def resume(store: Store, progress: Progress = quiet, *, elsewhere: bool = False) -> Finished | None:
    """Finish a deletion that was interrupted; None where there is none. Exports `elsewhere` than in the store are
    written only where the user of this call said so. The caller holds the store's lease."""
    if not forget.pending(store):
        return None
    going = tombstones.going(store)
    forget.clear(store, progress)
    left = drop_left_behind(store, elsewhere=elsewhere)
    held = holding(store, going)
    if forget.wants_exports(store):
        held = [rewritten(store, one, progress, elsewhere=elsewhere) for one in held]
    left += write_reports(store)
    seen = seen_by(store, going)
    forget.close(store)
    return Finished(len(going), held, seen, left)


def told(done: Finished | None) -> list[str]:
    """What a deletion that was interrupted came to, in lines."""
    if done is None:
        return []
    lines = [f"The deletion that was interrupted is finished. Examples: {done.examples:,}."]
    lines += [f"The export {one.folder}, of whose rows {one.rows:,} were theirs: {one.state}." for one in done.exports]
    return [*lines, *map(learned, done.seen), *(f"Note: {line}" for line in done.left)]


def learned(seen: Seen) -> str:
    """That a warm-up saw what is deleted, and what to do about it."""
    count = "may have seen some of them" if seen.examples is None else f"saw {seen.examples:,} of them"
    whose = f", recipe {', '.join(seen.runs)}" if seen.runs else ""
    return (
        f"The warm-up {seen.warmup[:12]} ({seen.checkpoints} checkpoints{whose}) {count}: "
        f"`{seen.command}` makes another, and `gradsift prune` drops it then"
    )


def interrupted(store: Store) -> bool:
    """Whether a deletion is under way that was interrupted."""
    return forget.pending(store)


def finish(store: Store, progress: Progress = quiet, doing: str = DOING) -> Finished | None:
    """`resume` for commands that write without the store's lease; `doing`: what to do again, for messages. Raises
    BusyError while another process has it."""
    if not forget.pending(store):
        return None
    with leases.alone(store, doing):
        return resume(store, progress)


def revive(store: Store, names: Sequence[str]) -> int:
    """Take the tombstones of examples away, by id or its start, so that the next run whose sources hold them reads them
    again; returns how many. Raises InputError for one that has none."""
    found: set[str] = set()
    for name in names:
        matching = tombstones.matching(store, name) if len(name) >= picks.LEAST else []
        if len(matching) != 1:
            raise InputError(
                f"{'no' if not matching else 'more than one'} deleted example has an id starting with {name!r}; "
                f"give at least its first {picks.LEAST} characters (`gradsift revive` without an id lists all)"
            )
        found |= set(matching)
    return tombstones.remove(store, sorted(found))
