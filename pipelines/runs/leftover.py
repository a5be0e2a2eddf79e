"""What killed exports left in the store's own folder `exports`, which gc collects: an export that was half written, and
one whose place another took. Exports elsewhere are their owners'; a deletion sees to those (`outside`)."""

import shutil
from contextlib import suppress
from pathlib import Path

from gradsift.datastore import inside, leases
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.place import OLD, remove, settle
from gradsift.pipelines.runs.copies import CHECKOUT, REPLACED, STAGING


def left_behind(store: Store, grace: float) -> list[tuple[str, int]]:
    """(name below the store, bytes) of what nobody has written to for `grace` seconds, by its file system's clock, and
    nobody is at work on. An export whose successor never came is none of it: the next export puts it back. Links are
    left alone, and what lies behind one."""
    found = []
    with suppress(OSError, GradsiftError), inside.folder(store.root, "exports") as folder:
        now = inside.clock_of(folder)
        for path in sorted((store.root / "exports").iterdir()):
            if path.is_dir() and not path.is_symlink() and _is_left(store, path):
                states = [one.lstat() for one in (path, *path.rglob("*"))]
                if now - max(state.st_mtime for state in states) > grace:
                    found.append((f"exports/{path.name}", sum(state.st_size for state in states)))
    return found


def _is_left(store: Store, path: Path) -> bool:
    if staging := STAGING.fullmatch(path.name):
        return not leases.is_held(store, f"export {staging['key']}")
    if path.name.startswith(OLD):
        return path.with_name(path.name.removeprefix(OLD)).is_dir()
    return path.name.startswith(CHECKOUT) or bool(REPLACED.fullmatch(path.name))


def collect(store: Store, grace: float) -> list[tuple[str, int]]:
    """Remove what `left_behind` lists; returns what is gone. Files of others in an export that was replaced go to the
    one that took its place, or stay where they are."""
    return [(name, size) for name, size in left_behind(store, grace) if _remove(store, store.root / name)]


def _remove(store: Store, path: Path) -> bool:
    if path.name.startswith(OLD):
        with suppress(GradsiftError):  # a file of others has no place to go
            settle(store, path.with_name(path.name.removeprefix(OLD)))
    elif REPLACED.fullmatch(path.name):
        remove(path)
    else:
        shutil.rmtree(path)
    return not path.exists()
