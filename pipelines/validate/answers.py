"""Generated answers of test rows, checked against their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradsift.datastore.chats import Messages
from gradsift.pipelines.model.generate import greedy
from gradsift.scorers.checkers import CHECKERS


@dataclass(frozen=True)
class Answers:
    """[I] score of each test row, from 0 to 1, and [I] generated tokens."""

    scores: list[float]
    lengths: list[int]


def answer(
    model: Any, tokenizer: Any, chats: Sequence[Messages], metric: str, max_new_tokens: int, max_length: int
) -> Answers:
    """Generate the last turn of each chat and check it."""
    check = CHECKERS[metric]
    generated = greedy(model, tokenizer, [chat[:-1] for chat in chats], max_new_tokens, max_length)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in generated]
    scores = [check(text, chat[-1]["content"]) for text, chat in zip(texts, chats, strict=True)]
    return Answers(scores, [len(tokens) for tokens in generated])
