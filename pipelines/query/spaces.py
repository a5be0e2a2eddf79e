"""What can be searched: a space of questions and rows. `gradients.py` is the first; each other one is a file beside it.

A question is a row of numbers of the space's own, so that questions are averaged and subtracted like any vectors: the
mean of a target's rows, "more like these, less like those". Legend: Q questions, W numbers of one, k neighbours.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.chats import Messages
from gradsift.datastore.runs import Run
from gradsift.datastore.search import Typical

F32 = NDArray[np.float32]
Kind = Literal["gradients", "embedding", "encoder", "bm25"]


def part_note(last: Run) -> str:
    """What to say of rows of a run that a cascade left out; '' where there are all."""
    parted = last.result.cascade
    if parted is None:
        return ""
    return (
        f"searched are the rows that there are: `features.cascade` computed {parted.seen:,} of {parted.usable:,} at "
        f"checkpoint {parted.checkpoint}, and {parted.shortlist:,} at all; without it `gradsift run` computes the rest"
    )


@dataclass(frozen=True)
class Near:
    """A row near a question, and how near it is: 1 for what is asked about itself, as the space measures."""

    example_id: str
    similarity: float


@dataclass(frozen=True)
class Found:
    """The neighbours of each question, best first, and how they were found: by which kind of index ('' is exact), its
    recall as it was measured, and what else there is to say."""

    near: list[list[Near]] = field(default_factory=list)
    index: str = ""
    recall: float | None = None
    note: str = ""


class Space(Protocol):
    """One thing to search in, opened for a store and its last run. What it reads it keeps for the next question."""

    @property
    def name(self) -> Kind:
        """What a user calls it."""
        ...

    @property
    def rows(self) -> str:
        """What its rows are, in a few words: `sgd` for plain gradients."""
        ...

    @property
    def needs_answers(self) -> bool:
        """Whether a question must have an assistant's turn: a gradient has none without."""
        ...

    @property
    def checkpoint(self) -> int | Literal["all"] | None:
        """The checkpoint that its rows are of, if they are of any."""
        ...

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have a row here which no model has to compute, in their order."""
        ...

    def of_ids(self, ids: Sequence[str]) -> F32:
        """[Q, W] questions: the rows of stored examples. Raises InputError naming one that has none."""
        ...

    def of_chats(self, chats: Sequence[Messages]) -> F32:
        """[Q, W] questions: the rows that chats would have. Raises InputError naming one that has none."""
        ...

    def unit(self, questions: F32) -> F32:
        """[Q, W] questions that were added up, as long as those of single rows are. Raises InputError for one of zeros,
        and for numbers that are not finite."""
        ...

    def near(self, questions: F32, k: int, *, ids: Sequence[str] | None = None, opposed: bool = False) -> Found:
        """The k rows that are nearest to each question, or farthest with `opposed`, best first, of the pool's members
        or of those of them that are among `ids`. Exact; ties go to the smaller id; fewer where there are fewer.

        Raises InputError for questions of another width.
        """
        ...

    def typical(self, questions: F32, without: Sequence[Collection[str]]) -> list[Typical | None]:
        """What is usual for each of [Q, W] questions: its similarities with some hundred random rows, but for the
        examples in its `without`; None where there is no other row. It is the yardstick of a question: what a mean is
        like any row is little, whatever two rows are like each other."""
        ...
