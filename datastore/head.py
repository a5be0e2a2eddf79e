"""How far a SQLite catalog has come, noted in a small file beside it: what tells that its log was lost, or an old copy
of it put back.

The catalog counts its commits; who commits notes the count here afterwards. Killed between the two, the note is behind
the catalog, which is no fault, and so it is where two notes come in the other order: the note says what the catalog has
at least. It is not synced: after a power loss it may be an older one, or none.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from gradsift.datastore import inside
from gradsift.datastore.errors import CorruptionError

_NOTE = re.compile(r"([0-9a-f]{32}) (\d{20}) [0-9a-f]{16}\n")


@dataclass(frozen=True)
class Head:
    """A catalog, by the name that it gave itself, and how many commits it has."""

    catalog: str
    commits: int


def note(path: Path, head: Head) -> None:
    """Note it, if that can be done: one that is behind is no fault, so no error is."""
    content = _written(head)
    with suppress(OSError, CorruptionError):
        handle = inside.opened(path.parent, path.name, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(handle, content, 0)
        finally:
            os.close(handle)


def noted(path: Path) -> Head | None:
    """What was noted last; None where nothing was, or it cannot be read as a note any more."""
    try:
        with open(inside.opened(path.parent, path.name), "rb") as file:  # noqa: PTH123 - a handle
            content = file.read(256)
    except (OSError, CorruptionError):
        return None
    found = _NOTE.fullmatch(content.decode("ascii", "replace"))
    head = Head(found[1], int(found[2])) if found else None
    return head if head is not None and _written(head) == content else None


def _written(head: Head) -> bytes:
    """Always as long: each is written over the one before."""
    text = f"{head.catalog} {head.commits:020d}".encode()
    return b"%b %b\n" % (text, xxh3_64_hexdigest(text).encode())


def behind(last: Head | None, has: Head) -> str | None:
    """In words, how a catalog that `has` come so far is behind what was noted `last`, before the catalog was asked;
    None where it is not."""
    if last is None or (last.catalog == has.catalog and last.commits <= has.commits):
        return None
    if last.catalog != has.catalog:
        return "it is another catalog than the one that was here"
    return (
        f"its last {last.commits - has.commits:,} changes are gone: its log, the file that ends in -wal, was lost, or "
        "an older copy was put back"
    )
