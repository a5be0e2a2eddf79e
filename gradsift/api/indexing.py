"""Functions about search indexes: build, list, refresh, drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gradsift.api.shared import AnyStore, opened
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.datastore.ann import Plan
    from gradsift.datastore.indexes import Index, Measured
    from gradsift.datastore.store import Store

Kind = Literal["flat", "ivf_flat", "ivf_sq8", "hnsw"]  # as `datastore.ann.Kind`, whose import takes longer


@dataclass(frozen=True)
class SearchIndex:
    """An index: over the rows of which feature space, whether it is fresh, behind or stale, the share of the ten
    nearest rows that it finds, and how much faster than exact search it is."""

    kind: str
    space: str
    state: str
    rows: int
    bytes: int
    recall: float
    speedup: float
    plan: "Plan"
    measured: "Measured"
    faiss: str


@dataclass(frozen=True)
class DroppedIndex:
    """An index that is gone, its file, and the bytes of it."""

    kind: str
    file: str
    bytes: int


def index_build(
    store: AnyStore = "store",
    *,
    kind: Kind = "ivf_sq8",
    checkpoint: int | None = None,
    space: str | None = None,
    nlist: int | None = None,
    nprobe: int | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> SearchIndex:
    """Build an index over the rows that a query searches, and measure it against exact search.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    kind
        ivf_sq8 is the smallest, a byte for each number; flat looks at every row; ivf_flat and hnsw keep float32.
    checkpoint
        Which checkpoint's rows; default: the last.
    space
        Rows of the feature space of which this is the start of the fingerprint, instead.
    nlist
        Lists that the rows are parted into (ivf); default: twice the root of their number.
    nprobe
        Lists that a search looks at (ivf), or candidates that it keeps (hnsw); default: the least that finds 97 % of
        the ten nearest of the questions it is tuned with.
    seed
        Of the training.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    SearchIndex
        With what it finds and how fast it is.

    Raises
    ------
    InputError
        For a space without rows, a wish that makes no sense, or an index that memory does not hold.
    BusyError
        While something else changes the store.

    Example
    -------
    >>> gradsift.index_build("store", kind="flat").recall
    1.0
    """
    from gradsift.datastore.index_build import Wish
    from gradsift.datastore.index_build import build as build_index

    with opened(store) as there:
        from gradsift.pipelines.query.query import searched_space  # loads torch: not for a store that is not there

        number = searched_space(there, checkpoint, space)
        return _seen(there, build_index(there, number, Wish(kind, nlist or 0, nprobe, seed), progress))


def index_list(store: AnyStore = "store") -> list[SearchIndex]:
    """List the indexes: whether they are fresh, what they find of the ten nearest rows, how much faster they are.

    Parameters
    ----------
    store
        Folder of the store, or an open one.

    Returns
    -------
    list of SearchIndex
        By feature space and kind.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> fresh = [index.kind for index in gradsift.index_list("store") if index.state == "fresh"]
    """
    from gradsift.datastore import indexes

    with opened(store) as there:
        return [_seen(there, one) for one in indexes.all_of(there)]


def index_refresh(
    store: AnyStore = "store", *, kind: Kind | None = None, space: str | None = None, progress: Progress = quiet
) -> list[SearchIndex]:
    """Make indexes hold the rows of the store again: add those that came, or build again where rows left.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    kind
        Only indexes of this kind.
    space
        Only those of the feature space of which this is the start of the fingerprint.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    list of SearchIndex
        As they are now.

    Raises
    ------
    InputError
        For a space that is not there.
    BusyError
        While something else changes the store.

    Example
    -------
    >>> states = {index.state for index in gradsift.index_refresh("store")}
    """
    from gradsift.datastore.index_build import refresh

    with opened(store) as there:
        made = [refresh(there, one, progress) for one in _which(there, kind, space)]
        return [_seen(there, one) for one in made]


def index_drop(store: AnyStore = "store", *, kind: Kind | None = None, space: str | None = None) -> list[DroppedIndex]:
    """Drop indexes and their files; queries search exactly, as they do without an index.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    kind
        Only indexes of this kind.
    space
        Only those of the feature space of which this is the start of the fingerprint.

    Returns
    -------
    list of DroppedIndex
        What is gone.

    Raises
    ------
    InputError
        For a space that is not there.

    Example
    -------
    >>> freed = sum(index.bytes for index in gradsift.index_drop("store", kind="hnsw"))
    """
    from gradsift.datastore import indexes

    with opened(store) as there:
        gone = [
            one for wanted in _which(there, kind, space) for one in indexes.drop(there, [wanted.space_id], wanted.kind)
        ]
    return [DroppedIndex(one.kind, one.name, one.bytes) for one in gone]


def _which(store: "Store", kind: str | None, space: str | None) -> "Sequence[Index]":
    from gradsift.datastore import indexes

    number = None if space is None else indexes.find_space(store, space)
    return [one for one in indexes.all_of(store, number) if kind in (None, one.kind)]


def _seen(store: "Store", one: "Index") -> SearchIndex:
    from gradsift.datastore import features, indexes

    space, measured = features.space_fingerprint(store, one.space_id), one.measured
    return SearchIndex(
        one.kind, space, indexes.state(store, one), one.rows, one.bytes, measured.recall, measured.speedup, one.plan,
        measured, one.faiss,
    )  # fmt: skip
