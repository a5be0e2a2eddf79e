"""Commands about search indexes: build, list, refresh, drop."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from gradsift.api.indexing import Kind
from gradsift.cli.shared import DEFAULT_STORE, Json, StorePath, app

if TYPE_CHECKING:
    from gradsift.api.indexing import SearchIndex

SHOWN = ("kind", "space", "state", "rows", "bytes", "recall", "speedup")
index = App(name="index", help="Build, list, refresh and drop search indexes: caches beside exact search.")
app.command(index)


@index.command
def build(
    *,
    kind: Kind = "ivf_sq8",
    checkpoint: int | None = None,
    space: str | None = None,
    nlist: Annotated[int | None, Parameter(name="--nlist")] = None,
    nprobe: Annotated[int | None, Parameter(name="--nprobe")] = None,
    seed: int = 0,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Build an index over the rows that a query searches, and measure it against exact search.

    Parameters
    ----------
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
    """
    from gradsift import api
    from gradsift.cli import show

    with show.progress() as progress:
        made = api.index_build(store, kind=kind, checkpoint=checkpoint, space=space, nlist=nlist, nprobe=nprobe,
                               seed=seed, progress=progress)  # fmt: skip
    _show([made], "Built", json=json)


@index.command(name="list")
def list_(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """List the indexes: whether they are fresh, what they find of the ten nearest rows, how much faster they are."""
    from gradsift import api

    _show(api.index_list(store), "Indexes", json=json)


@index.command
def refresh(
    *, kind: Kind | None = None, space: str | None = None, store: StorePath = DEFAULT_STORE, json: Json = False
) -> None:
    """Make indexes hold the rows of the store again: add those that came, or build again where rows left.

    Parameters
    ----------
    kind
        Only indexes of this kind.
    space
        Only those of the feature space of which this is the start of the fingerprint.
    """
    from gradsift import api
    from gradsift.cli import show

    with show.progress() as progress:
        made = api.index_refresh(store, kind=kind, space=space, progress=progress)
    _show(made, "Refreshed", json=json)


@index.command
def drop(
    *, kind: Kind | None = None, space: str | None = None, store: StorePath = DEFAULT_STORE, json: Json = False
) -> None:
    """Drop indexes and their files; queries search exactly, as they do without --index.

    Parameters
    ----------
    kind
        Only indexes of this kind.
    space
        Only those of the feature space of which this is the start of the fingerprint.
    """
    from gradsift import api
    from gradsift.cli import show

    gone = api.index_drop(store, kind=kind, space=space)
    if json:
        show.document([asdict(one) for one in gone])
        return
    count = "1 index" if len(gone) == 1 else f"{len(gone)} indexes"
    show.line(f"Dropped {count}, {sum(one.bytes for one in gone):,} bytes")


def _show(made: "Sequence[SearchIndex]", title: str, *, json: bool) -> None:
    from gradsift.cli import show
    from gradsift.datastore.index_search import GOOD

    rows = [asdict(one) for one in made]
    if json:
        show.document(rows)
        return
    show.table(title, [row | {"space": row["space"][:12]} for row in rows], SHOWN)
    if any(one.recall < GOOD for one in made):
        show.line(f"Recall below {GOOD}: `query --index auto` leaves such an index out. Exact search finds all.")
