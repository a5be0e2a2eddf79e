"""Spaces by name: each is opened by a function of its own file, which is loaded when it is asked for."""

from typing import get_args

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.query.gradients import At, open_gradients
from gradsift.pipelines.query.spaces import Kind, Space


def open_space(
    store: Store,
    kind: Kind = "gradients",
    checkpoint: At = None,
    *,
    everything: bool = False,
    index: str | None = None,
    by_model: bool = True,
    progress: Progress = quiet,
) -> Space:
    """A space of the store's last run. `everything`: rows that left the pool, too; `index`: the kind of the index that
    is asked for gradients (`auto`: the best), None for exact search; `by_model`: whether a model may be loaded for a
    question whose row the store does not keep; `progress`: of an index of words that is built.

    Raises InputError for an unknown space, and where the run has no such rows.
    """
    if kind == "gradients":
        return open_gradients(store, checkpoint, everything=everything, index=index, by_model=by_model)
    if index is not None:
        raise InputError(f"an index is of gradients; ask the space {kind!r} without --index")
    if kind == "embedding":
        from gradsift.pipelines.query.embedding import open_embedding

        return open_embedding(store, checkpoint, everything=everything, by_model=by_model)
    if kind in ("encoder", "bm25") and checkpoint is not None:
        raise InputError(f"the space {kind!r} is of no checkpoint; leave --checkpoint out")
    if kind == "encoder":
        from gradsift.pipelines.query.encoder import open_encoder

        return open_encoder(store, everything=everything, by_model=by_model)
    if kind == "bm25":
        from gradsift.pipelines.query.words import open_words

        return open_words(store, everything=everything, progress=progress)
    raise InputError(f"there is no space {kind!r}; there are: {', '.join(get_args(Kind))}")
