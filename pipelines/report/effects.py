"""How large a difference is: gains over random in percent, with their interval, and in words.

    gain = −difference / loss of random,  its interval that of the difference divided by the same loss

The loss it is divided by is taken as known: its own chance is not in the interval, which is that of the verdict. The
words are this project's convention, not a finding: a gain that is small here may be worth much elsewhere.
"""

from dataclasses import dataclass

from gradsift.datastore.compared import Versus
from gradsift.datastore.runs import ArmRow

WORDS = ((1.0, "negligible"), (5.0, "small"), (15.0, "moderate"))  # under so many percent; above: large
LARGE = "large"
RULE = (
    "Sizes are a convention of this project: a change of the test loss of under 1 % is called negligible, under 5 % "
    "small, under 15 % moderate, above that large."
)


@dataclass(frozen=True)
class Gain:
    """By how many percent an arm's test loss is lower than another's (below 0: higher), and the ends of its 95 %
    interval; None: unknown."""

    percent: float
    low: float | None = None
    high: float | None = None

    @property
    def word(self) -> str:
        """How large it is, in a word."""
        return size(self.percent)

    @property
    def most(self) -> str | None:
        """How large it is at most, in a word: by the end of its interval that is further from 0."""
        if self.low is None or self.high is None:
            return None
        return size(max(abs(self.low), abs(self.high)))

    @property
    def turned(self) -> "Gain":
        """The same as a loss in percent: by how much the arm is worse."""
        ends = (None, None) if self.low is None or self.high is None else (-self.high, -self.low)
        return Gain(-self.percent, *ends)


def size(percent: float) -> str:
    """The word for a change of so many percent, either way."""
    return next((word for limit, word in WORDS if abs(percent) < limit), LARGE)


def gain(versus: Versus, other: ArmRow | None) -> Gain | None:
    """The gain of an arm over another in percent of the other's mean test loss; None where that is not known or 0."""
    loss = None if other is None else other.test_loss_mean
    if loss is None or not loss > 0:
        return None
    low, high, _ = versus.told
    ends = (None, None) if low is None or high is None else (-100 * high / loss, -100 * low / loss)
    return Gain(-100 * versus.difference / loss, *ends)


def percent_words(found: Gain) -> tuple[str, str]:
    """(`24 %`, `between 19 and 29 %`) in as few decimals as tell the ends of the interval apart, and from 0; the second
    is '' without an interval."""
    ends = [end for end in (found.low, found.high) if end is not None]
    half = (max(ends) - min(ends)) / 2 if ends else 1.0 if abs(found.percent) >= 10 else 0.1
    decimals = next((d for d in range(3) if half >= 10.0**-d and all(_seen(v, d) for v in (found.percent, *ends))), 2)
    shown = [_number(value, decimals) for value in (found.percent, *ends)]
    return f"{shown[0]} %", f"between {shown[1]} and {shown[2]} %" if len(ends) == 2 else ""


def _seen(value: float, decimals: int) -> bool:
    return value == 0 or round(value, decimals) != 0


def _number(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def loss_words(mine: float, others: float) -> tuple[str, str]:
    """Two losses in as few decimals, from two on, as tell them apart; tiny ones with two figures."""
    if 0 < max(mine, others) < 5e-3:
        return f"{mine:.2g}", f"{others:.2g}"
    decimals = next((d for d in (2, 3, 4) if f"{mine:.{d}f}" != f"{others:.{d}f}"), 4)
    return f"{mine:.{decimals}f}", f"{others:.{decimals}f}"
