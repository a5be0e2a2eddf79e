"""Queries: a question in a user's words → the nearest rows of a space, with enough to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, indexes
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.query import questions
from gradsift.pipelines.query.answers import Answer, answer
from gradsift.pipelines.query.filters import Filter, matching
from gradsift.pipelines.query.gradients import At, Gradients, open_gradients
from gradsift.pipelines.query.opening import open_space
from gradsift.pipelines.query.questions import Questions
from gradsift.pipelines.query.spaces import Kind, Space

ALL = Filter()


@dataclass(frozen=True)
class Question:
    """What a user asks with: one of these. `answer` and `greedy` go with `text`, `unlike` with `like`."""

    text: str | None = None
    id: str | None = None  # the start of one is enough, here and in the two below
    chats: Path | Sequence[Messages] | None = None  # a file of chats, or chats
    target: str | None = None
    vectors: Path | NDArray[np.generic] | None = None
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    answer: str | None = None
    greedy: bool = False  # let the model write the answer to `text`


@dataclass(frozen=True)
class Where:
    """Where a question is asked, and which rows may be answers."""

    space: Kind = "gradients"
    checkpoint: At = None
    everything: bool = False  # rows that left the pool, too
    index: str | None = None  # the kind of the index that is asked (`auto`: the best), None for exact search
    filters: Filter = ALL
    by_model: bool = True  # whether a model may be loaded, for what the store keeps no row of


def ask(
    store: Store,
    question: Question,
    k: int = 10,
    where: Where | None = None,
    *,
    opposed: bool = False,
    progress: Progress = quiet,
) -> Answer:
    """The k nearest rows to a question, or the farthest (`opposed`): those that point the other way.

    A question that is the row of a stored example, or made of such, takes no model where the store keeps that row.
    Raises InputError for a question that is none or several, for what it names and is not there, and for a chat that
    has no row; FeatureSpaceMismatch where the model is not the one of the rows any more.
    """
    check(question, k)
    where = where or Where()
    named = {name: [examples.find_prefix(store, i) for i in getattr(question, name)] for name in ("like", "unlike")}
    example = None if question.id is None else examples.find_prefix(store, question.id)
    if twice := sorted(set(named["like"]) & set(named["unlike"])):
        raise InputError(f"example {twice[0][:8]} is given with --like and with --unlike; take one away")
    space = open_space(
        store,
        where.space,
        where.checkpoint,
        everything=where.everything,
        index=where.index,
        by_model=where.by_model,
        progress=progress,
    )
    ids = matching(store, where.filters) if where.filters else None
    if example is not None:
        asked = questions.of_ids(store, space, [example])
    elif named["like"]:
        asked = questions.of_difference(space, named["like"], named["unlike"])
    elif question.text is not None:
        asked = _of_text(store, space, question)
    else:
        asked = _of_others(store, space, question)
    generated = question.text is not None and question.answer is None and question.greedy
    return answer(store, space, asked, k, ids=ids, opposed=opposed, generated=generated, everything=where.everything)


def check(question: Question, k: int) -> None:
    """Raise InputError for a question that is none or several, or k below 1."""
    one_of = ("text", "id", "chats", "target", "vectors", "like")
    given = [name for name in one_of if _is_given(getattr(question, name))]
    if question.unlike and not question.like:
        raise InputError("--unlike goes with --like; to see what is farthest from one example, --id with --opposed")
    if len(given) != 1:
        raise InputError("give either a text or --id, --chats, --target, --vectors or --like")
    if k < 1:
        raise InputError(f"--top (-k) is {k}; ask for one row at least")
    if question.text is None and (question.answer is not None or question.greedy):
        raise InputError("--answer and --greedy go with a text")
    if question.answer is not None and question.greedy:
        raise InputError("give --answer or --greedy, not both")


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, list | tuple) and not value)


def _of_text(store: Store, space: Space, question: Question) -> Questions:
    said = question.answer
    if question.greedy:
        if not isinstance(space, Gradients):
            raise InputError("--greedy is for gradients; another space takes a text without an answer")
        if not space.by_model:
            raise InputError("an answer of the model's own takes the model, and none is loaded here; give an answer")
        from gradsift.pipelines.query.computed import own_answer

        said = own_answer(store, space.places[-1].space, question.text or "")
    chat = [{"role": "user", "content": question.text or ""}]
    if said is not None:
        if not said.strip():
            raise InputError("the answer is empty; give one with --answer")
        chat.append({"role": "assistant", "content": said})
    return questions.of_chats(space, [chat])


def _of_others(store: Store, space: Space, question: Question) -> Questions:
    if question.target is not None:
        return questions.of_target(store, space, question.target)
    if question.vectors is not None:
        return questions.of_vectors(space, question.vectors)
    if isinstance(question.chats, Path):
        return questions.of_file(space, question.chats)
    return questions.of_chats(space, question.chats or [])


def searched_space(store: Store, checkpoint: int | None = None, start: str | None = None) -> int:
    """The feature space that a query at a checkpoint searches, or the one whose fingerprint starts so."""
    if start is not None:
        return indexes.find_space(store, start)
    return open_gradients(store, checkpoint).places[0].space
