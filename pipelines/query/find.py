"""Rows by their words: every word or "phrase in quotes" stands somewhere in the chat, in letters of either case.

A pass over the texts, with no index that would have to forget. It is bounded: a page ends with so many rows, or when
its time is over, and says where the next one goes on.
"""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import chats, examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store

MOST_CHARS = 200  # of what is looked for
SECONDS = 1.5  # that a page takes, unless it is full before
AROUND = 90  # characters before and after a hit
TERM = re.compile(r'"([^"]+)"|(\S+)')


@dataclass(frozen=True)
class Seen:
    """A row that has the words: what stands before the first of them, the word as it stands there, and what follows."""

    example_id: str
    source: str
    before: str
    word: str
    after: str


@dataclass(frozen=True)
class Page:
    """Rows by shard and row; `next` is where to go on, '' at the end; `looked_at`: rows that this page went through."""

    rows: list[Seen]
    next: str
    looked_at: int


def terms(words: str) -> list[str]:
    """What must stand in a row. Raises InputError for nothing and for too much."""
    found = [phrase or word for phrase, word in TERM.findall(words[: MOST_CHARS + 1])]
    if not found or len(words) > MOST_CHARS:
        raise InputError(f"give words to look for, {MOST_CHARS} characters at most")
    return found


def find(
    store: Store,
    words: str,
    *,
    start: str = "",
    most: int = 25,
    ids: Collection[str] | None = None,
    seconds: float = SECONDS,
) -> Page:
    """The next rows (among `ids`, if given) that have all the words, from a place that a page before named.

    Cost: some 100 MB of text a second; memory is a row group. Raises InputError for words or a place that make no
    sense, CorruptionError for a damaged shard.
    """
    wanted, (shard_id, row) = terms(words), _place(start)
    only = None if ids is None else pa.array(sorted(ids), pa.string())
    found: list[Seen] = []
    end, looked_at = time.monotonic() + seconds, 0
    for shard, first, table in examples.scan(store, shard_id, row):
        skip = max(0, row - first) if shard == shard_id else 0
        if looked_at and time.monotonic() > end:
            return Page(found, f"{shard}.{first + skip}", looked_at)
        hits = np.flatnonzero(_holds(table, wanted))
        hits = hits[hits >= skip]
        if only is not None and len(hits):
            hits = hits[pc.is_in(table["example_id"].take(pa.array(hits)), only).to_numpy(zero_copy_only=False)]
        room = most - len(found)
        found += _seen(store, table.take(pa.array(hits[:room])), wanted[0])
        if len(hits) > room:
            return Page(found, f"{shard}.{first + int(hits[room])}", looked_at + int(hits[room]) - skip)
        looked_at += table.num_rows - skip
    return Page(found, "", looked_at)


def holding(store: Store, words: str) -> list[str]:
    """Ids of all examples that have all the words. One pass over all texts."""
    wanted = terms(words)
    found: list[str] = []
    for _, _, table in examples.scan(store):
        found += table["example_id"].take(pa.array(np.flatnonzero(_holds(table, wanted)))).to_pylist()
    return found


def _place(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    if not re.fullmatch(r"\d{1,15}\.\d{1,15}", text):
        raise InputError(f"{text!r} is no place that a search named")
    shard, row = text.split(".")
    return int(shard), int(row)


def _holds(table: pa.Table, wanted: list[str]) -> NDArray[np.bool_]:
    """[N] whether a row has all of the terms, each in any of its turns or in what a turn holds beside its text."""
    turns = table["messages"].combine_chunks()
    of = pc.list_parent_indices(turns).to_numpy()
    said = pc.struct_field(turns.flatten(), "content")
    more = table["more"].combine_chunks() if "more" in table.column_names else None
    held = np.ones(table.num_rows, bool)
    for term in wanted:
        has = np.zeros(table.num_rows, bool)
        has[of[_matches(said, term)]] = True
        if more is not None:
            has |= _matches(more, term)
        held &= has
    return held


def _matches(texts: pa.Array, term: str) -> NDArray[np.bool_]:
    found = pc.match_substring(texts, term, ignore_case=True)
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), bool)


def _seen(store: Store, table: pa.Table, term: str) -> list[Seen]:
    """The rows as they are shown, without those that left the catalog."""
    ids = table["example_id"].to_pylist()
    known = examples.sources_of(store, ids)
    return [
        Seen(name, known[name].source, *_around(chats.text(chat), term))
        for name, chat in zip(ids, chats.of_table(table), strict=True)
        if name in known
    ]


def _around(text: str, term: str) -> tuple[str, str, str]:
    """What stands around the first hit; the start of a text whose hit is in what a turn holds beside its text."""
    hit = re.search(re.escape(term), text, re.IGNORECASE)
    if hit is None:
        return text[: 2 * AROUND], "", ""
    return text[max(0, hit.start() - AROUND) : hit.start()], hit[0], text[hit.end() : hit.end() + AROUND]
