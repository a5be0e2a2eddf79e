"""Is a generated answer right? Checkers against the reference answer, each from 0 to 1.

`exact`: equal after case, white space and final stops are normalised. `number`: the last number of both (GSM8K's way).
`choice`: the first option letter, as `(B)`, `B.` or `B`. `f1`: harmonic mean of word precision and recall, articles and
punctuation left out (SQuAD).
"""

import re
import string
from collections import Counter
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_CHOICE = re.compile(r"(?:^|[\s(])\(?([A-Za-z])\)?(?=[\s).:,]|$)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact(answer: str, reference: str) -> float:
    """1 where the normalised texts are equal."""
    return float(_plain(answer) == _plain(reference))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(". ")


def number(answer: str, reference: str) -> float:
    """1 where the last numbers are equal; 0 where either has none."""
    one, other = last_number(answer), last_number(reference)
    return float(one is not None and one == other)


def last_number(text: str) -> float | None:
    """The last number of a text, thousands separators dropped."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def choice(answer: str, reference: str) -> float:
    """1 where the first option letters are equal; 0 where either has none."""
    one, other = (_CHOICE.search(text.strip()) for text in (answer, reference))
    return float(one is not None and other is not None and one[1].lower() == other[1].lower())


def f1(answer: str, reference: str) -> float:
    """Word F1; 1 where both are empty."""
    one, other = _words(answer), _words(reference)
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


CHECKERS: dict[str, Callable[[str, str], float]] = {"exact": exact, "number": number, "choice": choice, "f1": f1}
