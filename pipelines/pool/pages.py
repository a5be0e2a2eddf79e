"""Footers and page headers of Parquet files: how much text a column may be of that has a few texts once and names them
often.

The footer does not say how many of a column's values are names of dictionary entries, and a forged one would lie. What
Arrow reads are the pages, so their headers are looked at: a few bytes in Thrift's compact protocol before each page.
The footer is read here, too, because pyarrow ends the process (abort) where it is asked for a column chunk whose
statistics do not agree with its type.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import SEEK_END
from typing import IO, Any

import pyarrow as pa

from gradsift.pipelines.pool import thrift

NAMES = (2, 8)  # PLAIN_DICTIONARY, RLE_DICTIONARY
DICTIONARY_PAGE = 2
CODECS = ("snappy", "zstd", "gzip", "brotli", "lz4_raw", "lz4")
HEADER_BYTES = 1 << 12
MAX_HEADER_BYTES = 1 << 24  # statistics may hold texts
TAIL = 8  # bytes at the end of a file: how long the footer is, and PAR1
DAMAGED = (ArithmeticError, LookupError, OSError, TypeError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class Chunk:
    """A column chunk as the footer has it: how many values, bytes of its pages unpacked and packed, and where the first
    of them is."""

    num_values: int
    unpacked: int
    packed: int
    first: int


def chunks(handle: IO[bytes]) -> list[list[Chunk]]:
    """The column chunks of each row group. Raises ArrowInvalid for a footer that cannot be understood.

    Cost: the footer, about 0.02 ms for each chunk.
    """
    try:
        size = handle.seek(-TAIL, SEEK_END)
        length = int.from_bytes(handle.read(4), "little")
        if length > size:
            raise ValueError("a footer of more than its file")
        handle.seek(size - length)
        footer, _ = thrift.struct(handle.read(length), 0)
        return [[_chunk(column[3]) for column in group[1]] for group in footer[4]]
    except DAMAGED as error:
        raise pa.ArrowInvalid(f"its footer cannot be understood ({error})") from error


def _chunk(fields: dict[int, Any]) -> Chunk:
    pages, dictionary = fields[9], fields.get(11)
    first = dictionary if dictionary and dictionary < pages else pages
    if min(fields[5], fields[6], fields[7], first) < 0:
        raise ValueError("a size below 0")
    return Chunk(fields[5], fields[6], fields[7], first)


def most_named(handle: IO[bytes], chunk: Chunk) -> tuple[int, int]:
    """(values, bytes) of a column chunk of texts: how many name an entry of its dictionary, and the most that an entry
    has. Of pages that cannot be understood all values may, and an entry has what its page may have.

    Cost: a read of some KiB for each page, and the dictionary.
    """
    first, named, longest = chunk.first, 0, 0
    end = min(first + chunk.packed, handle.seek(0, SEEK_END))
    try:
        while first < end:
            header, start = _header(handle, first)
            if min(header[2], header[3]) < 0 or header[2] > chunk.unpacked or start + header[3] > end:
                raise ValueError("a page that is more than its column")
            if header[1] == DICTIONARY_PAGE:
                longest = max(longest, _longest(handle, start, header))
            for place, encoding in ((5, 2), (8, 4)):  # of data pages of either version
                if place in header and header[place][encoding] in NAMES:
                    named += max(0, header[place][1])
            first = start + header[3]
    except DAMAGED:
        return chunk.num_values, max(longest, chunk.unpacked)
    return named, longest


def _header(handle: IO[bytes], first: int) -> tuple[dict[int, Any], int]:
    """A page's header by the numbers of its fields, and where the page's content begins."""
    size = HEADER_BYTES
    while True:
        handle.seek(first)
        content = handle.read(size)
        try:
            header, end = thrift.struct(content, 0)
            return header, first + end
        except IndexError:
            if len(content) < size or size >= MAX_HEADER_BYTES:
                raise
            size *= 16


def _longest(handle: IO[bytes], start: int, header: dict[int, Any]) -> int:
    """Bytes of the longest entry of a dictionary page, or of the page where it is packed as only Arrow knows."""
    handle.seek(start)
    found = [_longest_of(content, header[7][1]) for content in _unpacked(handle.read(header[3]), header[2])]
    return max(found, default=max(int(header[2]), int(header[3])))


def _unpacked(packed: bytes, size: int) -> Iterator[bytes]:
    """What a page may hold, by every codec that has an answer: pyarrow ends the process (abort) where it is asked for
    the name of one that a forged footer made up."""
    if len(packed) >= size:  # as it is, or made no smaller
        yield packed
    for codec in CODECS:
        with suppress(*DAMAGED):
            yield pa.decompress(packed, size, codec, asbytes=True)


def _longest_of(content: bytes, entries: int) -> int:
    longest = place = 0
    for _ in range(entries):
        size = int.from_bytes(content[place : place + 4], "little")
        longest, place = max(longest, size), place + 4 + size
        if place >= len(content):
            break
    return min(longest, len(content))
