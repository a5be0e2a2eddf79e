"""Rows of the plain gradient: which space of a store holds them. Loads no model."""

from gradsift.datastore import features
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store

PLAIN = "sgd"  # the transform of rows that are the gradient itself


def plain_space(store: Store, train: int) -> int | None:
    """The space of plain rows that go with a space of the pool's: itself where that is plain, None where none is."""
    spec = features.space_spec(store, train)
    if spec["transform"] == PLAIN:
        return train
    return features.space_by_fingerprint(store, fingerprint({**spec, "transform": PLAIN, "signals": None}))
