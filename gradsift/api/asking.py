"""The function that asks a store which rows are like a question."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradsift.api.shared import AnyPath, AnyStore, as_path, opened, whereabouts
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gradsift.datastore.chats import Messages
    from gradsift.pipelines.query.answers import Answer


def query(
    text: str | None = None,
    *,
    answer: str | None = None,
    greedy: bool = False,
    id: str | None = None,  # noqa: A002 - the name of the command's flag
    chats: "AnyPath | Sequence[Messages] | None" = None,
    target: str | None = None,
    vectors: "AnyPath | NDArray[np.generic] | None" = None,
    like: Sequence[str] = (),
    unlike: Sequence[str] = (),
    k: int = 10,
    opposed: bool = False,
    space: Literal["gradients", "embedding", "encoder", "bm25"] = "gradients",
    checkpoint: int | Literal["all"] | None = None,
    everything: bool = False,
    index: str | None = None,
    source: Sequence[str] = (),
    licence: Sequence[str] = (),
    chars: str | None = None,
    loss: str | None = None,
    score: str | None = None,
    cluster: str | None = None,
    mark: str | None = None,
    selected_in: str | None = None,
    where: str | None = None,
    parquet: AnyPath | None = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "Answer":
    """Show the training rows whose gradients are most like a chat's, or most unlike, or that are so by another measure.

    Parameters
    ----------
    text
        What the user says.
    answer
        What the assistant answers. A gradient is of an answer; the spaces of words and embeddings need none.
    greedy
        Let the model write the answer, at the last checkpoint that is searched.
    id
        Ask for the neighbours of a stored example instead (the start of its id is enough).
    chats
        Ask for each chat of a file, in any shape that a pool may have; or of a list of chats.
    target
        Ask with the mean row of a target's examples.
    vectors
        Ask with the vectors of a .npy file or an array, [D] or [Q, D], of the projected space of the run's gradients.
    like
        Ask for more like these examples; with `unlike`, and less like those.
    unlike
        Examples to be less like.
    k
        How many rows.
    opposed
        Show the farthest rows instead, those that point the other way most: the lowest similarities.
    space
        What is compared: gradients, embedding (RDS+), encoder (of sentences) or bm25 (words).
    checkpoint
        Which checkpoint's rows, or "all": the cosines' sum, weighted by mean learning rates; default: the last.
    everything
        Look at rows that left the pool, too.
    index
        Ask an index of this kind (flat, ivf_flat, ivf_sq8, hnsw), or the best (auto), instead of searching exactly.
    source
        Only rows of these sources.
    licence
        Only rows of these licences; null is an unknown one.
    chars
        Only rows of so many characters: LOW..HIGH, LOW.. or ..HIGH.
    loss
        Only rows of such a loss in the last run: LOW..HIGH.
    score
        Only rows to which a selection gave such a score: NAME:LOW..HIGH.
    cluster
        Only rows in such a cluster of a selection whose method makes clusters: NAME:NUMBER.
    mark
        Only rows that the last screening left out for this reason; they have left the pool: with `everything`.
    selected_in
        Only rows of this selection or mixture.
    where
        Only rows for which this holds: what stands after WHERE in SQL, as for `delete`.
    parquet
        Write the hits to a Parquet file, too.
    store
        Folder of the store, or an open one.
    progress
        Called with a stage, rows done and rows in all, while the index of words is built: once for a pool.

    Returns
    -------
    Answer
        `hits`, the nearest first, and what similarities are usual here; answers to a second and later question are in
        `more`. Filters are applied before the nearest are taken. A chat takes the model, a stored example mostly none.

    Raises
    ------
    InputError
        For no question or several, for what is named and not there, where no row passes the filters, and where no run
        computed such rows.
    FeatureSpaceMismatch
        Where the model is not the one of the rows any more.

    Example
    -------
    >>> found = gradsift.query("Write SQL: all names.", answer="SELECT name FROM users;", k=3, store="store")
    >>> first, second, _ = [hit.example_id for hit in found.hits]
    >>> [hit.rank for hit in gradsift.query(like=[first], unlike=[second], chars="..400", k=2, store="store").hits]
    [0, 1]
    """
    from gradsift.datastore.outputs import refuse_taken
    from gradsift.pipelines.query.filters import filter_of
    from gradsift.pipelines.query.query import Question, Where, ask

    if (path := as_path(parquet)) is not None:
        refuse_taken(whereabouts(store), path, "Parquet file")
    filters = filter_of(source=source, licence=licence, chars=chars, loss=loss, score=score, cluster=cluster,
                        mark=mark, selected_in=selected_in, where=where)  # fmt: skip
    question = Question(
        text, id, Path(chats) if isinstance(chats, str) else chats, target,
        Path(vectors) if isinstance(vectors, str) else vectors, tuple(like), tuple(unlike), answer, greedy,
    )  # fmt: skip
    with opened(store) as there:
        at = Where(space, checkpoint, everything, index, filters)
        found = ask(there, question, k, at, opposed=opposed, progress=progress)
    if path is not None:
        from gradsift.pipelines.query.table import write

        write(found, path)
    return found
