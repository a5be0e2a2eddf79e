"""What a search finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """A row near a query: cosine of their (projected) gradients."""

    example_id: str
    cosine: float
