"""Scores from words alone: BM25 and DSIR. Text in, numbers out.

    BM25(x, q) = Σ_{w∈q} log(1 + (N − n_w + ½)/(n_w + ½)) · f_w / (f_w + k1·(1 − b + b·|x|/mean|x|))
    DSIR(x)    = Σ_{g∈x} log p̂_target(h(g)) − log q̂_pool(h(g))

with f_w the count of w in x and n_w the number of pool texts that have it; g a word or a pair of neighbours, h a hash.

BM25 (Robertson; `bm25s`, the extra `text`): k1 = 1.5, b = 0.75, Lucene's idf. The queries are the target's texts.
`idf` and `saturated` are its two factors, for an index that is kept (`pipelines/query/words.py`).

DSIR (Xie et al., NeurIPS 2023, arXiv 2302.03169; `data-selection` 1.0.3): words and pairs of neighbouring words,
hashed to 10,000 buckets; selection by Gumbel top-k (here: `softmax` with temperature 1). Ours hashes with BLAKE2b, so
buckets differ from the release's; the counts are smoothed by one for each 1e-8·total as there. Cost O(words).
Legend: N pool texts, V target texts, B buckets.
"""

import logging
import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import MissingPackage, Unsuitable

F64 = NDArray[np.float64]
WORDS = re.compile(r"\w+|[^\w\s]+")
K1, B = 1.5, 0.75


def words_of(text: str) -> list[str]:
    """The words of a text in order, in small letters; what stands between words counts as one, too."""
    if text.isascii():  # the same, in fewer steps: other small letters may be of two characters
        return WORDS.findall(text.lower())
    return [word.lower() for word in WORDS.findall(text)]


def idf(rows: int, rows_with: NDArray[np.integer]) -> F64:
    """[V] weight of words that so many of the pool's texts have."""
    return np.log1p((rows - rows_with + 0.5) / (rows_with + 0.5))


def saturated(counts: NDArray[np.integer], words: NDArray[np.integer] | float, mean: float) -> F64:
    """What counts of words come to in texts of so many words, where a text has `mean` words: below 1 each."""
    return np.asarray(counts / (counts + K1 * (1 - B + B * np.asarray(words) / mean)), np.float64)


def bm25(pool: Sequence[str], queries: Sequence[str]) -> NDArray[np.float32]:
    """[N, V] BM25 of each pool text for each query.

    Raises MissingPackage naming the extra without `bm25s`, and Unsuitable for a pool without a word.
    """
    try:
        import bm25s
    except ImportError:
        raise MissingPackage("BM25 needs bm25s: pip install 'gradsift[text]'") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG, which shows wherever logging is set up
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    words = [words_of(text) for text in pool]
    if not any(words):
        raise Unsuitable("BM25 needs a pool with words; none of its texts has one")
    index.index(words, show_progress=False)
    known = set(index.vocab_dict)
    out = np.zeros((len(pool), len(queries)), np.float32)
    for j, text in enumerate(queries):
        asked = [word for word in words_of(text) if word in known]
        if asked:
            out[:, j] = index.get_scores(asked)
    return out


def ngram_counts(text: str, buckets: int = 10_000) -> NDArray[np.int64]:
    """[B] counts of a text's words and word pairs."""
    words = words_of(text)
    grams = words + [f"{a} {b}" for a, b in pairwise(words)]
    places = [int.from_bytes(blake2b(g.encode(), digest_size=8).digest(), "little") % buckets for g in grams]
    return np.bincount(places, minlength=buckets).astype(np.int64)


def dsir(pool: Sequence[str], target: Sequence[str], buckets: int = 10_000) -> F64:
    """[N] log importance of each pool text. Raises Unsuitable without a bucket."""
    if buckets < 1:
        raise Unsuitable(f"DSIR needs one bucket or more, not {buckets}")
    log_ratio = _log_share(target, buckets) - _log_share(pool, buckets)
    return np.array([float(ngram_counts(text, buckets) @ log_ratio) for text in pool])


def _log_share(texts: Sequence[str], buckets: int) -> F64:
    counts = np.zeros(buckets)
    for text in texts:
        counts += ngram_counts(text, buckets)
    share = counts / max(counts.sum(), 1.0) + 1e-8
    return np.asarray(np.log(share / share.sum()))
