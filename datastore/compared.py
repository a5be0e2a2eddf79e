"""What is compared, as values: an arm with another, and the methods that `auto` chose between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Versus:
    """An arm's test loss against another's (negative: this arm is lower), paired by seed and row.

    `low`, `high`, `p` and `p_adjusted` are about this very set; those that begin with `method_` count what another draw
    would change (None: unknown), for which `draw_sd` is a bound. All `comparisons` of the report are corrected
    together, `firsts` of them with half of the level. `effect` is in units of the other's noise over seeds. `claim` is
    what the verdict speaks of: `method`, `this set`, or nothing.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    wins: int
    seeds: int
    noise: float | None
    effect: float | None
    p_adjusted: float | None
    comparisons: int
    verdict: str
    method_low: float | None = None
    method_high: float | None = None
    method_p: float | None = None
    method_p_adjusted: float | None = None
    draw_sd: float | None = None
    rows: int = 0  # test rows; 0 in summaries of older versions, whose verdicts were made by another rule
    firsts: int = 0
    claim: str = ""

    @property
    def told(self) -> tuple[float | None, float | None, float | None]:
        """Ends of the interval, and corrected p, of the claim that the verdict makes."""
        if self.claim == "method":
            return self.method_low, self.method_high, self.method_p_adjusted
        return self.low, self.high, self.p_adjusted


@dataclass(frozen=True)
class Tried:
    """A candidate in a round of a portfolio: how many seeds it has by then, its mean loss on the target's `val`
    rows over them (nats per label token; None where one diverged), and whether it stayed."""

    round: int
    method: str
    seeds: int
    loss: float | None
    stayed: bool


@dataclass(frozen=True)
class Portfolio:
    """How `auto` came to a method: the one that won and the one that lost to it last ("" for a single candidate), what
    it was allowed and what it spent in FLOPs, how many trainings that was, of how many epochs, on how many tokens in
    all; every candidate (and `random`) in every round; and the winner against each other candidate and `random`
    (negative: the winner is lower).

    Each is judged on rows of `val` that it was not chosen by. `versus` is corrected over all pairs of the portfolio, so
    that it holds for the pair that these very figures picked.
    """

    won: str
    runner_up: str
    allowed: float
    spent: float
    trainings: int
    epochs: int
    tokens: int
    rounds: Sequence[Tried] = ()
    versus: Mapping[str, Versus] = field(default_factory=dict)
