"""What reading a source of a recipe gave, as values: they are part of a run's summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Unread:
    """Files of a folder that were not read for one reason, of one suffix; `first` are some of their names below it."""

    folder: str
    why: str
    suffix: str
    files: int
    first: Sequence[str] = ()


@dataclass(frozen=True)
class PoorFile:
    """A file of a source with several of which much was refused."""

    file: str
    rows: int
    refused: Mapping[str, int]


@dataclass(frozen=True)
class SourceReport:
    """What reading one source of a recipe gave: rows, refused ones by reason and where the first of each is, files that
    gave no usable row (their number, and some of them), files that gave few (the poorest), and those that were not
    read. `absent` are {field of the recipe: other columns that it names and no usable row has}, `columns` some that
    rows have."""

    place: str
    rows: int
    refused: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)
    barren: int = 0
    barren_files: Sequence[str] = ()
    unread: Sequence[Unread] = ()
    poor: Sequence[PoorFile] = ()
    absent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Sequence[str] = ()
