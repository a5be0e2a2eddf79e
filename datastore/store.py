"""A store: immutable files, and the catalog that says which of them exist."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.datastore import files, owner, shapes, threads
from gradsift.datastore.backend import Backend, Fill, StoredFile
from gradsift.datastore.engine import Engine, Row, Transaction
from gradsift.datastore.errors import BusyError, CorruptionError, GradsiftError, InputError, UnavailableError
from gradsift.datastore.place import PLACE_NAME, Place, agree, keep, open_catalog, open_files, part, settled

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

    from gradsift.datastore.neighbour import Neighbour

CLEARED = "a deletion on {} took this file away before it was part of the store; run this again when that has ended"


@dataclass(frozen=True)
class NewFile:
    """A file to be written: its kind, the end of its name, its rows, and what writes them to a handle."""

    kind: str
    suffix: str
    rows: int
    fill: Fill


class Store:
    """An open store. Modules `examples`, `features`, `checkpoints` and `selections` work on it.

    `root` is this host's folder, where reports and exports go unless told otherwise; `place` is what another process
    needs to open the same store. `catalog` and `backend` are for the modules of `datastore/` alone: everybody else
    calls functions of these modules.
    """

    def __init__(
        self,
        where: Place | Path | str,
        *,
        create: bool = True,
        catalog: Engine | None = None,
        backend: Backend | None = None,
    ) -> None:
        place = where if isinstance(where, Place) else Place(Path(where))
        self.root = place.root
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file, not a store folder")
        self.place = replace(settled(place), root=self.root.resolve())
        url = self.place.store_url
        first = url is not None and not (self.place.root / PLACE_NAME).exists()  # at a URL that its user gave
        self.backend = backend or open_files(self.place)
        if first:
            owner.look(self.backend)  # a URL that cannot be used leaves nothing behind
        self.catalog = catalog or open_catalog(self.place, create=create)
        new = agree(self.catalog, self.place)
        self._owns = url is None
        if url is not None and first:
            try:
                owner.claim(self.catalog, self.backend, url)
            except GradsiftError:
                if new:
                    part(self.catalog)
                raise
        keep(self.place)
        self._shaped: set[str] = set()  # names of files whose content this process has looked at
        self.backend.keep(self._digests)

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
        fill: Fill,
        record: Callable[[Transaction, int], bool | None],
        *,
        replaces: Sequence[int] = (),
        grace: float = 0.0,
    ) -> int | None:
        """Write a file durably, then commit it with the rows that refer to it in one transaction.

        `record(db, shard_id)` inserts what belongs to the shard; when it returns False, somebody else was faster:
        nothing is committed and this file is deleted. Returns the shard id, or None then.

        `replaces` are shards that the new one stands for: `record` makes whatever refers to them refer to it, and they
        leave the catalog in the same transaction. Their files go `grace` seconds later, by `sweep`.

        When the connection to the catalog is lost, `record` is called again in another transaction, unless the lost one
        turns out to be committed: it must do the same then.
        """
        made = self.commit_files(
            [NewFile(kind, suffix, rows, fill)], lambda db, ids: record(db, ids[0]), replaces=replaces, grace=grace
        )
        return None if made is None else made[0]

    def commit_files(
        self,
        new: Sequence[NewFile],
        record: Callable[[Transaction, list[int]], bool | None],
        *,
        replaces: Sequence[int] = (),
        grace: float = 0.0,
    ) -> list[int] | None:
        """`commit_file` of several files that become part of the store together, or none of them does."""
        written: list[StoredFile] = []

        def put(db: Transaction) -> list[int]:
            if done := _committed(db, written):  # its answer was lost
                return done
            shard_ids = [_insert_shard(db, file.kind, file.rows, at) for file, at in zip(new, written, strict=True)]
            if record(db, shard_ids) is False:
                raise _LostRace
            for stored in written:
                self._require_there(stored)
            doom(db, replaces, grace)
            files.failpoint("recorded")
            return shard_ids

        self.require_own_files()  # a place.json that came with a store may name a folder of somebody's
        try:
            for file in new:
                written.append(self.backend.write(file.kind, file.suffix, file.fill))  # noqa: PERF401 - the next may fail
            shard_ids = self.catalog.again(put)
        except BaseException as error:
            for stored in written:
                if not self._is_committed(stored, error):
                    with suppress(UnavailableError):  # `gc` collects what cannot be deleted now
                        self.backend.delete(stored.name)
            if isinstance(error, _LostRace):
                return None
            if isinstance(error, FileNotFoundError):
                raise BusyError(CLEARED.format(self.root)) from error
            raise
        files.failpoint("committed")
        if replaces:
            self.sweep()
        return shard_ids

    def _require_there(self, written: StoredFile) -> None:
        if not self.backend.there(written):
            raise BusyError(CLEARED.format(self.root))

    def sweep(self) -> int:
        """Delete the files that left the store and whose time has come, and copies on this host of files that are gone;
        returns how many files. Whoever is killed before it leaves them to the next."""
        now = self.catalog.now()
        names = [row["name"] for row in self.catalog.rows("SELECT name FROM doomed WHERE after <= ?", (now,))]
        if names:
            self.require_own_files()
        for name in names:
            self.backend.delete(name)
            files.failpoint("swept")
        if names:
            with self.catalog.write() as db:
                db.executemany("DELETE FROM doomed WHERE name=?", [(name,) for name in names])
        self.backend.keep(self._digests)
        return len(names)

    def require_own_files(self) -> None:
        """Raise InputError where the files are not known to be of this store's catalog: it must touch none then."""
        if not self._owns and self.place.store_url is not None:
            owner.require(self.catalog, self.backend, self.place.store_url)
            self._owns = True

    def _digests(self) -> set[str]:
        """Digests of the files that the catalog knows, those that wait for their end too."""
        tables = ("shard", "doomed", "search_index")
        return {row["sha256"] for table in tables for row in self.catalog.rows(f"SELECT sha256 FROM {table}")}

    def _is_committed(self, written: StoredFile, error: BaseException) -> bool:
        # COMMIT itself may have failed after it took effect; the catalog decides, not the exception.
        try:
            if not isinstance(error, UnavailableError):
                return bool(_committed(self.catalog, [written]))
            with self.catalog.write() as db:  # behind the lost transaction, which the server may not have ended yet
                return bool(_committed(db, [written]))
        except Exception:  # noqa: BLE001 - an orphan is harmless, a deleted shard is not
            return True

    def open(self, shard_id: int) -> shapes.Reading:
        """A committed shard for reading, with seek, by `with store.open(…) as file`; its digest and its shape are
        checked on first use in this process, and again when somebody has written to the file since.

        Raises CorruptionError, naming the shard, when it is missing, cut or changed, and inside the `with` when what it
        holds cannot be read.
        """
        return self._reader(shard_id, self.backend.open)

    def map(self, shard_id: int) -> shapes.Reading:
        """Like `open`, as memory that readers need not copy."""
        return self._reader(shard_id, self.backend.map)

    def frame(self, name: str) -> "pl.LazyFrame":
        """A table of the store as a lazy frame of Polars: examples, signals, scores, selections, mixtures, marks, …
        (`gradsift sql --schema` lists them and their columns).

        It reads nothing until it is collected, and then, a batch at a time, the columns that are asked for and the rows
        that the catalog lists. Collect it while the store is open. Raises InputError for an unknown name.
        """
        frame: pl.LazyFrame = import_module("gradsift.datastore.frames").frame(self, name)  # it imports this module
        return frame

    def neighbours(
        self,
        question: "str | Sequence[str] | NDArray[np.generic]",
        k: int = 10,
        *,
        unlike: Sequence[str] = (),
        opposed: bool = False,
        checkpoint: int | None = None,
        where: str | None = None,
        everything: bool = False,
    ) -> "list[Neighbour]":
        """The k rows of the last run's pool whose gradients are nearest to a question, best first, without a model.

        `question` is a stored example (the start of its id), several (their mean), or a vector [D] of the projected
        space; `unlike` are examples to be less like. `opposed`: the farthest instead, those that point the other way.
        `checkpoint`: its number, default the last. `where`: only rows for which this holds, as after WHERE in SQL
        (`gradsift delete --where` has the columns). `everything`: rows that left the pool, too.

        Each neighbour has `example_id` and `cosine`. Exact; ties go to the smaller id; what was asked with is left
        out. Cost O(N·D), and a pass over the catalog's rows. Raises InputError for an unknown id, checkpoint or column,
        k < 1, a vector of another width, and an example without a plain row (`gradsift.query` has it computed);
        CorruptionError for a damaged shard. More ways to ask, and other spaces: `gradsift.query`.
        """
        nearby = import_module("gradsift.datastore.nearby")  # it imports this module
        found: list[Neighbour] = nearby.near(
            self, question, k, unlike=unlike, opposed=opposed, checkpoint=checkpoint, predicate=where,
            everything=everything,
        )  # fmt: skip
        return found

    def _shard(self, shard_id: int) -> Row | None:
        """What is known of a shard, or of one that left and whose file is still there: its number may have been read
        before it was merged."""
        for table in ("shard", "doomed"):
            row = self.catalog.one(f"SELECT kind, name, bytes, sha256 FROM {table} WHERE shard_id=?", (shard_id,))
            if row is not None:
                return row
        return None

    def check(self, shard_ids: Collection[int]) -> set[int]:
        """Compare the digests of shards that are to be read in this process and were not yet, or were changed since, in
        several threads; returns which these were.

        `open` and `map` say what is wrong with those that are not whole. Cost: a reading of these files, at the speed
        of memory where this host has checked them before.
        """
        rows = self.catalog.rows("SELECT shard_id, kind, name, bytes, sha256 FROM shard") if shard_ids else []
        wanted = [row for row in rows if row["shard_id"] in shard_ids and not self._is_ready(stored_file(row))]

        def whole(row: Row) -> None:
            with suppress(CorruptionError, UnavailableError, OSError):
                self._ready(str(row["kind"]), stored_file(row))

        for _ in threads.each(whole, wanted):
            pass
        return {int(row["shard_id"]) for row in wanted}

    def _is_ready(self, file: StoredFile) -> bool:
        return file.name in self._shaped and self.backend.is_ready(file)

    def _ready(self, kind: str, file: StoredFile) -> None:
        if self._is_ready(file):
            return
        self.backend.ready(file)
        with self.backend.map(file) as opened:
            shapes.require(kind, opened)
        self._shaped.add(file.name)

    def _reader(self, shard_id: int, opener: "Callable[[StoredFile], pa.NativeFile]") -> shapes.Reading:
        row = self._shard(shard_id)
        if row is None:
            raise CorruptionError(
                f"shard {shard_id} is not in the catalog. If the store was compacted or pruned meanwhile, run the "
                "command again"
            )
        file = stored_file(row)
        try:
            self._ready(row["kind"], file)
            return shapes.Reading(f"shard {shard_id} ({row['kind']})", opener(file))
        except CorruptionError as error:
            raise CorruptionError(f"shard {shard_id} ({row['kind']}): {error}") from None


