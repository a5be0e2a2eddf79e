"""Quick digests: what spares a process the sha256 of files that another one on this host found whole before.

The sha256 of a file decides, and takes a second for each GB. Whoever has compared a file with it notes, from the same
bytes, a second digest (XXH3, 128 bits) that is as fast as memory; the next process reads all bytes again and compares
that one. So damage is told as before, by whatever accident it came. XXH3 is no defence against an attacker, nor is a
note that he can write: notes are kept only where who writes files writes the catalog, too, in a store's own folder.
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import xxhash

from gradsift.datastore import inside
from gradsift.datastore.errors import CorruptionError

CHUNK_BYTES = 1 << 20
NOTE = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{32})")
MANY_BYTES = 2_000_000  # of notes, beyond which those of files that are gone are dropped


def both(path: Path) -> tuple[str, str]:
    """(sha256, quick digest) in hex of a file's bytes, of one reading: about 1 GB/s on one core."""
    slow, quick, chunk = sha256(), xxhash.xxh3_128(), bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            part = memoryview(chunk)[:size]
            slow.update(part)
            quick.update(part)
    return slow.hexdigest(), quick.hexdigest()


def quick_digest(path: Path) -> str:
    """The quick digest of a file's bytes, as fast as they are read."""
    quick, chunk = xxhash.xxh3_128(), bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            quick.update(memoryview(chunk)[:size])
    return quick.hexdigest()


class Notes:
    """{sha256: quick digest} of files that were whole, as lines of a file. It may be deleted at any time; a line that
    is cut or lost costs a sha256, and so does a folder that cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] | None = None

    def of(self, digest: str) -> str | None:
        """The quick digest of the file with this sha256, or None."""
        if self._known is None:
            self._known = self._read()
        return self._known.get(digest)

    def note(self, digest: str, quick: str) -> None:
        """Note what a file that has this sha256 is otherwise."""
        if self.of(digest) == quick:
            return
        with suppress(OSError, CorruptionError):
            handle = inside.opened(self.path.parent, self.path.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(handle, f"{digest} {quick}\n".encode())  # at once: other processes append, too
            finally:
                os.close(handle)
        if self._known is not None:
            self._known[digest] = quick

    def are_many(self) -> bool:
        """Whether it is time for `keep`."""
        try:
            return self.path.stat().st_size > MANY_BYTES
        except OSError:
            return False

    def keep(self, wanted: Collection[str]) -> None:
        """Drop the notes of all other files. What another process notes meanwhile is lost, and noted again."""
        self._known = {digest: quick for digest, quick in self._read().items() if digest in wanted}
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            with aside.open("x") as file:
                file.writelines(f"{digest} {quick}\n" for digest, quick in self._known.items())
            aside.replace(self.path)

    def _read(self) -> dict[str, str]:
        try:
            with open(inside.opened(self.path.parent, self.path.name), encoding="ascii", errors="replace") as file:  # noqa: PTH123
                text = file.read()
        except (OSError, CorruptionError):
            return {}
        found = map(NOTE.fullmatch, text.splitlines())
        return {line[1]: line[2] for line in found if line is not None}
