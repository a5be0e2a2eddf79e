"""An old version as its run exported it, byte for byte.

A version is exported again from what the store recorded when it was made: the selection with the sources and licences
of that time, its table of scores, the recipe of the run that made it first, and the places and other columns of its
rows as its first export had them. Later runs change none of these. The digest of the manifest, which names the digest
of every file, is compared with the one that the run noted, before the folder appears under its name.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from gradsift.datastore import leases, origins, runs, selections, versions
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.identity import digest_file
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.datastore.versions import Version
from gradsift.pipelines.export.about import Told, pool_words
from gradsift.pipelines.export.export import PROGRAMS, export
from gradsift.pipelines.export.job import EXPORT_VERSION, PLACELESS, UNDESCRIBED, UNSEALED
from gradsift.pipelines.export.place import settle, swap
from gradsift.pipelines.export.push import Pushed
from gradsift.pipelines.export.whole import damaged, manifest_at
from gradsift.pipelines.progress import Progress, quiet


@dataclass(frozen=True)
class CheckedOut:
    """Where a version was written. `as_then`: compared with what its run exported (False where it exported nothing).
    `pushed`: what the hub got of it, where it was pushed."""

    version: str
    folder: str
    rows: int
    manifest: str
    as_then: bool
    pushed: Pushed | None = None


def checkout(store: Store, reference: str, folder: Path | None = None, progress: Progress = quiet) -> CheckedOut:
    """Export a version (`mixture@3`, `NAME@3`) to a folder, by default to `exports/NAME@3` in the store.

    Raises InputError for a version that is void or was pruned, for a folder that holds anything but an export, and
    where the same bytes cannot be made any more, saying why; BusyError while another process does the same.
    """
    version = versions.find(store, reference)
    selection = selections.of_version(store, version)
    if folder is None and Path(str(version)).name != str(version):
        raise InputError(f"{str(version)!r} is no name of a folder; give one with --out")
    folder = folder or store.root / "exports" / str(version)
    settle(store, folder)
    noted = versions.manifest_of(store, version)
    if noted is None or manifest_at(folder) is None or _digest(folder) != noted[0] or damaged(folder):
        made_by = PROGRAMS if noted is None else {**PROGRAMS, **noted[1]}
        staging = folder.parent / f".checkout-{folder.name}"
        run = runs.get(store, version.run_id)
        told = Told(pool=pool_words(run.result))
        with leases.held(store, f"checkout {version}") as mine:  # also against a deletion, until the end
            if not mine:
                raise BusyError(f"another process checks {version} out; wait for it")
            for layout in _layouts(store, version, selection, noted=noted is not None):
                export(
                    store,
                    selection,
                    run.recipes,
                    staging,
                    None,
                    progress,
                    made_by,
                    folder,
                    as_then=True,
                    layout=layout,
                    told=told,
                )
                if noted is None or _digest(staging) == noted[0]:
                    break
                shutil.rmtree(staging)
            else:
                raise InputError(_unlike(version, noted[1] if noted else {}))
            manifest_at(folder)  # refuses what is no export
            swap(store, staging, folder)
    return CheckedOut(str(version), str(folder), selection.rows, _digest(folder), noted is not None)


def _layouts(store: Store, version: Version, selection: Selection, *, noted: bool) -> tuple[int, ...]:
    """Layouts that its run may have exported it in, the likely one first."""
    if versions.was_exported(store, version) and origins.exported(store, selection.selection_id) is None:
        return (PLACELESS,)
    return (EXPORT_VERSION, UNSEALED, UNDESCRIBED, PLACELESS) if noted else (EXPORT_VERSION,)


def _digest(folder: Path) -> str:
    return digest_file(folder / "manifest.json")


def _unlike(version: Version, made_by: dict[str, str]) -> str:
    then, now = (", ".join(f"{name} {at}" for name, at in sorted(of.items())) for of in (made_by, PROGRAMS))
    if then != now:
        why = f"it was written with {then}, and here is {now}; check it out where that is installed"
    else:
        why = (
            "something that it was made from changed outside of its version (files of the tokenizer, a table of scores "
            "that was dropped as damaged); `gradsift verify` checks the store"
        )
    return (
        f"{version} does not come out as its run exported it: {why}, or take its rows with `gradsift export {version}`"
    )