def stored_file(row: Row) -> StoredFile:
    """What a row of `shard` says of its file."""
    return StoredFile(row["name"], row["bytes"], row["sha256"])


def doom(db: Transaction, shards: Sequence[int], grace: float = 0.0) -> None:
    """Take shards that nothing refers to any more out of the catalog, and note that their files must go."""
    for shard_id in shards:
        (gone,) = db.rows("DELETE FROM shard WHERE shard_id=? RETURNING name, kind, bytes, sha256", (shard_id,))
        db.execute(
            "INSERT INTO doomed (name, after, shard_id, kind, bytes, sha256) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (gone["name"], db.now() + grace, shard_id, gone["kind"], gone["bytes"], gone["sha256"]),
        )


def _insert_shard(db: Transaction, kind: str, rows: int, file: StoredFile) -> int:
    inserted = db.rows(  # a trigger keeps the last number: none is given again
        "INSERT INTO shard (shard_id, kind, name, rows, bytes, sha256, created) "
        "SELECT last + 1, ?, ?, ?, ?, ?, ? FROM shard_number RETURNING shard_id",
        (kind, file.name, rows, file.bytes, file.sha256, db.now()),
    )
    return int(inserted[0]["shard_id"])


def _committed(db: Engine | Transaction, written: Sequence[StoredFile]) -> list[int]:
    """Numbers of those of the files that are part of the store, or were: of all that were written together, or of none.
    A file may have been merged into another since, before its writer heard of its commit."""
    known = "SELECT shard_id FROM shard WHERE name=? UNION SELECT shard_id FROM doomed WHERE name=?"
    rows = [db.one(known, (file.name, file.name)) for file in written]
    return [int(row["shard_id"]) for row in rows if row is not None and row["shard_id"] is not None]


class _LostRace(Exception):
    """Someone else committed the same work first."""
