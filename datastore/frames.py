"""A store as tables: lazy frames of Polars over the catalog and the shards (`tables` says what they hold).

A frame reads nothing until it is collected. Then it reads only the columns that are asked for, a batch at a time, and
drops what a filter leaves out before the next: with Polars' streaming engine memory is that of some batches and of the
result. Shards come through `Store.open` and `Store.map`, so their digests are checked, wherever they are kept.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import polars as pl
from polars.io.plugins import register_io_source

from gradsift.datastore import numbering, readers, wide
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.suggest import suggestion
from gradsift.datastore.tables import TABLES, schema_of

if TYPE_CHECKING:
    from gradsift.datastore.store import Store

READERS: dict[str, Callable[["Store", readers.Names], readers.Frames]] = {
    "examples": wide.examples,
    "origins": readers.origins,
    "signals": wide.of_signals,
    "scores": wide.scores,
    "selections": readers.selections,
    "mixtures": readers.mixtures,
    "marks": readers.marks,
    "members": readers.members,
    "quarantine": readers.quarantine,
    "runs": readers.of_runs,
    "versions": readers.versions,
    "arms": readers.arms,
}
Failed = Callable[[GradsiftError], None]


def frame(store: "Store", name: str, failed: Failed = lambda _error: None) -> pl.LazyFrame:
    """A table of the store, by its name in `TABLES`, to be collected while the store is open.

    What fails while it is collected is Polars' ComputeError with our words in it; `failed` gets the error itself.
    Raises InputError for an unknown name. Cost: none until it is collected, but that new versions get their numbers.
    """
    if name not in TABLES:
        hint = suggestion(name, TABLES, f"there are {', '.join(TABLES)}")
        raise InputError(f"there is no table {name!r}; {hint}")
    numbering.catch_up(store)
    schema = schema_of(name)

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, most: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        asked = list(schema) if columns is None else columns
        looked = list(dict.fromkeys([*asked, *(predicate.meta.root_names() if predicate is not None else ())]))
        try:
            for batch in READERS[name](store, looked or list(schema)[:1]):
                part = batch if predicate is None else batch.filter(predicate)
                part = part.select(asked) if asked else pl.DataFrame(height=part.height)
                if most is not None:
                    part = part.head(most)
                    most -= part.height
                yield part
                if most == 0:
                    return
        except GradsiftError as error:
            failed(error)
            raise

    return register_io_source(read, schema=schema, is_pure=True, explain_name=name)
