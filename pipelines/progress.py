"""How work is reported and wrapped: stages call these functions, their caller decides what they do."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Step = Callable[[str, Callable[[], Any]], Any]  # of a name and an action: does it and gives its value


class Progress(Protocol):
    """Called with the stage's name, rows done, and rows in all (None when unknown)."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report."""
        ...


def quiet(stage: str, done: int, total: int | None) -> None:
    """Report nothing."""


def directly(_name: str, action: Callable[[], T]) -> T:
    """A step without an orchestrator."""
    return action()
