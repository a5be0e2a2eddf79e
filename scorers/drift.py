"""How much rows that came later differ from those before them, by one number of each row.

The two-sample Kolmogorov–Smirnov statistic, the largest gap between the two distribution functions,

    D = sup_x |F_new(x) − F_old(x)|,

with its asymptotic p, and the common-language effect size P(new > old) + ½ P(new = old), which says in which direction.
D is the size of the difference and p whether there is one: with a million rows every p is small, with twenty every D is
large. Of a pool in which a share s of the rows is new, s·D is the largest gap that they make in the distribution of the
whole pool: F_pool − F_old = s (F_new − F_old).

Legend: N new values, M old ones. Cost: a sort of N + M values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.statistics import ranks

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """The gap D between two samples, its p, and the chance that a new value is higher than an old one."""

    gap: float
    p: float
    higher: float


def shift(new: F64, old: F64) -> Shift:
    """How [N] new values differ from [M] old ones. Raises Unsuitable for an empty or non-finite sample."""
    from scipy.special import kolmogorov

    if not len(new) or not len(old):
        raise Unsuitable("a shift is between two samples, and one of them is empty")
    both = np.concatenate([new, old])
    if not np.isfinite(both).all():
        raise Unsuitable(f"{int(np.sum(~np.isfinite(both)))} values of a sample are not finite")
    n, m = len(new), len(old)
    below = [np.searchsorted(np.sort(sample), both, "right") / len(sample) for sample in (new, old)]
    gap = float(np.abs(below[0] - below[1]).max())
    above = ranks(both)[:n].sum() - n * (n + 1) / 2
    return Shift(gap, float(kolmogorov(np.sqrt(n * m / (n + m)) * gap)), float(above / (n * m)))
