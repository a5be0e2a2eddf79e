"""Which examples may be an answer: filters, applied before the nearest are taken.

Each field narrows down; one that is not given lets all pass. Cost: one pass over the catalog's examples where a field
of examples or a predicate is given (over their text where the predicate looks at it), one over the gradient rows for
`loss`, and what is named for the others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow.compute as pc

from gradsift.datastore import features, marks, selections, where
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.runs.points import space_at

RANGE = re.compile(r"\s*(\S*?)\s*\.\.\s*(\S*?)\s*")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; None is no bound."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Of:
    """What a selection's table says of every example of its pool: a range of scores, or of numbers of clusters."""

    selection: str  # its name, or NAME@NUMBER
    range: Range = Range()


@dataclass(frozen=True)
class Filter:
    """Which examples may be an answer."""

    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()  # `null` is an unknown one
    chars: Range | None = None  # characters of all turns
    loss: Range | None = None  # of the last run, at its last checkpoint
    score: Of | None = None
    cluster: Of | None = None
    mark: str | None = None  # a reason of a screening: such rows have left the pool
    selected_in: str | None = None  # a selection or mixture
    where: str | None = None  # what stands after WHERE

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) not in (None, ()) for one in fields(self))


def matching(store: Store, wanted: Filter) -> list[str]:
    """Ids of the examples that pass all filters, sorted. Raises InputError for an unknown name, and where none passes,
    naming the filter that left none."""
    left: set[str] | None = None
    for name, ids in _passing(store, wanted):
        left = ids if left is None else left & ids
        if not left:
            raise InputError(f"no example passes the filters: `{name}` lets none pass of those that the others did")
    return sorted(left or ())


def range_of(text: str | None, name: str) -> Range | None:
    """A range as a user writes it: 100..2000, ..2000, 0.5.. or a single number. Raises InputError for anything else."""
    if text is None:
        return None
    found = RANGE.fullmatch(text)
    low, high = found.groups() if found else (text, text)
    try:
        bounds = Range(*(float(bound) if bound else None for bound in (low, high)))
    except ValueError:
        bounds = Range()
    if bounds == Range() or np.isnan([b for b in (bounds.low, bounds.high) if b is not None]).any():
        raise InputError(f"{name}: {text!r} is no range; write 100..2000, 100.. or ..2000")
    return bounds


def of_selection(text: str | None, name: str) -> Of | None:
    """NAME:RANGE as a user writes it. Raises InputError for anything else."""
    if text is None:
        return None
    selection, colon, bounds = text.rpartition(":")
    if not colon or not selection:
        raise InputError(f"{name}: {text!r} names no selection; write NAME:LOW..HIGH, as in small-sql:0.2..")
    return Of(selection, range_of(bounds, name) or Range())


def _passing(store: Store, wanted: Filter) -> Iterator[tuple[str, set[str]]]:
    """(filter, ids of the examples that it lets pass), the cheap ones first."""
    if wanted.selected_in is not None:
        yield "selected in", set(selections.get(store, wanted.selected_in).example_ids)
    if wanted.mark is not None:
        yield "mark", _marked(store, wanted.mark)
    if wanted.score is not None:
        yield "score", _of_table(store, wanted.score, "score")
    if wanted.cluster is not None:
        yield "cluster", _of_table(store, wanted.cluster, "cluster")
    for name, predicate in _predicates(wanted):
        yield name, set(where.matching(store, predicate))
    if wanted.loss is not None:
        yield "loss", _of_loss(store, wanted.loss)


def _predicates(wanted: Filter) -> Iterator[tuple[str, str]]:
    if wanted.sources:
        yield "source", f"source IN ({', '.join(map(_quoted, wanted.sources))})"
    if wanted.licences:
        named = [_quoted(one) for one in wanted.licences if one != "null"]
        unknown = ["licence IS NULL"] if "null" in wanted.licences else []
        yield "licence", " OR ".join(unknown + ([f"licence IN ({', '.join(named)})"] if named else []))
    if wanted.chars is not None:
        yield "chars", _bounded("chars", wanted.chars)
    if wanted.where is not None:
        yield "where", wanted.where


def _bounded(column: str, bounds: Range) -> str:
    sides = ((">=", bounds.low), ("<=", bounds.high))
    return " AND ".join(f"{column} {sign} {bound!r}" for sign, bound in sides if bound is not None)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _marked(store: Store, reason: str) -> set[str]:
    """Examples that any screening of the last run's pool left out for a reason."""
    ids = marks.examples_of(store, reason)
    if not ids:
        raise InputError(f"no example is marked {reason!r}; there are: {', '.join(marks.reasons(store)) or 'no marks'}")
    return ids


def _of_table(store: Store, of: Of, column: str) -> set[str]:
    selection = selections.get(store, of.selection)
    table = selections.details(store, selection)
    if table is None or column not in table.column_names:
        has = "no table" if table is None else f"only {', '.join(n for n in table.column_names if n != 'example_id')}"
        raise InputError(f"{of.selection} recorded no {column} of its pool: it has {has}")
    values = table[column]
    keep = pc.is_valid(values)
    if of.range.low is not None:
        keep = pc.and_(keep, pc.greater_equal(values, of.range.low))
    if of.range.high is not None:
        keep = pc.and_(keep, pc.less_equal(values, of.range.high))
    return set(table["example_id"].filter(keep.fill_null(False)).to_pylist())


def _of_loss(store: Store, bounds: Range) -> set[str]:
    space, _ = space_at(last_run(store), None)
    low, high = (-np.inf if bounds.low is None else bounds.low), (np.inf if bounds.high is None else bounds.high)
    return {
        name
        for block in features.read(store, space)
        for name, loss in zip(block.example_ids, block.signal("loss").tolist(), strict=True)
        if low <= loss <= high
    }
