"""Which tokens of a chat stay where it has more than `max_length` (L).

`keep_first`: its first L tokens, as TRL and LESS do. Where a long context stands before the answer, the answer goes.

`keep_answer`: the last answer, which is the last run of label tokens, is kept whole if it fits, and what stands before
it loses its middle. In words, for a chat whose last answer ends after L tokens:

- what follows the last answer goes first: nothing of it is predicted;
- the answer keeps at most L − P tokens, from its start: whole, if it is no longer than that. P is what is left of the
  prompt at least, an eighth of L (2 tokens at least, or all of the prompt if it is shorter);
- the prompt (everything before that answer: system text, questions and earlier answers alike) gets the rest. Where it
  is longer, half of that are its first tokens and half its last (the odd one among the last): the start holds the BOS
  token and the instructions, the end the question and the opening of the answer's turn;
- labels stay on the label tokens that are kept, those of earlier answers as well.

A chat whose last answer ends within L tokens is cut as by `keep_first`, one of at most L tokens is not cut at all.
"""

from collections.abc import Sequence
from typing import Literal

Truncation = Literal["keep_first", "keep_answer"]
PROMPT_SHARE = 8  # the prompt keeps at least one token in so many


def stored_name(truncation: Truncation) -> str:
    """How fingerprints name it."""
    return truncation.replace("_", "-")


def kept(labelled: Sequence[bool], max_length: int, truncation: Truncation) -> list[int]:
    """Positions of the tokens that stay, ascending: at most `max_length` of them, all where there are no more."""
    if truncation == "keep_first" or len(labelled) <= max_length:
        return list(range(min(len(labelled), max_length)))
    start, end = last_answer(labelled)
    if end <= max_length:
        return list(range(max_length))
    least = min(start, max(2, max_length // PROMPT_SHARE))
    answer = min(end - start, max_length - least)
    prompt = min(start, max_length - answer)
    tail = prompt - prompt // 2
    return [*range(prompt // 2), *range(start - tail, start + answer)]


def last_answer(labelled: Sequence[bool]) -> tuple[int, int]:
    """[start, end) of the last run of label tokens; (0, 0) where there is none."""
    end = len(labelled)
    while end and not labelled[end - 1]:
        end -= 1
    start = end
    while start and labelled[start - 1]:
        start -= 1
    return start, end
