"""What is asked: stored rows, chats, a target's mean, vectors, a difference → questions of a space.

The mean of rows and a difference are of unit rows: each example counts alike, however long its gradient. What the
question is made of is no answer to it. Legend: Q questions, W numbers of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.query.spaces import Space
from gradsift.pipelines.tables import first_turn

F32 = NDArray[np.float32]
EXCERPT_CHARS = 160
PART = 64  # rows that are averaged at once


@dataclass(frozen=True)
class Asked:
    """One question in words: what it was made of, and the first turns of its chat, shortened, where it is one chat's.

    `examples` are stored ones that it was made of: none of them is an answer.
    """

    question: str
    user: str = ""
    assistant: str = ""
    examples: tuple[str, ...] = ()
    chat: Messages | None = None  # the one chat that it is the row of


@dataclass(frozen=True)
class Questions:
    """[Q, W] questions of a space, and each in words."""

    rows: F32
    asked: tuple[Asked, ...]


def of_ids(store: Store, space: Space, ids: Sequence[str]) -> Questions:
    """The rows of stored examples."""
    chats = examples.get_messages(store, ids)
    asked = tuple(Asked(f"example {i[:8]}", *turns(chats[i]), (i,), chats[i]) for i in ids)
    return Questions(space.of_ids(ids), asked)


def of_chats(space: Space, chats: Sequence[Messages]) -> Questions:
    """The rows that chats have. Raises InputError for what is no chat, and where the space wants answers and a chat has
    none."""
    for number, chat in enumerate(chats, 1):
        if not _is_chat(chat):
            raise InputError(f"chat {number} of the questions must be a list of turns with texts `role` and `content`")
        if space.needs_answers and not any(turn["role"] == "assistant" for turn in chat):
            which = "this chat" if len(chats) == 1 else f"chat {number} of the questions"
            raise InputError(
                f"{which} has no answer, and a gradient is of an answer: give it with --answer, or let the "
                "model write its own with --greedy (--space embedding and --space bm25 take a text alone)"
            )
    asked = tuple(Asked("chat", *turns(chat), chat=chat) for chat in chats)
    return Questions(space.of_chats(chats), asked)


def of_file(space: Space, path: Path) -> Questions:
    """The rows of all chats of a file, in any shape that a recipe's pool has. Raises InputError for a row that is no
    chat, naming it: a question that is left out in silence would shift all answers after it."""
    from gradsift.datastore.examples import BadRow
    from gradsift.pipelines.pool.sources import read_source
    from gradsift.pipelines.recipe import Source

    if not path.exists():
        raise InputError(f"there is no file {path} with chats to ask with")
    chats: list[Messages] = []
    for row in read_source(Source(path=str(path))):
        if isinstance(row, BadRow):
            raise InputError(f"{row.file}:{row.line}: {row.reason}: {row.detail}; a question must be a chat")
        chats.append(row.messages)
    if not chats:
        raise InputError(f"{path} holds no chat")
    return of_chats(space, chats)


def of_target(store: Store, space: Space, name: str) -> Questions:
    """The mean of the rows of a target's examples. Raises InputError for an unknown target."""
    known = last_run(store).result.ingest.targets
    if name not in known:
        raise InputError(f"there is no target {name!r}; the last run has {', '.join(known) or 'none'}")
    ids = examples.find_dataset(store, "target", name, known[name].digest).example_ids
    usable = space.known(ids)
    if not usable:
        raise InputError(f"no example of target {name!r} has a row here")
    asked = Asked(f"mean of {len(usable)} examples of target {name}", "", "", tuple(ids))
    return Questions(space.unit(_mean(space, usable)), (asked,))


def of_difference(space: Space, like: Sequence[str], unlike: Sequence[str]) -> Questions:
    """More like these, less like those: the mean of the rows of the first minus the mean of those of the others.

    Raises InputError without any of the first, and where nothing is left.
    """
    if not like:
        raise InputError("give at least one example with --like; --unlike alone says what to be far from: --opposed")
    difference = _mean(space, like)
    words = f"like {', '.join(i[:8] for i in like)}"
    if unlike:
        difference = difference - _mean(space, unlike)
        words += f", unlike {', '.join(i[:8] for i in unlike)}"
    return Questions(space.unit(difference), (Asked(words, "", "", (*like, *unlike)),))


def _mean(space: Space, ids: Sequence[str]) -> F32:
    """[1, W] mean of the rows of stored examples. Memory: PART rows, which are as wide as a vocabulary for words."""
    total = sum(space.of_ids(ids[k : k + PART]).sum(axis=0, dtype=np.float64) for k in range(0, len(ids), PART))
    return np.asarray(total / len(ids), np.float32)[None]


def of_vectors(space: Space, vectors: NDArray[np.generic] | Path) -> Questions:
    """Vectors of the space, [W] or [Q, W] of any length: for gradients, of the *projected* space of the run, at one
    checkpoint, made by the same projector from a plain gradient (docs/search.md says how). Nothing else can be checked
    than their width and that their numbers are finite.

    Raises InputError for another shape, for numbers that are not finite, and for a vector of zeros.
    """
    where = "the vectors"
    if isinstance(vectors, Path):
        where, vectors = str(vectors), _read(vectors)
    rows = np.atleast_2d(np.asarray(vectors))
    if rows.ndim != 2 or not len(rows) or rows.dtype.kind not in "fiu":
        raise InputError(f"{where}: an array of {vectors.dtype} {vectors.shape}; give [D] or [Q, D] of numbers")
    asked = tuple(Asked(f"vector {k} of {len(rows)}") for k in range(1, len(rows) + 1))
    rows = rows.astype(np.float64)
    peak = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    if not np.isfinite(peak).all():
        raise InputError(f"{where}: numbers that are not finite")
    return Questions(space.unit((rows / np.where(peak > 0, peak, 1)).astype(np.float32)), asked)


def turns(chat: Messages) -> tuple[str, str]:
    """The first turns of user and assistant, shortened."""
    return first_turn(chat, "user", EXCERPT_CHARS), first_turn(chat, "assistant", EXCERPT_CHARS)


def _is_chat(chat: object) -> bool:
    return (
        isinstance(chat, list)
        and bool(chat)
        and all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in chat
        )
    )


def _read(path: Path) -> NDArray[np.generic]:
    try:
        read: NDArray[np.generic] = np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # as large as the file, whatever it says
    except Exception as error:  # of many kinds: what it says of its shape is Python's text
        raise InputError(f"cannot read {path}: {error}; write it with numpy.save") from error
    if not isinstance(read, np.ndarray):
        raise InputError(f"{path} holds several arrays; write one with numpy.save")
    return read
