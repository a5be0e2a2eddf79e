"""Functions that ask a store as tables, and follow rows through it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyStore, opened

if TYPE_CHECKING:
    import polars as pl

    from gradsift.pipelines.query.lineage import Traced


def query_sql(
    statement: str | None = None,
    *,
    name: str | None = None,
    parameters: Mapping[str, str | int] | None = None,
    store: AnyStore = "store",
) -> "pl.DataFrame":
    """Ask a store by SQL: one SELECT over its examples, signals, scores, selections, mixtures, marks, runs, ….

    Parameters
    ----------
    statement
        The SELECT, in Polars' SQL. It can do nothing but look, and sees no other table or file.
    name
        Run a named query of the catalog instead: composition, coverage, lineage, marks_summary, ….
    parameters
        Values for the named query.
    store
        Folder of the store, or an open one.

    Returns
    -------
    polars.DataFrame
        All rows that the statement gives. `Store.frame` gives a table that is read when it is collected.

    Raises
    ------
    InputError
        For neither or both of statement and name, for a statement that does more than look, and for a table, column or
        parameter that is not there.

    Example
    -------
    >>> losses = gradsift.query_sql("select source, count(*) as n, avg(loss) from examples group by 1", store="store")
    >>> losses.columns
    ['source', 'n', 'loss']
    >>> gradsift.query_sql(name="marks_summary", store="store").height > 0
    True
    """
    from gradsift.datastore.errors import InputError

    if (statement is None) == (name is None):
        raise InputError("give either a statement or the name of a query")
    if name is None and parameters:
        raise InputError("parameters are of a named query; write values into the statement")
    with opened(store) as there:
        if statement is not None:
            from gradsift.datastore import selects

            return selects.query_sql(there, statement)
        import polars as pl

        from gradsift.datastore import named

        return pl.DataFrame(named.run(there, name or "", parameters or {}), infer_schema_length=None)


def lineage(reference: str, *, rows: bool = False, store: AnyStore = "store") -> "Traced":
    """Follow a row back to the files that it was read from and forward to all that was made of it; or a file's rows.

    Parameters
    ----------
    reference
        An example's id (its start is enough); FILE:LINE, a line of a file that was read or a row of an export; or FILE,
        for all rows of a file that was read: its path, or the end of it.
    rows
        Of a file: every row, and what became of it.
    store
        Folder of the store, or an open one.

    Returns
    -------
    Traced
        `examples` with their places, marks, scores, selections, mixtures, exports and arms; or `files` with counts; or
        rows that were `refused`, or `deleted`.

    Raises
    ------
    InputError
        For a reference that names nothing, saying what there is.

    Example
    -------
    >>> chosen = gradsift.query_sql("select id from selections order by rank limit 1", store="store").item()
    >>> (row,) = gradsift.lineage(chosen, store="store").examples
    >>> place, choice = row.places[0], row.choices[0]
    >>> same = gradsift.lineage(f"{place.file}:{place.line}", store="store").examples[0]
    >>> same.example_id == chosen
    True
    """
    from gradsift.pipelines.query.lineage import trace

    with opened(store) as there:
        return trace(there, reference, rows=rows)
