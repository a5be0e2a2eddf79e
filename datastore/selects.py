"""SQL over a store: a statement that `statements` lets pass, run by Polars over the lazy frames of `frames`.

The streaming engine runs it: memory is that of batches, of what it sorts, groups or joins by, and of the result. It can
be interrupted, and asks for nothing but the tables and columns that it names.
"""

import re
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from gradsift.datastore.engine import Record
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.files import disk_errors, fsync_path
from gradsift.datastore.frames import frame
from gradsift.datastore.statements import Statement, checked
from gradsift.datastore.store import Store
from gradsift.datastore.suggest import suggestion
from gradsift.datastore.tables import TABLES

BATCH = 10_000  # rows of a part of an answer
SCAN = re.compile(r"^\s*(\w+)(?:\[\w+\])? SCAN ", re.M)  # in Polars' words for a plan
WHERE = "`gradsift sql --schema` lists tables and columns"
AS_TEXT = "; extra->>'name' is text: CAST(extra->>'name' AS DOUBLE) is its number"


@dataclass(frozen=True)
class Answer:
    """What a statement gives: types by column; nothing is read until one of its functions is called, and that does all
    of it. `failed` gets the store's own errors."""

    frame: pl.LazyFrame
    schema: pl.Schema
    asked: Statement
    failed: list[GradsiftError]

    def head(self, rows: int) -> "Answer":
        """The first rows alone."""
        return replace(self, frame=self.frame.head(rows))

    def parts(self) -> Iterator[pl.DataFrame]:
        """The rows in parts, each read when it is asked for."""
        with _in_words(self.asked, self.failed):
            yield from self.frame.collect_batches(chunk_size=BATCH)

    def count(self) -> int:
        """How many rows there are. Reads what decides that, and not what is only shown."""
        with _in_words(self.asked, self.failed):
            return int(self.frame.select(pl.len()).collect().item())

    def write(self, path: Path) -> None:
        """Write the rows to a Parquet file, a part at a time; it has its name when it is whole."""
        partial = path.with_name(f".{path.name}.partial")
        try:
            with _in_words(self.asked, self.failed), disk_errors(path):
                self.frame.sink_parquet(partial)
                fsync_path(partial)
            partial.replace(path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)


def query_sql(store: Store, statement: str) -> pl.DataFrame:
    """The rows that a SELECT gives. Holds all of them in memory; `answer` does not.

    Raises InputError for a statement that may not be run or that Polars cannot, and what reading the store raises.
    """
    found = answer(store, statement)
    with _in_words(found.asked, found.failed):
        return found.frame.collect()


def answer(store: Store, statement: str) -> Answer:
    """The same, to be read in parts. Raises InputError for a statement that may not be run; what reading the store
    raises comes when it is read."""
    asked, failed = checked(statement), list[GradsiftError]()
    frames = {name: _with_fields(frame(store, name, failed.append), name, asked) for name in asked.tables}
    with _in_words(asked, failed):
        found = pl.SQLContext(frames, register_globals=False).execute(asked.text, eager=False)
        _require_tables_alone(found)
        schema = found.collect_schema()
        if asked.star:
            names = [name for name in schema.names() if name not in {field.name for field in asked.fields}]
            found, schema = found.select(names), pl.Schema({name: schema[name] for name in names})
        if "len" in schema and "count" not in schema and not re.search(r"\blen\b", asked.text, re.I):
            found = found.rename({"len": "count"})  # Polars' name for a count(*) that got none
            schema = found.collect_schema()
    return Answer(found, schema, asked, failed)


def _require_tables_alone(found: pl.LazyFrame) -> None:
    """Raise InputError for a plan that scans anything but our tables: `checked` has let none pass; should it ever."""
    others = set(SCAN.findall(found.explain(optimized=False))) - {"PYTHON"}
    if others:
        raise InputError(f"SQL: a statement reads tables of the store alone, not {', '.join(sorted(others))} files")


def of_records(records: Sequence[Record]) -> Answer:
    """Rows that are there already, as an answer."""
    frame = pl.DataFrame(records, infer_schema_length=None)
    return Answer(frame.lazy(), frame.schema, Statement("", (), (), star=False), [])


def _with_fields(table: pl.LazyFrame, name: str, asked: Statement) -> pl.LazyFrame:
    """A table with a column for each field that is asked of one of its columns."""
    fields = [field for field in asked.fields if field.column in TABLES[name].columns]
    return table.with_columns(pl.col(f.column).str.json_path_match(f.path).alias(f.name) for f in fields)


@contextmanager
def _in_words(asked: Statement, failed: list[GradsiftError]) -> Iterator[None]:
    """Errors as ours: of the store as they were, of Polars with what to do."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Polars listens to it even so, and would end without a word
    try:
        yield
    except (PolarsError, PanicException) as error:
        if failed:
            raise failed[0] from error
        raise InputError(f"SQL: {_said(asked, str(error))}") from None
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            time.sleep(0.01)  # Polars raises it, and Python once more
        raise


def _said(asked: Statement, text: str) -> str:
    column = re.match(r'unable to find column "(.*?)"; valid columns: \[(.*?)\]', text)
    if column is not None:
        known = re.findall(r'"(.*?)"', column[2])
        return f"there is no column {column[1]!r} there{_hint(column[1], known)}"
    table = re.match(r"relation '(.*?)' was not found", text)
    if table is not None:
        return f"there is no table {table[1]!r}{_hint(table[1], TABLES)}"
    first = text.partition("\n\nResolved plan")[0].strip().partition("\n")[0]
    as_text = AS_TEXT if asked.fields and "string" in first else ""
    return f"{first}{as_text}. {WHERE}"


def _hint(name: str, known: Collection[str]) -> str:
    return "; " + suggestion(name, known, f"there are {', '.join(known)}. {WHERE}")
