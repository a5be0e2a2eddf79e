"""Progress reporting: stages call a function; the face decides how it looks."""

from typing import Protocol


class Progress(Protocol):
    """Called with the stage's name, rows done, and rows in all (None when unknown)."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report."""
        ...


def quiet(stage: str, done: int, total: int | None) -> None:
    """Report nothing."""
