"""A store: a folder of immutable files and the catalog that says which of them exist."""

import time
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import BinaryIO

from gradsift.datastore import files
from gradsift.datastore.catalog import Catalog
from gradsift.datastore.errors import CorruptionError, InputError


class Store:
    """An open store. Modules `examples`, `features`, `checkpoints` and `selections` work on it."""

    def __init__(self, root: Path | str, *, create: bool = True) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file, not a store folder")
        self.catalog = Catalog(self.root / "catalog.sqlite", create=create)
        self._checked: set[int] = set()

    def close(self) -> None:
        """Close the catalog connection."""
        self.catalog.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit_file(
        self,
        kind: str,
        suffix: str,
        rows: int,
        fill: Callable[[BinaryIO], None],
        record: Callable[[Connection, int], bool | None],
    ) -> int | None:
        """Write a file durably, then commit it with the rows that refer to it in one transaction.

        `record(db, shard_id)` inserts what belongs to the shard; if it returns False someone else was
        first: nothing is committed and our file is deleted. Returns the shard id, or None then.
        """
        written = files.write_file(self.root, kind, suffix, fill)
        try:
            with self.catalog.write() as db:
                cursor = db.execute(
                    "INSERT INTO shard (kind, name, rows, bytes, sha256, created) VALUES (?, ?, ?, ?, ?, ?)",
                    (kind, written.name, rows, written.bytes, written.sha256, time.time()),
                )
                shard_id = int(cursor.lastrowid or 0)
                if record(db, shard_id) is False:
                    raise _LostRace
                files.failpoint("recorded")
        except BaseException as error:
            if not self._is_committed(written.name):
                (self.root / written.name).unlink(missing_ok=True)
            if isinstance(error, _LostRace):
                return None
            raise
        files.failpoint("committed")
        return shard_id

    def _is_committed(self, name: str) -> bool:
        # COMMIT itself may have failed after it took effect; the catalog decides, not the exception.
        try:
            return self.catalog.one("SELECT 1 FROM shard WHERE name=?", (name,)) is not None
        except Exception:  # noqa: BLE001 - an orphan is harmless, a deleted shard is not
            return True

    def shard_path(self, shard_id: int) -> Path:
        """Path of a committed shard; its digest is checked on first use in this process."""
        row = self.catalog.one("SELECT * FROM shard WHERE shard_id=?", (shard_id,))
        if row is None:
            raise CorruptionError(f"shard {shard_id} is not in the catalog")
        if shard_id in self._checked:
            return self.root / str(row["name"])
        try:
            path = files.check_file(self.root, row["name"], row["bytes"], row["sha256"])
        except CorruptionError as error:
            raise CorruptionError(f"shard {shard_id} ({row['kind']}): {error}") from None
        self._checked.add(shard_id)
        return path


class _LostRace(Exception):
    """Someone else committed the same work first."""
