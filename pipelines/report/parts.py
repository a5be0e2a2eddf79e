"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.pipelines.tables import Row


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
