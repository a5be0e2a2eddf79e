"""Stage: put a finished export into its place, and leave alone what others wrote there.

A trainer's output, notes, a cache: whatever the manifest of an export does not name is not the export's. It stays
under its name when the export is written anew or removed.

    1. the old export is renamed to `.gradsift-old-NAME` beside it
    2. the new one is renamed to NAME: from here on a reader sees all of the new one
    3. what is not the old export's is moved back to NAME, one rename for each file or whole folder
    4. the old export's own files are removed, the manifest last

Killed before 2, the next call names the old one NAME again; killed later, it does the rest. Between 1 and 2 there is no
folder, and until 3 has ended files of others are missing from it, none of them ever from the disk. A name that both the
new export and somebody else want is refused before 1.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradsift.datastore import inside, leases
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.files import followed, fsync_folder
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store
from gradsift.pipelines.export.reading import ODD
from gradsift.pipelines.export.whole import is_below, is_sealed

TEXTS = (
    "README.md", "atlas.parquet", "axolotl.yaml", "composition.csv", "croissant.json", "dataset_info.json",
    "recipe.yaml", "trl-messages.yaml", "trl.yaml",
)  # fmt: skip
OLD = ".gradsift-old-"  # and the name of the folder whose place was taken


def swap(store: Store, staging: Path, folder: Path) -> None:
    """Put a finished export into its place. Files of others that were there stay.

    Raises InputError, with nothing moved, where the export has a file of the name of one of these; BusyError while
    another process does the same.
    """
    _require_no_link(store, folder)
    with _alone(store, folder):
        _settle(folder)
        _swap(staging, folder)
        _settle(folder)


def _swap(staging: Path, folder: Path) -> None:
    old = _replaced(folder)
    if folder.exists():
        for name in others(folder):
            _refuse_clash(folder / name, staging / name, f"{folder / name} is in the way of the export's {name}")
        folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    fsync_folder(folder.parent)


def settle(store: Store, folder: Path) -> None:
    """Finish a swap that was killed; nothing where none was. Raises InputError where a file of others cannot go back,
    because another one has its name by now, BusyError while a swap is going on, and CorruptionError for a folder in the
    store that is a link, or lies behind one."""
    _require_no_link(store, folder)
    if _replaced(folder).exists():
        with _alone(store, folder):
            _settle(folder)


def _require_no_link(store: Store, folder: Path) -> None:
    for path in (folder, _replaced(folder)):
        inside.require(store.root, path)


@contextmanager
def _alone(store: Store, folder: Path) -> Iterator[None]:
    with leases.held(store, f"export to {fingerprint(str(followed(folder)))[:16]}") as mine:
        if not mine:
            raise BusyError(f"another process is writing to {folder}; wait for it")
        yield


def _settle(folder: Path) -> None:
    old = _replaced(folder)
    if not old.exists():
        return
    if not folder.exists():
        if (old / "manifest.json").is_file():
            old.rename(folder)  # the new one never came
        return
    for name in others(old):
        if _is_behind_a_link(folder, name):
            raise InputError(f"{folder / name} lies behind a link; remove that, then run this again")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _move(old / name, folder / name)
    remove(old)
    fsync_folder(folder.parent)


def remove(folder: Path) -> bool:
    """Remove an export; returns whether nothing is left. Files of others stay, and the folder with them."""
    names = sorted(name for name in own_files(folder) - {"manifest.json"} if not _is_behind_a_link(folder, name))
    for name in (*names, "manifest.json"):  # which says what else is to go, after a kill
        if not (folder / name).is_dir() or (folder / name).is_symlink():
            (folder / name).unlink(missing_ok=True)
    parents = {parent for name in names for parent in Path(name).parents}
    for parent in sorted(parents | {Path("data"), Path()}, key=lambda path: len(path.parts), reverse=True):
        if _is_folder(folder / parent) and not any((folder / parent).iterdir()):
            (folder / parent).rmdir()
    return not folder.exists()


def _is_behind_a_link(folder: Path, name: str) -> bool:
    """Whether a folder on the way to a file is a link: the file is somebody's then."""
    return any((folder / parent).is_symlink() for parent in list(Path(name).parents)[:-1])


def others(folder: Path) -> list[str]:
    """Names below an export of what is not its own; a folder in which nothing can be its own stands for all in it."""
    own = own_files(folder)
    mixed = {parent.as_posix() for name in own for parent in Path(name).parents} | {"data"}
    return list(_others(folder, "", own, mixed))


def _others(folder: Path, below: str, own: set[str], mixed: set[str]) -> Iterator[str]:
    for path in sorted((folder / below).iterdir()):
        name = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and name in mixed:
            yield from _others(folder, name, own, mixed)
        elif is_folder or name not in own:
            yield name


def own_files(folder: Path) -> set[str]:
    """Names of an export's own files: by its manifest, and where that is damaged by what exports call theirs, too."""
    if not (folder / "manifest.json").is_file():
        return set()
    names, as_written = set[str](), False
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        names, as_written = {str(name) for name in manifest["files"]}, is_sealed(manifest)
    except ODD:
        pass  # what it says is not known
    if not as_written:
        names |= {*TEXTS, *(f"data/{path.name}" for path in (folder / "data").glob("train-?????-of-?????.*"))}
    return {"manifest.json", *filter(is_below, names)}


def _replaced(folder: Path) -> Path:
    return folder.parent / f"{OLD}{folder.name}"


def _move(source: Path, target: Path) -> None:
    """One rename; into a folder that is there already, entry by entry. Raises InputError rather than replace a file."""
    if _is_folder(source) and _is_folder(target):
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
        source.rmdir()
        return
    _refuse_clash(source, target, f"{source} belongs at {target}, where another file is by now")
    source.rename(target)


def _refuse_clash(source: Path, target: Path, what: str) -> None:
    if _is_folder(source) and _is_folder(target):
        for path in source.iterdir():
            _refuse_clash(path, target / path.name, what)
    elif target.exists() or target.is_symlink():
        raise InputError(f"{what}; move it away or rename it, then run this again")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
