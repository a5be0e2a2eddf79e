"""Greedy answers of a model, batched by length."""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import torch

from gradsift.datastore.chats import Messages
from gradsift.pipelines.model.batches import by_length, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import chat_template
from gradsift.pipelines.model.render import render

BATCH_TOKENS = 8192


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Messages],
    max_new_tokens: int,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
    stops: Collection[int] = (),
) -> list[list[int]]:
    """The next assistant turn of each chat as tokens, up to one of `stops` (none given: the tokenizer's end token).
    Prompts keep their last `max_length` tokens.

    Cost: one forward for each prompt and each new token, in batches.
    """
    template, pad, ends = chat_template(tokenizer), pad_id(tokenizer), list(stops) or [tokenizer.eos_token_id]
    encoded = [
        render(tokenizer, template, chat, tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"][
            -max_length:
        ]
        for chat in prompts
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    for part in by_length([len(p) + max_new_tokens for p in encoded], batch_tokens):
        width = max(len(encoded[k]) for k in part)
        fill = [width - len(encoded[k]) for k in part]
        ids = [[pad] * empty + list(encoded[k]) for k, empty in zip(part, fill, strict=True)]
        mask = [[0] * empty + [1] * len(encoded[k]) for k, empty in zip(part, fill, strict=True)]
        generated = model.generate(
            input_ids=torch.tensor(ids, device=best_device()),
            attention_mask=torch.tensor(mask, device=best_device()),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=ends,
            temperature=None,
            top_p=None,
            top_k=None,
        )[:, width:].tolist()
        for k, tokens in zip(part, generated, strict=True):
            answers[k] = list(takewhile(lambda token: token not in ends, tokens))
    return answers


def stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """All tokens at which the model's authors end a turn: those of its generation settings, and the tokenizer's."""
    given = model.generation_config.eos_token_id
    of_model = given if isinstance(given, list) else [given]
    return {int(token) for token in [*of_model, tokenizer.eos_token_id] if token is not None}
