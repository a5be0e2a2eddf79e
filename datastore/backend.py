"""Where the files of a store are: what a back-end must do, and the values that it takes and gives.

`datastore/local.py` is the one for a folder, `datastore/objects.py` the one for a bucket; `datastore/testing.py` is the
suite that any other must pass. A back-end
knows files and digests, never what they mean: the catalog says which of them exist, and `Store` asks for both.

A name is `kind/file`. Files are written once and never changed. A name that leads out of the back-end (`..`, a link)
may come from a forged catalog: it is never read and never deleted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

Fill = Callable[[BinaryIO], None]
ADVICE = "Run `gradsift verify --repair` to make it again."


@dataclass(frozen=True)
class StoredFile:
    """A durable file: its name below the root, its size and the sha256 of its bytes."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Listed:
    """A file that is there, whether or not the catalog knows it. `finished` is False for one still being written, or
    left behind by a writer that died."""

    name: str
    bytes: int
    age: float  # seconds since it was last written to
    finished: bool


class Backend(ABC):
    """A place for immutable files. Safe to share between threads and across a fork."""

    @abstractmethod
    def write(self, kind: str, suffix: str, fill: Fill) -> StoredFile:
        """Write a new file `kind/<random hex><suffix>` durably: whole or not at all, under a name nobody else gets.

        `fill` writes the content to a binary handle, in order. After any error nothing is left. Raises StoreFullError
        when there is no space (also when `fill` raises OSError with ENOSPC, EDQUOT or EFBIG).
        """

    @abstractmethod
    def there(self, file: StoredFile) -> bool:
        """Whether a file is there with its size; its bytes are not read."""

    @abstractmethod
    def check(self, file: StoredFile) -> None:
        """Read a file where it is kept, not a copy of it, and compare it with its record. Raises CorruptionError,
        naming the file, when it is missing, cut, changed, or not inside the back-end."""

    def ready(self, file: StoredFile) -> None:
        """What comes before a file is opened: `check`, or a checked copy on this host. Where `is_ready`, nothing."""
        self.check(file)

    def is_ready(self, file: StoredFile) -> bool:  # noqa: ARG002 - a back-end that can tell looks at it
        """Whether this process has made it ready and nobody has changed it since, by what its file system says of it
        (which file it is, its size, when it was written to). Costs no reading."""
        return False

    @abstractmethod
    def open(self, file: StoredFile) -> "pa.NativeFile":
        """A file for reading, with seek; `ready` is what looks at digests.

        Raises CorruptionError when it is missing or not inside the back-end.
        """

    @abstractmethod
    def map(self, file: StoredFile) -> "pa.NativeFile":
        """Like `open`, as memory that readers need not copy: a memory map where there is one, else a buffer."""

    def damaged(self, file: StoredFile) -> "pa.NativeFile":
        """Like `open`, of a file that `check` found changed: its bytes as they are, for whoever looks what is left."""
        return self.open(file)

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file. One that is not there, and a name that leads out of the back-end, are left alone."""

    @abstractmethod
    def list(self, kind: str) -> Iterator[Listed]:
        """Files of a kind, by name, finished or not."""

    @abstractmethod
    def keep(self, known: Callable[[], Collection[str]]) -> None:
        """Delete copies on this host of all files but those with these digests. A back-end without copies does not ask
        for them."""
