"""How answers of SQL look: a table of some rows, or all of them as JSON, CSV or Parquet, written as they are read."""

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime, time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsift.cli import show
from gradsift.datastore.errors import InputError
from gradsift.pipelines.tables import safe_csv, shortened

if TYPE_CHECKING:
    from gradsift.datastore.selects import Answer

SHOWN = 20  # rows of a table
CELL = 240  # characters of a row's cells, when there are several
SHORTEST = 60  # of one, at least
WIDE = 8  # columns, beyond which a row is a table of its own


def parameters(given: Sequence[str]) -> dict[str, str]:
    """{name: value} of what was given as NAME=VALUE. Raises InputError for anything else."""
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"-p {text}: write NAME=VALUE, as in -p id=3f9c2a1b")
        found[name] = value
    return found


@contextmanager
def asked(store: Path, statement: str | None, name: str | None, given: Mapping[str, str]) -> "Iterator[Answer]":
    """What a statement, or a named query, gives, while the store is open."""
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        from gradsift.datastore import named, selects  # Polars takes a moment: a store that is not there is told before

        if statement is not None:
            yield selects.answer(opened, statement)
        else:
            yield selects.of_records(named.run(opened, name or "", given))


def show_schema(table: str | None, *, json: bool) -> None:
    """The tables and named queries, or the columns of one table."""
    from gradsift.datastore import named
    from gradsift.datastore.suggest import suggestion
    from gradsift.datastore.tables import TABLES

    if table is not None and table not in TABLES:
        hint = suggestion(table, TABLES, f"there are {', '.join(TABLES)}")
        raise InputError(f"there is no table {table!r}; {hint}")
    if table is not None:
        columns = [{"column": name, "type": kind, "is": what} for name, (kind, what) in TABLES[table].columns.items()]
        show.document(columns) if json else show.table(f"{table}: {TABLES[table].words}", columns)
        return
    queries = named.queries()
    if json:
        tables = {name: asdict(of) for name, of in TABLES.items()}
        show.document({"tables": tables, "queries": [asdict(query) for query in queries]})
        return
    rows = [{"table": name, "a row is": of.words} for name, of in TABLES.items()]
    show.table("Tables; gradsift sql --schema TABLE lists columns", rows)
    asks = [{"query": one.name, "asks": one.words, "takes": ", ".join(one.parameters) or None} for one in queries]
    show.table("Named queries; gradsift sql --name QUERY -p NAME=VALUE", asks)


def show_table(answer: "Answer", limit: int | None) -> None:
    """Some rows as a table, or, of many columns, as a table each; and how many there are."""
    most = SHOWN if limit is None else limit
    rows = [row for part in answer.head(most + 1).parts() for row in part.to_dicts()]
    if len(answer.schema) > WIDE:  # as many columns side by side have no room for a word
        for number, row in enumerate(rows[:most], 1):
            told = [{"column": name, "value": _cell(value, CELL)} for name, value in row.items() if value is not None]
            show.table(f"Row {number}", told)
    else:
        size = max(SHORTEST, CELL // max(1, len(answer.schema)))
        show.table("Answer", [{name: _cell(value, size) for name, value in row.items()} for row in rows[:most]])
    if len(rows) > most:
        show.line(f"{most:,} of {answer.count():,} rows; --limit, --csv, --json and --parquet FILE give more.")


def _cell(value: Any, size: int) -> Any:
    return value if value is None or isinstance(value, int | float) else shortened(_text(value), size)


def print_json(answer: "Answer") -> None:
    """All rows as one document."""
    rows = ({name: _plain(value) for name, value in row.items()} for row in _rows(answer))
    first = next(rows, None)  # what cannot be read is told before anything is printed
    show.answered = True
    sys.stdout.write("[")
    if first is not None:
        sys.stdout.write(json.dumps(first))
    sys.stdout.writelines(f",\n{json.dumps(row)}" for row in rows)
    sys.stdout.write("]\n")


def print_csv(answer: "Answer") -> None:
    """All rows as CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = _rows(answer)
    first = next(rows, None)
    writer.writerow([safe_csv(name) for name in answer.schema])
    for row in [] if first is None else chain([first], rows):
        writer.writerow([safe_csv(_flat(value)) for value in row.values()])


def _rows(answer: "Answer") -> Iterator[dict[str, Any]]:
    for part in answer.parts():
        yield from part.iter_rows(named=True)


def _flat(value: Any) -> Any:
    value = _plain(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _text(value: Any) -> str:
    return str(_flat(value))


def _plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601 texts, what is no number as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)
