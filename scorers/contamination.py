"""Which training texts contain a test item: overlap of word n-grams.

    coverage(item, text) = words of the item that lie in an n-gram which the text has too / W,   W words of the item

An item is what a user asks in a test. A coverage of 0.5 with `n = 8` is the rule of Tülu 3 (arXiv 2411.15124, §3.2);
any n-gram at all with `n = 13` is that of GPT-3 (arXiv 2005.14165, App. C). GPT-3's is also the rule that n-grams in
more than ten texts or items are boilerplate (instructions, few-shot frames): their words leave both sides of the
share. Items of fewer than n words are not indexed: near-duplicate search is for those.
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
    of_items = [grams(items[v], n) for v in long]
    flat = np.concatenate(of_items) if of_items else np.zeros(0, np.uint64)
    item = np.repeat(np.array(long, np.int64), [len(g) for g in of_items])
    place = np.concatenate([np.arange(len(g)) for g in of_items]) if of_items else np.zeros(0, np.int64)
    order = np.argsort(flat, kind="stable")
    keys, first = np.unique(flat[order], return_index=True)
    return Index(
        n, np.array([len(h) for h in items], np.int64), keys, np.append(first, len(flat)), item[order], place[order]
    )


def hits(known: Index, text: U64) -> I64:
    """Which of the [U] n-grams a text, given as word hashes, has. O(words · log U)."""
    if len(text) < known.n or not len(known.keys):
        return np.zeros(0, np.int64)
    its_grams = np.unique(grams(text, known.n))
    at = np.minimum(np.searchsorted(known.keys, its_grams), len(known.keys) - 1)
    return np.asarray(at[known.keys[at] == its_grams], np.int64)


def rare(known: Index, texts_with: I64, common: int = 10) -> NDArray[np.bool_]:
    """[U] whether an n-gram stands in at most `common` items and in at most `common` of the texts ([U] counts)."""
    pairs = np.unique(np.stack([np.repeat(np.arange(len(known.keys)), np.diff(known.start)), known.item]), axis=1)
    items_with = np.bincount(pairs[0], minlength=len(known.keys))
    return np.asarray((items_with <= common) & (texts_with <= common))


def most_covered(known: Index, text_hits: Sequence[I64], counts: NDArray[np.bool_]) -> tuple[I64, NDArray[np.float64]]:
    """([N] item that each text covers most, −1 for none; [N] share of its words covered), from the texts' `hits`.

    Only n-grams that `counts` ([U]) count; words in the others leave both sides of the share.
    """
    every = np.repeat(counts, np.diff(known.start))
    boilerplate = {v: _marked(known, v, at) for v, at in _by_item(known.item[~every], known.place[~every])}
    item, share = np.full(len(text_hits), -1, np.int64), np.zeros(len(text_hits))
    for k, all_hits in enumerate(text_hits):
        counted = all_hits[counts[all_hits]]
        if len(counted):
            rows = np.concatenate([np.arange(known.start[u], known.start[u + 1]) for u in counted])
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
