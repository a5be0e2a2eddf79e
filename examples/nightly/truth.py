"""What is known of the nightly example's pool because its files were made here, and what a store says of it instead.

The one side (`Truth`) never looks at the store; the other (`Ledger`, `texts_of_pool`, `exported`, `holding`) reads the
store's catalog and files, not what a command printed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.datastore import examples
from gradsift.datastore.store import Store
from gradsift.examples.nightly.arrivals import File, Row
from gradsift.pipelines.demo.data import Pair


class Unexpected(Exception):
    """What the store says is not what is known."""


def expect(what: str, found: Any, known: Any) -> None:
    """Raises Unexpected where two values differ."""
    if found != known:
        raise Unexpected(f"{what}: {found!r} in the store, {known!r} by what arrived")


@dataclass(frozen=True)
class Truth:
    """The files that have arrived, and who asked to be deleted (an address), if somebody did."""

    files: tuple[File, ...] = ()
    gone: str | None = None

    def and_(self, *files: File) -> "Truth":
        """What is known when these have arrived, too."""
        return replace(self, files=(*self.files, *files))

    def without(self, author: str) -> "Truth":
        """What is known when an author's rows were deleted."""
        return replace(self, gone=author)

    @property
    def usable(self) -> frozenset[Pair]:
        """The chats that a pool may hold."""
        return frozenset(row.chat for file in self.files for row in file.rows if row.author != self.gone)

    @property
    def stored(self) -> frozenset[Pair]:
        """Those that the store keeps: also what screening leaves out of the pool."""
        return self.usable | {row.chat for file in self.files for row in file.leaks if row.author != self.gone}

    @property
    def counts(self) -> dict[str, int]:
        """What a run that reads the whole folder says of its rows."""
        good = [row for file in self.files for row in (*file.rows, *file.repeats, *file.leaks)]
        refused = sum(sum(file.bad.values()) for file in self.files)
        return {
            "read": len(good) + refused,
            "refused": refused,
            "deleted": sum(row.author == self.gone for row in good),
            "repeats": self._present(row for file in self.files for row in file.repeats),
            "leaks": self._present(row for file in self.files for row in file.leaks),
        }

    @property
    def bad(self) -> dict[str, int]:
        """Refused rows by reason."""
        return {why: n for file in self.files for why, n in file.bad.items()}

    def _present(self, rows: Iterable[Row]) -> int:
        return sum(row.author != self.gone for row in rows)


@dataclass(frozen=True)
class Ledger:
    """The gradient work in a store's catalog: by feature space, how many rows were ever planned in units and how many
    there are; units, files of rows, and the rows in them."""

    planned: Mapping[int, int]
    rows: Mapping[int, int]
    units: int
    files: int
    rows_in_files: int

    def balance(self) -> None:
        """Each row is in one file, and each file's rows are in the catalog. Raises Unexpected."""
        expect("rows in all files of gradients", self.rows_in_files, sum(self.rows.values()))


def ledger(root: Path) -> Ledger:
    """The ledger of a store; an empty one where there is none yet."""
    if not root.exists():
        return Ledger({}, {}, 0, 0, 0)
    with Store(root, create=False) as store:
        catalog = store.catalog
        planned = catalog.rows("SELECT space_id, sum(examples) AS n FROM unit GROUP BY space_id")
        rows = catalog.rows("SELECT space_id, count(*) AS n FROM feature_row WHERE status = 'ok' GROUP BY space_id")
        units = catalog.rows("SELECT count(*) AS n FROM unit")[0]["n"]
        files = catalog.rows("SELECT count(*) AS n, sum(rows) AS rows FROM shard WHERE kind = 'features'")[0]
    return Ledger(
        {row["space_id"]: row["n"] for row in planned},
        {row["space_id"]: row["n"] for row in rows},
        units,
        files["n"],
        files["rows"] or 0,
    )


def texts_of_pool(root: Path, dataset_id: int) -> frozenset[Pair]:
    """The chats of one version of the pool, read from the store's files."""
    with Store(root, create=False) as store:
        members = store.catalog.rows("SELECT example_id FROM dataset_member WHERE dataset_id = ?", (dataset_id,))
        chats = examples.get_messages(store, [row["example_id"] for row in members])
    return frozenset((str(turns[0]["content"]), str(turns[1]["content"])) for turns in chats.values())


def exported(folder: Path) -> dict[Pair, Mapping[str, Any]]:
    """{chat: its row} of an export, as a trainer reads it."""
    rows = [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {(row["messages"][0]["content"], row["messages"][1]["content"]): row for row in rows}


def holding(root: Path, text: str) -> list[str]:
    """Files below a folder that hold a text, in their bytes or in what Parquet and Arrow unpack to."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return [str(path.relative_to(root)) for path in files if any(text.encode() in part for part in _contents(path))]


def _contents(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path).to_pydict()).encode()
    elif path.suffix == ".arrow":
        with pa.ipc.open_file(path) as opened:
            yield repr(opened.read_all().to_pydict()).encode()
