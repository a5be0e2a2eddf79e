"""An example as its tokens: how surprised the model is by each, how unsure of it, and which a selection prunes.

Figures are of label tokens alone, as the pass kept them. The text of tokens comes from the tokenizer of the recipe's
model, which is read without weights and must be the one that the rows were made with; without it there are figures and
no text. Legend: T tokens of a chat, L label tokens.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gradsift.datastore import choices, examples, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store
from gradsift.pipelines.model.encode import encode, tokenizer_digest
from gradsift.pipelines.model.tokenizer import folder_here, load_tokenizer
from gradsift.pipelines.query.passes import Pass, computed_run, passes_of
from gradsift.pipelines.recipe import Model, Recipe, recorded_recipe

NOT_KEPT = "figures of single tokens were not kept: `features: {signals: {tokens: true}}` in the recipe keeps them"
NO_ROWS = "no finished run computed gradient rows; the signals of tokens come with them"
NO_ROW = "the last run with gradient rows has none of this example"
BROKEN = "\N{REPLACEMENT CHARACTER}"
_USING = threading.Lock()  # a tokenizer has settings that a call changes: it serves one thread at a time
LONGEST = 8  # tokens that one character may be spread over


@dataclass(frozen=True)
class Token:
    """One token. `text` is None where no tokenizer tells it, '' for the later tokens of a character that several make
    up. `nll` and `entropy` in nats of a label token; `kept` is False where a selection takes it out of the loss."""

    text: str | None
    label: bool
    nll: float | None = None
    entropy: float | None = None
    kept: bool = True


@dataclass(frozen=True)
class Tokens:
    """The tokens of an example at a checkpoint, of those there are. `masks` are references of the selections that prune
    its tokens, `mask` the one whose pruning is shown, '' for none. `notes` say what is missing, and what brings it."""

    example_id: str
    tokens: Sequence[Token]
    checkpoint: int | None
    checkpoints: Sequence[int]
    mask: str
    masks: Sequence[str]
    notes: Sequence[str]


def tokens_of(store: Store, example_id: str, checkpoint: int | None = None, mask: str | None = None) -> Tokens:
    """The tokens of an example by the last run with gradient rows; at its last checkpoint, and with the newest
    selection's pruning, unless others are asked for (`mask=''`: without). Raises InputError for others than there are.

    Cost: the first one reads the tokenizer, about a second.
    """
    run = computed_run(store)
    found = [] if run is None else _by_checkpoint(passes_of(store, run, example_id))
    masks = _masks(store, example_id)
    shown = next(iter(masks), "") if mask is None else mask
    if shown and shown not in masks:
        raise InputError(f"{shown} prunes no token of {example_id[:8]}; those that do: {', '.join(masks) or 'none'}")
    checkpoints = [one.checkpoint for one in found]
    if checkpoint is not None and checkpoint not in checkpoints:
        raise InputError(f"there is no row of {example_id[:8]} at checkpoint {checkpoint}; there are {checkpoints}")
    if run is None or not found:
        note = NO_ROWS if run is None or not run.result.rows else NO_ROW
        return Tokens(example_id, (), None, (), shown, list(masks), [note])
    at = found[-1] if checkpoint is None else found[checkpoints.index(checkpoint)]
    made, notes = _tokens(store, run, at, example_id, masks.get(shown))
    return Tokens(example_id, made, at.checkpoint, checkpoints, shown, list(masks), notes)


def _by_checkpoint(passes: Sequence[Pass]) -> list[Pass]:
    """One pass for each checkpoint, the pool's where there are several."""
    first: dict[int, Pass] = {}
    for one in passes:
        first.setdefault(one.checkpoint, one)
    return [first[number] for number in sorted(first)]


def _masks(store: Store, example_id: str) -> dict[str, list[bool]]:
    """{reference of a selection that prunes tokens of the example: which of its label tokens it keeps}, newest first"""
    masks = {}
    for holding in choices.holdings(store, example_id):
        mask = choices.mask_of(store, holding.selection_id, example_id)
        if mask is not None:
            masks[choices.choice(store, holding.selection_id).reference] = mask
    return masks


