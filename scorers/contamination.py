"""Which training texts contain a test item: overlap of word n-grams.

An item (what a user asks in a test, of W words) is covered by a text to the share of its words that lie in n-grams
which the text has too. `n = 8` and a share of 0.5 is the rule of Tülu 3 (arXiv 2411.15124, §3.2); `n = 13` and any
n-gram that of GPT-3 (arXiv 2005.14165, App. C), from which the third number is, too: n-grams that more than ten texts
or items have are boilerplate (instructions, few-shot frames), and their words leave both sides of the share. Items of
fewer than n words are not indexed: near-duplicate search is for those.
Legend: V items, U distinct n-grams, P places where they stand in items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.ngrams import U64, grams

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """[U] sorted n-grams; those of key u stand at `start[u]` to `start[u + 1]` of [P] items and places."""

    n: int
    words: I64  # [V] of each item
    keys: U64
    start: I64
    item: I64
    place: I64


def index(items: Sequence[U64], n: int = 8) -> Index:
    """Index [V] items, given as word hashes. O(words · log words)."""
    long = [v for v, hashes in enumerate(items) if len(hashes) >= n]
    found = [grams(items[v], n) for v in long]
    flat = np.concatenate(found) if found else np.zeros(0, np.uint64)
    item = np.repeat(np.array(long, np.int64), [len(g) for g in found])
    place = np.concatenate([np.arange(len(g)) for g in found]) if found else np.zeros(0, np.int64)
    order = np.argsort(flat, kind="stable")
    keys, first = np.unique(flat[order], return_index=True)
    return Index(
        n, np.array([len(h) for h in items], np.int64), keys, np.append(first, len(flat)), item[order], place[order]
    )


def hits(known: Index, text: U64) -> I64:
    """Which of the [U] n-grams a text, given as word hashes, has. O(words · log U)."""
    if len(text) < known.n or not len(known.keys):
        return np.zeros(0, np.int64)
    own = np.unique(grams(text, known.n))
    at = np.minimum(np.searchsorted(known.keys, own), len(known.keys) - 1)
    return np.asarray(at[known.keys[at] == own], np.int64)


def rare(known: Index, texts_with: I64, common: int = 10) -> NDArray[np.bool_]:
    """[U] whether an n-gram stands in at most `common` items and in at most `common` of the texts ([U] counts)."""
    pairs = np.unique(np.stack([np.repeat(np.arange(len(known.keys)), np.diff(known.start)), known.item]), axis=1)
    items_with = np.bincount(pairs[0], minlength=len(known.keys))
    return np.asarray((items_with <= common) & (texts_with <= common))


def most_covered(known: Index, found: Sequence[I64], counts: NDArray[np.bool_]) -> tuple[I64, NDArray[np.float64]]:
    """([N] item that each text covers most, −1 for none; [N] share of its counted words), from the texts' hits."""
    every = np.repeat(counts, np.diff(known.start))
    boilerplate = {v: _marked(known, v, at) for v, at in _by_item(known.item[~every], known.place[~every])}
    item, share = np.full(len(found), -1, np.int64), np.zeros(len(found))
    for k, own in enumerate(found):
        own = own[counts[own]]
        if len(own):
            rows = np.concatenate([np.arange(known.start[u], known.start[u + 1]) for u in own])
            shares = {}
            for v, at in _by_item(known.item[rows], known.place[rows]):
                free = ~boilerplate.get(v, np.zeros(known.words[v], bool))
                shares[v] = float((_marked(known, v, at) & free).sum() / max(1, free.sum()))
            item[k] = min(shares, key=lambda v: (-shares[v], v))
            share[k] = shares[int(item[k])]
    return item, share


def _by_item(item: I64, place: I64) -> list[tuple[int, I64]]:
    """(item, its places, ascending) for each item."""
    order = np.lexsort((place, item))
    names, first = np.unique(item[order], return_index=True)
    return list(zip(names.tolist(), np.split(place[order], first[1:]), strict=True)) if len(names) else []


def _marked(known: Index, v: int, places: I64) -> NDArray[np.bool_]:
    """[W] words of an item that lie in the n-grams at the places."""
    marked = np.zeros(known.words[v], bool)
    marked[np.unique(places[:, None] + np.arange(known.n))] = True
    return marked
