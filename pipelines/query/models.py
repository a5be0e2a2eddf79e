"""Models of questions: loaded for one and let go, or kept for the next where `keep_models` says so.

One question at a time has a model: a server's threads wait for each other, and memory is that of one model. Loads none
itself, and no library of models.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from gradsift.datastore.store import Store

M = TypeVar("M")
_kept: "WeakKeyDictionary[Store, dict[Hashable, Any]]" = WeakKeyDictionary()
_one = Lock()


def keep_models(store: Store) -> None:
    """From now on keep the last model that a question to this open store took: a checkpoint's, or an encoder."""
    _kept.setdefault(store, {})


@contextmanager
def model_for(store: Store, key: Hashable, make: Callable[[], M]) -> Iterator[M]:
    """The model that a key stands for, made unless it is kept. What else is kept goes first: there is room for one."""
    with _one:
        kept = _kept.get(store, {})
        if key not in kept:
            kept.clear()
            kept[key] = make()
        yield kept[key]
