"""Generated answers of test rows, checked against their own (greedy, batched by length)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradsift.datastore.examples import Messages
from gradsift.pipelines.model.batches import by_length, pad_id
from gradsift.pipelines.model.encode import chat_template
from gradsift.pipelines.model.load import best_device
from gradsift.scorers.checkers import CHECKERS


@dataclass(frozen=True)
class Answers:
    """[I] score of each test row, from 0 to 1, and [I] generated tokens."""

    scores: list[float]
    lengths: list[int]


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    chats: Sequence[Messages],
    metric: str,
    max_new_tokens: int,
    max_length: int,
    batch_tokens: int = 8192,
) -> Answers:
    """Generate the last turn of each chat and check it. Prompts keep their last `max_length` tokens.

    Cost: one forward for each prompt and each new token, in batches.
    """
    template, check = chat_template(tokenizer), CHECKERS[metric]
    prompts = [
        tokenizer.apply_chat_template(
            list(chat[:-1]), chat_template=template, tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"][-max_length:]
        for chat in chats
    ]
    scores, lengths = [0.0] * len(chats), [0] * len(chats)
    device, pad = best_device(), pad_id(tokenizer)
    stop = tokenizer.eos_token_id
    for part in by_length([len(p) + max_new_tokens for p in prompts], batch_tokens):
        width = max(len(prompts[k]) for k in part)
        ids = torch.tensor([[pad] * (width - len(prompts[k])) + list(prompts[k]) for k in part], device=device)
        mask = torch.tensor([[0] * (width - len(prompts[k])) + [1] * len(prompts[k]) for k in part], device=device)
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=stop,
            temperature=None,
            top_p=None,
            top_k=None,
        )[:, width:].tolist()
        for k, tokens in zip(part, found, strict=True):
            kept = tokens[: tokens.index(stop)] if stop in tokens else tokens
            lengths[k] = len(kept)
            scores[k] = check(tokenizer.decode(kept, skip_special_tokens=True), chats[k][-1]["content"])
    return Answers(scores, lengths)
