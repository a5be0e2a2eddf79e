"""What a cascade did in a run, as the run records it: gradient rows of a part of the pool."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CascadeReport:
    """Gradient rows that were computed of a part of the pool, and what is estimated of the choice among them.

    Of `usable` examples with `tokens`, `seen` have a row at the first `checkpoint`, of which `landmarks` were drawn at
    random, and `shortlist` at all of them, which are the members of a dataset. `price` is the share of the tokens of
    all rows at all checkpoints that went through the model. `overlap` is the share of the choice from all rows that is
    expected among the shortlist, by target; `explained` the share of the landmarks' variance of scores that words
    predicted. `reached`: every overlap is what was asked for; else looking ended at the most that it may cost.
    """

    checkpoint: int
    usable: int
    tokens: int
    landmarks: int
    rounds: int
    seen: int
    shortlist: int
    price: float
    overlap: Mapping[str, float]
    explained: Mapping[str, float]
    reached: bool
    dataset_id: int  # of the shortlist
