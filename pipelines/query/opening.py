"""Spaces by name: each is opened by a function of its own file, which is loaded when it is asked for."""

from typing import get_args

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
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
) -> Space:
    """A space of the store's last run. `everything`: rows that left the pool, too; `index`: the kind of the index that
    is asked for gradients (`auto`: the best), None for exact search; `by_model`: whether a model may be loaded for a
    question whose row the store does not keep.

    Raises InputError for an unknown space, and where the run has no such rows.
    """
    if kind == "gradients":
        return open_gradients(store, checkpoint, everything=everything, index=index, by_model=by_model)
    raise InputError(f"there is no space {kind!r}; there are: {', '.join(get_args(Kind))}")
