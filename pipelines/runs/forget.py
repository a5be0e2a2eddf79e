"""Deleting examples for good, and letting them back in.

    delete   out of the store: text, rows, scores, marks, versions; its reports; on request, exports on disk
    resume   what is left of a deletion that was interrupted: whoever writes to the store calls it first
    revive   take tombstones away: the next reading of a source brings the examples back

The order, and what a kill leaves: `datastore/forget.py`. Reports show excerpts, so the store's are written
again, or removed; an export is rewritten from what is left of its selection.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.dataset as ds

from gradsift.datastore import forget, leases, picks, runs, selections, tombstones
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.forget import Picked
from gradsift.datastore.store import Store
from gradsift.datastore.traces import (
    Seen,
    Trace,
    by_source,
    exported_to,
    indexes_with,
    reported_to,
    seen_by,
    traces,
    versions_that_hold,
)
from gradsift.pipelines.export.export import export, manifest_at
from gradsift.pipelines.progress import Progress, quiet

DOING = "gradsift delete"
LEFT_BEHIND = (".partial-", ".old-", ".checkout-")  # of killed exports, beside the finished ones


@dataclass(frozen=True)
class Exported:
    """An export on disk that holds deleted examples. `state`: `holds them`, `rewritten`, `removed` (in the store, of a
    version that is void or of which nothing is left), or why it still holds them."""

    folder: str
    rows: int
    state: str = "holds them"


@dataclass(frozen=True)
class Deletion:
    """What a deletion takes out of the store, or would; `ids` is what `revive` takes; `exports` hold the examples on
    disk; `seen` are warm-ups whose weights learned from them; `left` says what was not reached; `indexes` are search
    indexes that are dropped, as KIND of SPACE."""

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


@dataclass(frozen=True)
class _Done:
    """What the files outside of the catalog came to."""

    exports: list[Exported] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def planned(store: Store, picked: Picked) -> Deletion:
    """What deleting these would take out; deletes nothing."""
    return Deletion(
        len(picked.ids),
        by_source(store, picked.ids),
        traces(store, picked),
        versions_that_hold(store, picked.ids),
        holding(store, [*picked.ids, *picked.gone]),
        seen_by(store, picked.ids),
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
        resume(store, progress)
        picked = pick(store)
        plan = planned(store, picked)
        if not confirm(plan):
            return None
        done = _Done()
        if picked.ids or picked.quarantined:
            forget.begin(store, picked, exports=exports)
            done = resume(store, progress)
        held = holding(store, picked.gone)
        if exports:
            held = [_rewritten(store, one, progress) for one in held]
    return replace(plan, exports=[*done.exports, *held], left=done.left)


def rewrite_exports(store: Store, progress: Progress = quiet) -> list[Exported]:
    """Write all exports on disk anew that hold an example which was deleted before. Raises BusyError."""
    with leases.alone(store, DOING):
        resume(store, progress)
        return [_rewritten(store, one, progress) for one in holding(store, tombstones.every(store))]


def resume(store: Store, progress: Progress = quiet) -> _Done:
    """Finish a deletion that was interrupted, if there is one. The caller holds the store's lease."""
    if not forget.pending(store):
        return _Done()
    going = tombstones.going(store)
    forget.clear(store, progress)
    _drop_left_behind(store)
    held = holding(store, going)
    if forget.wants_exports(store):
        held = [_rewritten(store, one, progress) for one in held]
    left = _write_reports(store)
    forget.close(store)
    return _Done(held, left)


def interrupted(store: Store) -> bool:
    """Whether a deletion is under way that was interrupted."""
    return forget.pending(store)


def finish(store: Store, progress: Progress = quiet) -> None:
    """`resume` for commands that write without the store's lease. Raises BusyError while another process has it."""
    if forget.pending(store):
        with leases.alone(store, DOING):
            resume(store, progress)


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


def holding(store: Store, ids: Sequence[str]) -> list[Exported]:
    """Exports on disk that hold any of the examples: those of runs, wherever, and all below the store's `exports`."""
    inside = store.root / "exports"
    folders = [Path(folder) for folder in exported_to(store)]
    folders += [folder for folder in sorted(inside.iterdir() if inside.is_dir() else ()) if folder.is_dir()]
    known = {folder.resolve(): folder for folder in reversed(folders) if not folder.name.startswith(LEFT_BEHIND)}
    wanted = set(ids)
    found = [Exported(str(folder), _rows_of(folder, wanted)) for folder in reversed(known.values())]
    return [one for one in found if one.rows]


def _rows_of(folder: Path, wanted: set[str]) -> int:
    """Rows of an export that are of the examples; 0 for what is no export."""
    try:
        if manifest_at(folder) is None:
            return 0
    except InputError:
        return 0
    return sum(
        name in wanted
        for kind, names in _data_files(folder)
        for batch in ds.dataset(names, format=kind).scanner(columns=["example_id"]).to_batches()
        for name in batch["example_id"].to_pylist()
    )


def _data_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for kind, suffix in (("parquet", ".parquet"), ("json", ".jsonl")):
        names = [str(path) for path in sorted((folder / "data").glob(f"*{suffix}"))]
        if names:
            yield kind, names


def _rewritten(store: Store, held: Exported, progress: Progress) -> Exported:
    """Write an export anew from what is left of its selection. In the store, one of a version that is void, or of which
    nothing is left, is removed; elsewhere it is left to its owner."""
    folder = Path(held.folder)
    manifest = manifest_at(folder) or {}
    mine = folder.parent.resolve() == (store.root / "exports").resolve()
    try:
        if mine and "@" in folder.name:
            raise InputError("a version that is void")
        chosen = selections.get(store, manifest["name"], manifest["selection"]["target"])
        export(store, chosen, runs.recipe_of(store, chosen), folder, progress=progress)
    except (InputError, KeyError, TypeError) as error:
        if not mine:
            return replace(held, state=f"still holds them, remove it: {error}")
        shutil.rmtree(folder)
        return replace(held, state="removed")
    return replace(held, state="rewritten")


def _drop_left_behind(store: Store) -> None:
    """Remove what killed exports left, in the store and beside exports elsewhere."""
    parents = {store.root / "exports", *(Path(folder).parent for folder in exported_to(store))}
    for parent in parents:
        for folder in parent.iterdir() if parent.is_dir() else ():
            if folder.name.startswith(LEFT_BEHIND) and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)


def _write_reports(store: Store) -> list[str]:
    """Write the store's reports again, each that of the newest run that wrote one of its name, or remove them. Returns
    what is to be said: what was removed, and reports elsewhere that may show what was deleted."""
    from gradsift.pipelines.report.report import write_report  # loads torch: seconds, before any error is said

    pages, said = reported_to(store), []
    folder = store.root / "reports"
    of_name = {Path(page).name: run_id for page, run_id in pages.items()}
    for path in sorted(folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()):
        if path.suffix == ".json" and path.with_suffix(".html").name in of_name and path.with_suffix(".html").exists():
            continue  # written with its page
        try:
            write_report(store, path, runs.get(store, of_name[path.name]))
        except (GradsiftError, KeyError, ValueError) as error:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            why = "no run wrote it" if path.name not in of_name else str(error)
            said.append(f"the report {path.name} was removed and not written again: {why}")
    elsewhere = [page for page in map(Path, pages) if page.exists() and page.parent.resolve() != folder.resolve()]
    return said + [f"{page} may show them: a report outside of the store" for page in elsewhere]
