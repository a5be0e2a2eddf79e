"""Commands that ask a store as tables, and follow rows through it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app


@app.command
def sql(
    statement: str | None = None,
    /,
    *,
    name: str | None = None,
    parameter: Annotated[tuple[str, ...], Parameter(name=["-p", "--parameter"], negative=())] = (),
    schema: Flag = False,
    limit: Annotated[int | None, Parameter(name=["--limit", "-n"])] = None,
    csv: Flag = False,
    parquet: Path | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Ask a store by SQL: one SELECT over its examples, signals, scores, selections, mixtures, marks, runs, ….

    Parameters
    ----------
    statement
        The SELECT, in Polars' SQL. It can do nothing but look, and sees no other table or file.
    name
        Run a named query of the catalog instead (`--schema` lists them).
    parameter
        NAME=VALUE for the named query, any number of times.
    schema
        List the tables and the named queries; with a table in the place of the statement, its columns.
    limit
        How many rows; default: 20, and all with --json, --csv or --parquet.
    csv
        Print CSV.
    parquet
        Write the rows to this Parquet file.
    """
    from gradsift.cli import answered, show
    from gradsift.datastore.amounts import require_number
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.outputs import refuse_taken
    from gradsift.datastore.place import place_of

    if json + csv + (parquet is not None) > 1:
        raise InputError("give one of --json, --csv and --parquet")
    require_number("--limit", limit)
    if schema:
        answered.show_schema(statement, json=json)
        return
    if (statement is None) == (name is None):
        raise InputError('give either a statement, as "select count(*) from examples", or --name; --schema lists both')
    if parameter and name is None:
        raise InputError("-p is of a named query (--name); write values into the statement")
    if parquet is not None:
        refuse_taken(place_of(store), parquet, "Parquet file")
    with answered.asked(store, statement, name, answered.parameters(parameter)) as answer:
        wanted = answer if limit is None else answer.head(limit)
        if parquet is not None:
            wanted.write(parquet)
            show.line(f"{parquet} has {wanted.count():,} rows.")
        elif json:
            answered.print_json(wanted)
        elif csv:
            answered.print_csv(wanted)
        else:
            answered.show_table(answer, limit)


@app.command
def lineage(
    reference: str,
    /,
    *,
    rows: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Follow a row back to the files that it was read from and forward to all that was made of it; or a file's rows.

    Parameters
    ----------
    reference
        An example's id (its start is enough); FILE:LINE, a line of a file that was read or a row of an export; or FILE,
        for all rows of a file that was read: its path, or the end of it.
    rows
        Of a file: list every row, and what became of it.
    """
    from gradsift import api
    from gradsift.cli import show, traced

    found = api.lineage(reference, rows=rows, store=store)
    show.document(asdict(found)) if json else traced.show_traced(found)
