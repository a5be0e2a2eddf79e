"""The exports on disk that a store knows of, and which of them are not as they were written."""

import re
from collections.abc import Iterator
from pathlib import Path

from gradsift.datastore import inside
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.maintenance import Damage
from gradsift.datastore.store import Store
from gradsift.datastore.traces import exported_to
from gradsift.pipelines.export.place import OLD
from gradsift.pipelines.export.whole import MANIFEST, damaged, was_export

STAGING = re.compile(r"\.partial-(?:\.checkout-)?(?P<name>.+)-(?P<key>[0-9a-f]{16})")  # of an export that is written
REPLACED = re.compile(r"\.old-[0-9a-f]{16}")  # an export that another took the place of, in older versions
CHECKOUT = ".checkout-"  # and the name of the folder that it becomes
SHOWN = 3  # files of an export that are named


def folders(store: Store) -> list[Path]:
    """Folders of exports, each once: those of the store first, then others in the order of the runs."""
    folders = [*_inside(store), *(folder for folder in map(Path, exported_to(store)) if is_plain(store, folder))]
    mine = [folder for folder in folders if not _is_left_behind(folder.name)]
    return list({folder.resolve(): folder for folder in reversed(mine)}.values())[::-1]


def _inside(store: Store) -> list[Path]:
    exports = store.root / "exports"
    found = exports.iterdir() if exports.is_dir() and not exports.is_symlink() else ()
    return [path for path in sorted(found) if path.is_dir() and not path.is_symlink()]


def is_plain(store: Store, folder: Path) -> bool:
    """Whether a folder that the catalog names is elsewhere, or in the store and behind no link."""
    try:
        inside.require(store.root, folder)
    except CorruptionError:
        return False
    return True


def is_in(store: Store, folder: Path) -> bool:
    """Whether a folder is below that of the store, whatever links there are."""
    return folder.resolve().is_relative_to(store.place.root)


def _is_left_behind(name: str) -> bool:
    return bool(STAGING.fullmatch(name) or REPLACED.fullmatch(name)) or name.startswith((CHECKOUT, OLD))


def is_mine(store: Store, folder: Path) -> bool:
    """Whether a folder is in the store's own one for exports."""
    return folder.resolve().parent == store.place.root / "exports"


def damaged_exports(store: Store) -> Iterator[Damage]:
    """Exports that are not as they were written, those of the store and others that it recorded, with their files. What
    is no longer there is its owner's, and so is a manifest there that is none of ours. Cost: all of their bytes are
    read."""
    for folder in folders(store):
        mine = is_mine(store, folder)
        named = (folder / MANIFEST).is_file() or any((folder / "data").glob("train-*-of-*"))
        if named if mine else was_export(folder):
            of_files = [f"{what}: {name}" for name, what in damaged(folder).items()]
            more = f", and {len(of_files) - SHOWN:,} more" if len(of_files) > SHOWN else ""
            if of_files:
                yield Damage(0, "export", str(folder), ", ".join(of_files[:SHOWN]) + more)
