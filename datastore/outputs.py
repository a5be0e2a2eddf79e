"""Where exports and reports were written: what holds text of the store and is not in its own folders for them."""

from pathlib import Path

from gradsift.datastore.errors import InputError
from gradsift.datastore.files import followed
from gradsift.datastore.place import Place, folders, is_store
from gradsift.datastore.store import Store

OWN = ("exports", "reports")  # in the store: whoever looks for what was written looks there, too

STARTS = {"Parquet file": b"PAR1", "HTML page": b"<!doctype html>", "SVG picture": b"<svg"}


def refuse_taken(place: Place, path: Path, kind: str) -> None:
    """Raise InputError where a file of the kind must not be written: in a store's folder, and over another kind's.

    `kind` is one of `STARTS`, or another word: then only the place is looked at. Ask before the work is done.
    """
    whole = followed(path)
    inside = next((folder for folder in folders(place) if whole.is_relative_to(folder.resolve())), None)
    if inside is not None and is_store(place.root):
        what = "is a file of" if path.exists() else "would be in the folder of"
        raise InputError(f"{path} {what} the store ({inside}), where only the store writes; name a path outside of it")
    try:
        begins = _start(path, len(STARTS.get(kind, b""))) if path.is_file() else b""
    except OSError as error:
        raise InputError(f"cannot read what is at {path}: {error.strerror}; name another path") from error
    if begins and begins != STARTS[kind]:
        raise InputError(f"{path} is there, and is no {kind}; name another path, or remove it first")


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as handle:
        return handle.read(size)


def note(store: Store, kind: str, path: Path) -> None:
    """Record that an `export` or a `report` goes to a path, before it is written. Nothing in the store's own folders
    for them is recorded."""
    whole, root = followed(path), store.root.resolve()
    inside = whole.relative_to(root) if whole.is_relative_to(root) else None
    if inside is not None and len(inside.parts) > 1 and inside.parts[0] in OWN:
        return
    text = str(inside or whole)
    if store.catalog.one("SELECT 1 FROM written WHERE path=?", (text,)) is None:
        with store.catalog.write() as db:
            db.execute("INSERT INTO written VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (text, kind, db.now()))


def noted(store: Store, kind: str) -> list[str]:
    """Paths of exports or reports, whether or not they are still there, the first that was written first."""
    rows = store.catalog.rows("SELECT path FROM written WHERE kind=? ORDER BY first, path", (kind,))
    return [str(store.root / row["path"]) for row in rows]  # an absolute one as it is


def here(store: Store, written: str, page: str) -> str | None:
    """Where a run wrote a report or an export; `page` is the path of its report as it recorded that, "" for none.
    Inside a store that is this store, though the path may be of another: this one may be a copy, or may have been
    moved, and the original's are the original's. None for a path that was seen from a folder which is not known."""
    path, folder = Path(written), Path(page).parent
    then = folder.parent if folder.name == "reports" else None  # the store, as that run named it
    if then is not None and path.is_relative_to(then):
        return str(store.root / path.relative_to(then))
    root = store.root.resolve()
    if not path.is_absolute():
        parts = () if then is None or then.is_absolute() or ".." in then.parts else then.parts
        if not parts or root.parts[-len(parts) :] != parts:
            return None
        path = Path(*root.parts[: -len(parts)]) / path
    inside = next((parent for parent in path.parents if is_store(parent)), None)
    if inside is not None and inside.resolve() != root:
        return str(store.root / path.relative_to(inside))
    return str(path)
