"""Words of a text and hashes of their n-grams, by which near-duplicates and leaks are recognised.

Words are runs of letters, digits and underscores in lower case (Unicode NFKC); a Chinese, Japanese or Korean character
is a word of its own, as those scripts have no spaces. Hashes are the same on every machine and in every version of
Python.
"""

import re
import unicodedata
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
_WORD_OR_SIGN = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+|[^\\w\\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it is invertible


def words(text: str, signs: bool = False) -> list[str]:
    """Words of a text in order, with `signs` also each sign (3 + 4 is not 3 − 4); a text without any is one word."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return (_WORD_OR_SIGN if signs else _WORD).findall(plain) or [plain.strip()]


def word_hashes(text: str, signs: bool = False) -> U64:
    """[W] hashes of the words: CRC-32, then mixed to 64 bits."""
    return mix(np.array(list(map(_crc, words(text, signs))), np.uint64) + np.uint64(1))


@lru_cache(maxsize=1 << 18)
def _crc(word: str) -> int:
    """CRC-32 of a word; most words of a text have been seen before."""
    return zlib.crc32(word.encode("utf-8"))


def grams(hashes: U64, n: int) -> U64:
    """[W−n+1] hashes of the n-grams, in order; of a text with fewer than n words one hash, of all of them."""
    n = min(n, len(hashes))
    total = np.zeros(len(hashes) - n + 1, np.uint64)
    for k in range(n):
        total = total * _FACTOR + hashes[k : k + len(total)]
    return mix(total + np.uint64(n))


def mix(values: U64) -> U64:
    """The finaliser of SplitMix64: every bit of the input reaches every bit of the output."""
    x = values ^ (values >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)
