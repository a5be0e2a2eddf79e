"""Rows of numbers from words alone: hashed words and pairs of words, weighted by how rare they are.

    x_d = Σ_{g: h(g) mod D = d} ±_g · log(1 + f_g) · log((M + 1) / (m_g + ½)),    then unit length

with f_g how often a word or pair g stands in the text, and m_g in how many of M texts it does. The sign and the place
are bits of one hash, so that texts are compared without a vocabulary: inner products are those of all words but for
chance collisions. No model is asked; the same text gives the same row on every machine. Cost O(words).
Legend: D dims, M texts that are counted, B buckets of counts.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.ngrams import grams, mix, word_hashes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
BUCKETS = 1 << 18


def rarity(texts: Iterable[str]) -> F64:
    """[B] weights of words and pairs, by the buckets that their hashes fall into, from some texts."""
    having, count = np.zeros(BUCKETS), 0
    for count, text in enumerate(texts, 1):  # noqa: B007 - the last number is how many there are
        having[np.unique(_bucket(_grams(text)))] += 1
    return np.asarray(np.log((count + 1) / (having + 0.5)), np.float64)


def word_row(text: str, weights: F64, dims: int) -> F32:
    """[D] the row of a text under `rarity`; zero for a text whose words all weigh nothing."""
    found, counts = np.unique(_grams(text), return_counts=True)
    bits = mix(found)
    signs = np.where((bits >> np.uint64(40)) & np.uint64(1), 1.0, -1.0)
    values = signs * np.log1p(counts) * np.maximum(weights[_bucket(found)], 0)
    row = np.bincount((bits % np.uint64(dims)).astype(np.int64), values, dims)
    length = np.linalg.norm(row)
    return np.asarray(row / length if length else row, np.float32)


def _grams(text: str) -> NDArray[np.uint64]:
    """Hashes of words and of pairs of neighbours, each as often as it stands there."""
    words = word_hashes(text, signs=True)
    return np.concatenate([words, grams(words, 2)]) if len(words) > 1 else words


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes % np.uint64(BUCKETS)).astype(np.int64)
