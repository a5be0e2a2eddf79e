"""The section that pays for gradient rows only where they can change the choice."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from gradsift.pipelines.recipe.section import Section, Share

RULES = ("top_k", "round_robin")  # which choose by the best scores of each column, and look at nothing else
SAME = {"represent": "gradients", "aggregate": "mean", "length": "none", "lowest": False}  # options that must be so


class Cascade(Section):
    """Gradient rows of a few, whose scores predict the others'; then of those that may be among the best."""

    landmarks: Share = 0.05
    """Share of the pool's usable rows that is drawn at random, to predict from and to measure the prediction by."""
    overlap: Share = 0.95
    """Look no further when so much of the choice from the full rows is estimated to have been seen, for every
    target."""
    most: Share = 0.45
    """Share of the pool's tokens up to which is looked at one checkpoint, the landmarks with them."""
    step: Share = 0.05
    """Share of the pool's tokens that is looked at in a round, before it is predicted anew."""
    shortlist: Annotated[float, Field(ge=1)] = 3.0
    """The other checkpoints are computed for so many times the budget: each target's best at the first one, or each of
    its subtasks' where these take turns."""


def serves(score: str, rule: str, options: Mapping[str, Any]) -> bool:
    """Whether a cascade finds what a method chooses: one that takes the highest similarities of gradients to the
    target. Others look at rows that it leaves out."""
    as_it_is = all(options.get(name, value) == value for name, value in SAME.items())
    return score == "similarity" and rule in RULES and as_it_is
