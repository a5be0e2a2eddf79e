"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.pipelines.tables import Row


@dataclass(frozen=True)
class Card:
    """What a reader should take away: a few words, the sentence behind them, and a kind that colours it."""

    headline: str
    text: str
    kind: str


@dataclass(frozen=True)
class Part:
    """A picture with its figures, or a table alone."""

    title: str
    table: Sequence[Row] = ()
    svg: str = ""
    note: str = ""
    highlight: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A heading with its parts."""

    title: str
    parts: Sequence[Part]
    text: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report. `what` says in a line what was run; `version` is gradsift's."""

    name: str
    what: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    version: str
