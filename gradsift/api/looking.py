"""Functions that look into a store: what it holds, what stayed out, and which rows are like a chat."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gradsift.api.shared import AnyStore, opened

if TYPE_CHECKING:
    from gradsift.datastore.overview import Table
    from gradsift.pipelines.pool.marked import Marked
    from gradsift.pipelines.query.answers import Answer
    from gradsift.pipelines.runs.stayed_out import Kind, Stayed


@dataclass(frozen=True)
class StayedOut:
    """Rows that stayed out: counted by dataset, source and reason, the most first; and one by one."""

    kinds: "list[Kind]"
    rows: "list[Stayed]"


def status(store: AnyStore = "store") -> "dict[str, Table]":
    """What a store holds: examples, files, quarantine, feature rows, selections, validation arms, live work.

    Parameters
    ----------
    store
        Folder of the store, or an open one.

    Returns
    -------
    dict of list of dict
        Tables by name, as lists of rows.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> by_source = {row["source"]: row["examples"] for row in gradsift.status("store")["examples"]}
    """
    from gradsift.datastore.overview import overview

    with opened(store) as there:
        return overview(there)


def query(
    text: str | None = None,
    *,
    answer: str | None = None,
    greedy: bool = False,
    id: str | None = None,  # noqa: A002 - the name of the command's flag
    k: int = 10,
    checkpoint: int | Literal["all"] | None = None,
    opposed: bool = False,
    everything: bool = False,
    index: str | None = None,
    store: AnyStore = "store",
) -> "Answer":
    """Show the training rows whose gradients are most like a chat's.

    Parameters
    ----------
    text
        What the user says.
    answer
        What the assistant answers.
    greedy
        Let the model write the answer, at the last checkpoint that is searched.
    id
        Ask for the neighbours of a stored example instead (the start of its id is enough).
    k
        How many rows.
    checkpoint
        Which checkpoint's gradients, or "all": the cosines' sum, weighted by mean learning rates; default: the last.
    opposed
        Show the rows whose gradients point the other way most, instead: the lowest cosines.
    everything
        Look at rows that left the pool, too.
    index
        Ask an index of this kind (flat, ivf_flat, ivf_sq8, hnsw), or the best (auto), instead of searching exactly.
    store
        Folder of the store, or an open one.

    Returns
    -------
    Answer
        `hits`, the nearest first, and what cosines are usual here. A text takes the model, an id does not.

    Raises
    ------
    InputError
        For neither or both of text and id, for an id that is not there, and where no run computed gradient rows.
    FeatureSpaceMismatch
        Where the model is not the one of the rows any more.

    Example
    -------
    >>> found = gradsift.query("Write SQL: all names.", answer="SELECT name FROM users;", k=3, store="store")
    >>> [hit.rank for hit in gradsift.query(id=found.hits[0].example_id, k=2, store="store").hits]
    [0, 1]
    """
    from gradsift.pipelines.query.query import Question, Where, ask

    question, where = (
        Question(text, id, answer=answer, greedy=greedy),
        Where("gradients", checkpoint, everything, index),
    )
    with opened(store) as there:
        return ask(there, question, k, where, opposed=opposed)


def marks(store: AnyStore = "store", *, reason: str | None = None, k: int = 10) -> "Marked":
    """Show what the last run's screening left out: near-duplicates and leaked test rows, each beside its twin.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    reason
        Only this reason: leak_ngrams, leak_near_duplicate, exact, near_duplicate, semantic.
    k
        How many pairs to show.

    Returns
    -------
    Marked
        `summary` by reason, and `pairs`, the least similar first.

    Raises
    ------
    InputError
        Where no run has finished, and for a reason that left nothing out.

    Example
    -------
    >>> pairs = gradsift.marks("store", k=3).pairs
    """
    from gradsift.pipelines.pool.marked import marked

    with opened(store) as there:
        return marked(there, reason, k)


def quarantine(
    store: AnyStore = "store",
    *,
    source: str | None = None,
    reason: str | None = None,
    file: str | None = None,
    limit: int | None = None,
) -> StayedOut:
    """Show which rows stayed out, and why: refused when they were read, or of no use to the model of the last run.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    source
        Only rows of this source.
    reason
        Only this reason: broken_json, role_order, no_labels, …
    file
        Only rows of this file: its path, or the end of it.
    limit
        How many rows; default: all. `kinds` counts all in any case.

    Returns
    -------
    StayedOut
        `kinds`, counted, and `rows` with file, line, reason, detail and excerpt.

    Raises
    ------
    InputError
        For a negative limit.

    Example
    -------
    >>> stayed = gradsift.quarantine("store", limit=5)
    >>> sum(kind.rows for kind in stayed.kinds) >= len(stayed.rows)
    True
    """
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.quarantine import Asked
    from gradsift.pipelines.runs.stayed_out import kinds, stayed_out

    if limit is not None and limit < 0:
        raise InputError("--limit must be 0 or more")
    asked = Asked(source, reason, file)
    with opened(store) as there:
        return StayedOut(kinds(there, asked), list(stayed_out(there, asked, limit)))
