"""Rank correlations, and what is made of them.

Legend: N values, R random subsets, T targets.
"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def ranks(values: F64) -> F64:
    """Ranks from 1, ties averaged."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def spearman(a: F64, b: F64) -> float:
    """Rank correlation of [N] and [N] values; NaN where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def lds(predicted: F64, measured: F64) -> F64:
    """Linear datamodeling score (Park et al. 2023, TRAK §2): for each of [T] targets the rank correlation, over [R]
    random subsets, of the predicted ([R, T], sums of scores) and measured ([R, T]) outputs. 0 where either does not
    vary."""
    return np.nan_to_num([spearman(a, b) for a, b in zip(predicted.T, measured.T, strict=True)])
