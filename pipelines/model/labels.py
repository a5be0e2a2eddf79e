"""Whether the rows of targets keep their answers: looked at when they are read, before any model is trained."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.truncate import kept, last_answer
from gradsift.pipelines.recipe import Encoding, Recipe

WARN_SHARE = 0.05  # of rows that lose their labels: more are said
REFUSE_SHARE = 0.5  # more are refused
KEEP_SHARE = 0.95  # of rows, whose answers the advised length keeps whole


def measured_sets(recipe: Recipe) -> list[tuple[str, str]]:
    """(target, `val` or `test`) of the files whose rows go through the model: none where it computes neither rows nor
    losses."""
    wanted = {"val": recipe.runs_model, "test": recipe.validate_ is not None}
    return [
        (name, which)
        for name, target in recipe.targets.items()
        for which in ("val", "test")
        if wanted[which] and getattr(target, which) is not None
    ]


def check_labels(tokenizer: Any, encoding: Encoding, sets: Mapping[str, Iterable[Messages]]) -> list[str]:
    """What there is to say of chats ({where they are from, as a field of the recipe: chats}) that lose all their label
    tokens at the recipe's length: one line for each set that loses more than 5 %.

    Raises InputError for a set of which no chat is usable, or more than half lose their labels, with the length that
    keeps the answers of 95 %. Cost: one render and tokenisation each.
    """
    return [note for where, chats in sets.items() if (note := _said_of(tokenizer, encoding, where, chats))]


def _said_of(tokenizer: Any, encoding: Encoding, where: str, chats: Iterable[Messages]) -> str:
    ends, total, lost = [], 0, 0
    unusable: Counter[str] = Counter()
    for chat in chats:
        total += 1
        whole = encode(tokenizer, chat, sys.maxsize)
        if not whole.usable:
            unusable[whole.status] += 1
            continue
        ends.append(last_answer(whole.labelled)[1])
        if len(whole.labelled) > encoding.max_length:
            places = kept(whole.labelled, encoding.max_length, encoding.truncation)
            lost += not any(whole.labelled[t] for t in places[1:])
    if total and not ends:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(unusable.items()))
        raise InputError(
            f"{where}: none of {total:,} rows has a label token at any length ({counts}): check that its chats end in "
            "an assistant turn, and look at the chat template in the model's folder"
        )
    if lost <= WARN_SHARE * total:
        return ""
    need = sorted(ends)[ceil(KEEP_SHARE * len(ends)) - 1]
    said = (
        f"{where}: {lost:,} of {total:,} rows lose their answer at encoding.max_length {encoding.max_length}: what "
        f"stands before it is longer. A max_length of {need:,} keeps the answers of 95 % whole; `encoding.truncation: "
        "keep_answer` keeps answers at any length, and cuts the middle of what stands before them"
    )
    if lost > REFUSE_SHARE * total:
        raise InputError(said)
    return said
