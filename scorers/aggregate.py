"""One score from those of several parts of a model (checkpoints, layers), by what a part says of the order.

A mean of scores follows the parts whose scores spread most. With p parts of weights w_p, Σw = 1:

| form | score of an example |
|---|---|
| `rank` | Σ_p w_p·r_pn,  r = (rank − ½)/N in (0, 1), 1 is best, ties averaged |
| `vote` | Σ_p w_p·[r_pn > 1 − top],  plus a thousandth of the mean rank, which decides between equal votes |

Rank and vote over layers are of Vitel and Chhabra (arXiv 2511.04715). Their text was not at hand: that ranks are
averaged, that a vote is for a share of the examples, and how equal votes are decided are UNCONFIRMED.

Cost O(N log N) for each part and column. Legend: N examples, J columns.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.statistics import ranks

F64 = NDArray[np.float64]
Form = Literal["rank", "vote"]
LESS_THAN_A_VOTE = 1e-3


def opinion(scores: F64, form: Form, top: float = 0.05) -> F64:
    """[N, J] scores of one part → what it adds to the aggregate, before its weight. Finer differences than 1e-6 are
    ties."""
    places = np.stack([(ranks(column) - 0.5) / len(scores) for column in np.round(scores, 6).T], axis=1)
    return places if form == "rank" else (places > 1 - top) + LESS_THAN_A_VOTE * places
