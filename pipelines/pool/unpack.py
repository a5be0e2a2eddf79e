"""Packed files, unpacked as a stream within bounds: what is held is a buffer, whatever the file unpacks to, and a file
that unpacks to far more than it is, a bomb, is refused.

`unpack_limit` of a source is the most that a file may unpack to, in times its size; `FREE_BYTES` are always allowed.
"""

import gzip
import io
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gradsift.datastore.errors import InputError

PACKED = (".gz", ".zst")
FREE_BYTES = 64 << 20
UNPACK_LIMIT = 1000  # text packs ten times; short rows that all begin with the same 10 KB, a few hundred times
BUFFER_BYTES = 1 << 18


class Bounds:
    """What a file may unpack to. `add` raises InputError where it is more."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit, self._packed = path, limit, path.stat().st_size
        self._most = max(FREE_BYTES, limit * self._packed)
        self._seen = 0

    def add(self, size: int) -> None:
        """Count bytes that were unpacked."""
        self._seen += size
        if self._seen > self._most:
            raise InputError(
                f"{self._path} of {self._packed:,} bytes unpacks to {self._seen:,} and more, "
                f"{self._seen // max(1, self._packed):,} times its size: it was not read to its end. If it is what it "
                f"should be, raise `unpack_limit` of its source (now {self._limit})"
            )


def open_file(path: Path, limit: int = UNPACK_LIMIT) -> IO[bytes]:
    """A file for reading, unpacked on the way. A read raises InputError where it unpacks to more than it may, OSError,
    EOFError or zlib.error where it is damaged or cut."""
    if path.suffix not in PACKED:
        return path.open("rb")
    raw = gzip.GzipFile(path) if path.suffix == ".gz" else pa.CompressedInputStream(path, "zstd")
    return io.BufferedReader(_Counted(raw, Bounds(path, limit)), BUFFER_BYTES)


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted."""

    def __init__(self, raw: Any, bounds: Bounds) -> None:
        self._raw, self._bounds = raw, bounds

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        size = int(self._raw.readinto(target))
        self._bounds.add(size)
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
