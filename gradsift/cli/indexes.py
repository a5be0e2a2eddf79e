"""Commands about search indexes: build, list, refresh, drop."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gradsift.cli.shared import DEFAULT_STORE, Json, StorePath, app

if TYPE_CHECKING:
    from gradsift.datastore.indexes import Index
    from gradsift.datastore.store import Store

Kind = Literal["flat", "ivf_flat", "ivf_sq8", "hnsw"]  # as `datastore.ann.Kind`, which --help must not import

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
    from gradsift.cli import show
    from gradsift.datastore.index_build import Wish
    from gradsift.datastore.index_build import build as build_index
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.query import searched_space

    with Store(store, create=False) as opened, show.progress() as progress:
        number = searched_space(opened, checkpoint, space)
        made = build_index(opened, number, Wish(kind, nlist or 0, nprobe, seed), progress)
        _show(opened, [made], "Built", json=json)


@index.command(name="list")
def list_(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """List the indexes: whether they are fresh, what they find of the ten nearest rows, how much faster they are."""
    from gradsift.datastore import indexes
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        _show(opened, indexes.all_of(opened), "Indexes", json=json)


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
    from gradsift.cli import show
    from gradsift.datastore.index_build import refresh as refresh_index
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened, show.progress() as progress:
        made = [refresh_index(opened, one, progress) for one in _which(opened, kind, space)]
        _show(opened, made, "Refreshed", json=json)


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
    from gradsift.cli import show
    from gradsift.datastore import indexes
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        gone = [
            one
            for wanted in _which(opened, kind, space)
            for one in indexes.drop(opened, [wanted.space_id], wanted.kind)
        ]
    if json:
        show.document([{"kind": one.kind, "file": one.name, "bytes": one.bytes} for one in gone])
        return
    count = "1 index" if len(gone) == 1 else f"{len(gone)} indexes"
    show.line(f"Dropped {count}, {sum(one.bytes for one in gone):,} bytes")


def _which(opened: "Store", kind: str | None, space: str | None) -> "list[Index]":
    from gradsift.datastore import indexes

    number = None if space is None else indexes.find_space(opened, space)
    return [one for one in indexes.all_of(opened, number) if kind in (None, one.kind)]


def _show(opened: "Store", made: "list[Index]", title: str, *, json: bool) -> None:
    from gradsift.cli import show
    from gradsift.datastore import features, indexes
    from gradsift.datastore.index_search import GOOD

    rows: list[dict[str, Any]] = []
    for one in made:
        space = features.space_fingerprint(opened, one.space_id)
        measured = one.measured
        rows.append({
            "kind": one.kind, "space": space, "state": indexes.state(opened, one), "rows": one.rows,
            "bytes": one.bytes, "recall": measured.recall, "speedup": measured.speedup,
        })  # fmt: skip
    if json:
        show.document([row | {"plan": asdict(one.plan), "measured": asdict(one.measured), "faiss": one.faiss}
                       for row, one in zip(rows, made, strict=True)])  # fmt: skip
        return
    show.table(title, [row | {"space": row["space"][:12]} for row in rows])
    if any(one.measured.recall < GOOD for one in made):
        show.line(f"Recall below {GOOD}: `query --index auto` leaves such an index out. Exact search finds all.")
