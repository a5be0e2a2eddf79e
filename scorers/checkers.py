"""Is a generated answer right? Checkers compare it with the reference answer and give 0 to 1.

`exact`: equal after case, white space and final stops are normalised. `number`: the last number of each is the same
(GSM8K's way). `choice`: the first option letter is the same, as `(B)`, `B.` or `B`. `f1`: harmonic mean of word
precision and recall, articles and punctuation left out (SQuAD).
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
    return float(_normalised(answer) == _normalised(reference))


def _normalised(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(". ")


def number(answer: str, reference: str) -> float:
    """1 where the last numbers are equal; 0 where either has none."""
    given, wanted = last_number(answer), last_number(reference)
    return float(given is not None and given == wanted)


def last_number(text: str) -> float | None:
    """The last number of a text, thousands separators dropped."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def choice(answer: str, reference: str) -> float:
    """1 where the first option letters are equal; 0 where either has none."""
    given, wanted = (_CHOICE.search(text.strip()) for text in (answer, reference))
    return float(given is not None and wanted is not None and given[1].lower() == wanted[1].lower())


def f1(answer: str, reference: str) -> float:
    """Word F1; 1 where both are empty."""
    given, wanted = _words(answer), _words(reference)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


CHECKERS: dict[str, Callable[[str, str], float]] = {"exact": exact, "number": number, "choice": choice, "f1": f1}
