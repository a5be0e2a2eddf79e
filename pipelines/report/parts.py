"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gradsift.pipelines.tables import Row


@dataclass(frozen=True)
class Card:
    """What a reader should take away: a few words, the sentence behind them, and a kind that colours it."""

    headline: str
    text: str
    kind: str


@dataclass(frozen=True)
class Answer:
    """What was found for a target, in a sentence for anyone; in it the target's name stands between asterisks.

    `arm` is what was chosen, `kind` the verdict as a class of the page, `effect` the word for its size ('': none is
    claimed), `percent` the gain over random with the ends of its interval (None: unknown).
    """

    target: str
    arm: str
    headline: str
    text: str
    kind: str = ""
    effect: str = ""
    percent: tuple[float, float | None, float | None] | None = None


@dataclass(frozen=True)
class Gained:
    """A cell of the matrix: the gain over random in percent (None: unknown), whether it is told apart from random, and
    whether it is the best of its target."""

    percent: float | None
    told: bool = False
    best: bool = False

    @property
    def words(self) -> str:
        """The cell as text: in brackets where it is not told apart from random."""
        if self.percent is None:
            return "–"
        shown = f"{round(self.percent, 1) + 0.0:+.1f} %" if abs(self.percent) < 10 else f"{self.percent:+.0f} %"
        shown = shown.replace("-", "−")
        return shown if self.told else f"({shown})"


@dataclass(frozen=True)
class Line:
    """A line of the matrix: an arm, and what it gained on each target."""

    arm: str
    cells: Sequence[Gained]


@dataclass(frozen=True)
class Matrix:
    """Arms × targets."""

    targets: Sequence[str]
    lines: Sequence[Line]
    note: str


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
    """A whole report. `what` says in a line what was run; `version` is gradsift's; `run` is the run's number, `date`
    when it ended; `matrix` is there with several targets, `words` explain what the page uses, `recipe` is the run's as
    its author wrote it, in YAML."""

    name: str
    what: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    version: str
    run: int = 0
    date: str = ""
    answers: Sequence[Answer] = ()
    matrix: Matrix | None = None
    next: Sequence[str] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    facts: Sequence[Row] = ()
    recipe: str = ""
