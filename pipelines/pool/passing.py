"""A source's `where`: rows of which it holds are read on, the others are counted and left out.

The predicate is asked of rows in memory, some thousand at a time. A row that it leaves out is no place of its example:
it is counted, and nothing of it is stored.
"""

from collections.abc import Iterator
from itertools import islice

from gradsift.datastore import chats
from gradsift.datastore.examples import BadRow, Example
from gradsift.datastore.origins import extra_text
from gradsift.datastore.predicates import OF_ROW, Predicate
from gradsift.pipelines.pool.tally import Tally
from gradsift.pipelines.recipe import Source

BATCH = 2_000
Rows = Iterator[Example | BadRow]


def passing(stream: Rows, source: Source, tally: Tally) -> Rows:
    """The rows of a source without those that its `where` leaves out, in order; bad ones all pass. Raises InputError
    for a predicate that fails on a row."""
    if source.where is None:
        yield from stream
        return
    asked = Predicate(source.where, OF_ROW, f"`where` of {source.path or source.hub}")
    try:
        asked.of([])  # learns which columns it looks at
        while batch := list(islice(stream, BATCH)):
            yield from _of_batch(batch, asked, tally)
            tally.unmet, tally.known = asked.absent, asked.known
    finally:
        asked.close()


def _of_batch(batch: list[Example | BadRow], asked: Predicate, tally: Tally) -> Rows:
    kept = set(asked.of([_columns(k, row, asked.used) for k, row in enumerate(batch) if isinstance(row, Example)]))
    for k, row in enumerate(batch):
        if isinstance(row, BadRow) or str(k) in kept:
            yield row
        else:
            tally.leave_out(row)


def _columns(key: int, row: Example, used: set[str]) -> tuple[object, ...]:
    """A row's key, then `OF_ROW`; what costs something only where it is looked at."""
    return (
        str(key),
        row.source,
        row.licence,
        row.line,
        chats.chars(row.messages),
        chats.text(row.messages) if "text" in used else None,
        extra_text(row.extra) if "extra" in used else None,
    )
