"""Page headers of Parquet files: how much text a column may be of that has a few texts once and names them often.

The footer does not say how many of a column's values are names of dictionary entries, and a forged one would lie. What
Arrow reads are the pages, so their headers are looked at: a few bytes in Thrift's compact protocol before each page.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = (2, 8)  # PLAIN_DICTIONARY, RLE_DICTIONARY
DICTIONARY_PAGE = 2
CODECS = ("snappy", "zstd", "gzip", "brotli", "lz4_raw", "lz4")
HEADER_BYTES = 1 << 12
MAX_HEADER_BYTES = 1 << 24  # statistics may hold texts
MAX_DEPTH = 16
DAMAGED = (ArithmeticError, LookupError, OSError, TypeError, ValueError, pa.ArrowException)


def most_named(handle: IO[bytes], chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """(values, bytes) of a column chunk of texts: how many name an entry of its dictionary, and the most that an entry
    has. Of pages that cannot be understood all values may, and an entry has what its page may have.

    Cost: a read of some KiB for each page, and the dictionary.
    """
    first = chunk.data_page_offset
    if chunk.dictionary_page_offset and chunk.dictionary_page_offset < first:
        first = chunk.dictionary_page_offset
    end, named, longest = first + chunk.total_compressed_size, 0, 0
    try:
        while first < end:
            header, start = _header(handle, first)
            if min(header[2], header[3]) < 0 or header[2] > chunk.total_uncompressed_size:
                raise ValueError("a page that is more than its column")
            if header[1] == DICTIONARY_PAGE:
                longest = max(longest, _longest(handle, start, header))
            for place, encoding in ((5, 2), (8, 4)):  # of data pages of either version
                if place in header and header[place][encoding] in NAMES:
                    named += max(0, header[place][1])
            first = start + header[3]
    except DAMAGED:
        return chunk.num_values, max(longest, chunk.total_uncompressed_size)
    return named, longest


def _header(handle: IO[bytes], first: int) -> tuple[dict[int, Any], int]:
    """A page's header by the numbers of its fields, and where the page's content begins."""
    size = HEADER_BYTES
    while True:
        handle.seek(first)
        content = handle.read(size)
        try:
            header, end = _struct(content, 0, MAX_DEPTH)
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


def _number(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _signed(content: bytes, place: int) -> tuple[int, int]:
    value, place = _number(content, place)
    return (value >> 1) ^ -(value & 1), place


def _struct(content: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    if not depth:
        raise ValueError("structs in structs without end")
    fields: dict[int, Any] = {}
    number = 0
    while content[place]:
        step, kind = content[place] >> 4, content[place] & 15
        place += 1
        if step:
            number += step
        else:
            number, place = _signed(content, place)
        fields[number], place = _field(content, place, kind, depth)
    return fields, place + 1


def _field(content: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    """Thrift's kinds that page headers have: booleans, bytes, integers, text, structs."""
    if kind in (1, 2):
        return kind == 1, place
    if kind == 3:
        return content[place], place + 1
    if kind in (4, 5, 6):
        return _signed(content, place)
    if kind == 8:
        size, place = _number(content, place)
        return None, place + size
    if kind == 12:
        return _struct(content, place, depth - 1)
    raise ValueError(f"a field of kind {kind}")
