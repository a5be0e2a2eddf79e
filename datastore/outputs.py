"""Where exports and reports were written: what holds text of the store and is not in its own folders for them."""

import time
from pathlib import Path

from gradsift.datastore.store import Store

OWN = ("exports", "reports")  # in the store: whoever looks for what was written looks there, too


def note(store: Store, kind: str, path: Path) -> None:
    """Record that an `export` or a `report` goes to a path, before it is written. Nothing in the store's own folders
    for them is recorded."""
    whole, root = path.resolve(), store.root.resolve()
    inside = whole.relative_to(root) if whole.is_relative_to(root) else None
    if inside is not None and len(inside.parts) > 1 and inside.parts[0] in OWN:
        return
    text = str(inside or whole)
    if store.catalog.one("SELECT 1 FROM written WHERE path=?", (text,)) is None:
        with store.catalog.write() as db:
            db.execute("INSERT INTO written VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (text, kind, time.time()))


def noted(store: Store, kind: str) -> list[str]:
    """Paths of exports or reports, whether or not they are still there, the first that was written first."""
    rows = store.catalog.rows("SELECT path FROM written WHERE kind=? ORDER BY first, path", (kind,))
    return [str(store.root / row["path"]) for row in rows]  # an absolute one as it is