def _tokens(
    store: Store, run: Run, at: Pass, example_id: str, mask: Sequence[bool] | None
) -> tuple[list[Token], list[str]]:
    signals, notes = at.signals, []
    if signals.status != "ok":
        notes.append(f"it has no gradient row: {signals.status}")
    elif signals.nll is None:
        notes.append(NOT_KEPT)
    figures = _figures(at, mask)
    if mask is not None and len(mask) != len(figures):
        notes.append("what the selection prunes cannot be shown: it was made for another number of tokens")
    try:
        pieces, labels = _pieces(store, run, at, example_id)
    except InputError as error:
        notes.append(f"the text of tokens cannot be shown: {error}")
        return [Token(None, True, *figure) for figure in figures], notes
    if figures and len(figures) != sum(labels):
        notes.append("the text of tokens cannot be shown: their number is not that of the figures any more")
        return [Token(None, True, *figure) for figure in figures], notes
    left = iter(figures)
    return [
        Token(piece, label, *(next(left, (None, None, True)) if label else (None, None, True)))
        for piece, label in zip(pieces, labels, strict=True)
    ], notes


def _figures(at: Pass, mask: Sequence[bool] | None) -> list[tuple[float | None, float | None, bool]]:
    """[L] NLL, entropy, and whether it is kept, of the label tokens; as many as are known."""
    nll, entropy = at.signals.nll or [], at.signals.entropy or []
    count = max(len(nll), len(mask or ()))
    known = [*nll, *[None] * (count - len(nll))], [*entropy, *[None] * (count - len(entropy))]
    kept = list(mask) if mask is not None and len(mask) == count else [True] * count
    return list(zip(*known, kept, strict=True))


def _pieces(store: Store, run: Run, at: Pass, example_id: str) -> tuple[list[str], Sequence[bool]]:
    """[T] text of each token, and which are label tokens. Raises InputError where no tokenizer tells."""
    recipe = recorded_recipe(run.recipes.resolved, "the recipe of the store's last run")
    wanted = str(features.space_spec(store, at.space_id)["tokenizer"])
    chat = examples.get_messages(store, [example_id])[example_id]
    with _USING:
        tokenizer = _same_tokenizer(recipe, wanted)
        encoded = encode(tokenizer, chat, recipe.encoding.max_length, recipe.encoding.truncation)
        if not encoded.input_ids:
            raise InputError("the chat template refuses this chat")
        return list(texts(tokenizer, encoded.input_ids)), encoded.labelled


def _same_tokenizer(recipe: Recipe, wanted: str) -> Any:
    if recipe.lm is None:
        raise InputError("the recipe has no `model`, whose tokenizer it takes")
    tokenizer, digest = _opened(recipe.lm.model_dump_json())
    if digest != wanted:
        _opened.cache_clear()  # it may be put back
        raise InputError(f"the tokenizer of {recipe.lm.hub or recipe.lm.path} is not the one that made the rows")
    return tokenizer


@lru_cache(maxsize=2)
def _opened(model: str) -> tuple[Any, str]:
    wanted = Model.model_validate_json(model)
    tokenizer = load_tokenizer(folder_here(wanted), wanted)
    return tokenizer, tokenizer_digest(tokenizer)


def texts(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """[T] what each token adds to the text. A character that several tokens make up stands at the first of them, and
    the others are ''."""
    waiting: list[int] = []
    before: list[int] = []
    for token in ids:
        waiting.append(token)
        text = _added(tokenizer, before, waiting)
        if text.endswith(BROKEN) and len(waiting) < LONGEST:
            continue
        yield text
        yield from [""] * (len(waiting) - 1)
        before, waiting = waiting, []
    if waiting:
        yield _added(tokenizer, before, waiting)
        yield from [""] * (len(waiting) - 1)


def _added(tokenizer: Any, before: Sequence[int], now: Sequence[int]) -> str:
    """The text of tokens where they stand after others: alone, some tokenizers drop the space that they begin with."""
    start, both = (str(tokenizer.decode([*ids], skip_special_tokens=False)) for ids in (before, [*before, *now]))
    return both[len(start) :] if both.startswith(start) else str(tokenizer.decode([*now], skip_special_tokens=False))
