"""Which examples may be an answer: filters, applied before the nearest are taken.

Each field narrows down; one that is not given lets all pass. Fields of examples, `loss`, `mark` and `where` are one
predicate, and cost what that does (`datastore/where.py`): a pass over the catalog's examples, over their text only
where `where` looks at it. The others read what they name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow.compute as pc

from gradsift.datastore import examples, selections, where
from gradsift.datastore.errors import InputError
from gradsift.datastore.predicates import ASKED
from gradsift.datastore.store import Store

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
    mark: str | None = None  # why the newest run's screening left it out: such rows are no members of the pool
    selected_in: str | None = None  # a selection or mixture
    where: str | None = None  # what stands after WHERE

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) not in (None, ()) for one in fields(self))


def matching(store: Store, wanted: Filter) -> list[str]:
    """Ids of the examples that pass all filters, sorted. Raises InputError for a selection, column or predicate that is
    not there, and where no example passes."""
    left = ids_passing(store, wanted)
    if not left:
        given = [one.name for one in fields(wanted) if getattr(wanted, one.name) not in (None, ())]
        sources = f"; sources here: {', '.join(examples.all_sources(store))}" if wanted.sources else ""
        raise InputError(f"no example passes the filters ({', '.join(given)}){sources}")
    return sorted(left)


def ids_passing(store: Store, wanted: Filter, field: str = "--where") -> set[str]:
    """As `matching`, in no order, and possibly none. `field` is where a user wrote `where`."""
    left: set[str] | None = None
    for ids in _passing(store, wanted, field):
        left = ids if left is None else left & ids
    return left or set()


def filter_of(
    *,
    source: Sequence[str] = (),
    licence: Sequence[str] = (),
    chars: str | None = None,
    loss: str | None = None,
    score: str | None = None,
    cluster: str | None = None,
    mark: str | None = None,
    selected_in: str | None = None,
    where: str | None = None,
) -> Filter:
    """A filter from what a user writes: ranges as LOW..HIGH, `score` and `cluster` as NAME:LOW..HIGH. Raises InputError
    for anything else."""
    return Filter(
        tuple(source), tuple(licence), range_of(chars, "chars"), range_of(loss, "loss"), of_selection(score, "score"),
        of_selection(cluster, "cluster"), mark, selected_in, where,
    )  # fmt: skip


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


def _passing(store: Store, wanted: Filter, field: str) -> Iterator[set[str]]:
    if wanted.selected_in is not None:
        yield set(selections.get(store, wanted.selected_in).example_ids)
    if wanted.score is not None:
        yield _of_table(store, wanted.score, "score")
    if wanted.cluster is not None:
        yield _of_table(store, wanted.cluster, "cluster")
    if wanted.where is not None:
        where.asked_of(wanted.where, ASKED, field).close()  # alone: it cannot end the parentheses that it gets
    if predicate := " AND ".join(f"(\n{one}\n)" for one in _predicates(wanted)):
        yield set(where.matching(store, predicate, field))


def _predicates(wanted: Filter) -> Iterator[str]:
    if wanted.sources:
        yield f"source IN ({', '.join(map(_quoted, wanted.sources))})"
    if wanted.licences:
        named = [_quoted(one) for one in wanted.licences if one != "null"]
        unknown = ["licence IS NULL"] if "null" in wanted.licences else []
        yield " OR ".join(unknown + ([f"licence IN ({', '.join(named)})"] if named else []))
    if wanted.chars is not None:
        yield _bounded("chars", wanted.chars)
    if wanted.loss is not None:
        yield _bounded("loss", wanted.loss)
    if wanted.mark is not None:
        yield f"mark = {_quoted(wanted.mark)}"
    if wanted.where is not None:
        yield wanted.where


def _bounded(column: str, bounds: Range) -> str:
    sides = ((">=", bounds.low), ("<=", bounds.high))
    return " AND ".join(f"{column} {sign} {_number(bound)}" for sign, bound in sides if bound is not None)


def _number(value: float) -> str:
    return repr(value).replace("inf", "9e999")  # SQLite has no word for it


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
