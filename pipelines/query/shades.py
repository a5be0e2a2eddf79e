"""What a map is coloured by: for each of its examples a small number, and what the numbers stand for.

Kinds (sources, quadrants, clusters) have a colour each, as far as colours can be told apart: the largest eleven, and
one for all others. Amounts (loss, scores) are cut at their quantiles, so that each colour is of as many examples.
Legend: N examples of the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import choices, selections, signals
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.query.map import Map
from gradsift.scorers.qtuning import quadrant

Shading = Literal["source", "loss", "quadrant", "selected", "score", "cluster"]
SHADINGS: dict[Shading, str] = {  # with what a user reads
    "source": "source",
    "loss": "loss",
    "quadrant": "quadrant of loss and entropy",
    "selected": "selected or not",
    "score": "score",
    "cluster": "cluster",
}
OF_SELECTION: tuple[Shading, ...] = ("selected", "score", "cluster")
QUADRANTS = {  # 1 to 4: pipelines/report/plane.py; what lies on which side of the medians
    "noise": "high loss, high entropy: wrong and unsure",
    "misconception": "high loss, low entropy: wrong, though sure",
    "redundant": "low loss, low entropy: known already",
    "calibration": "low loss, high entropy: right, though unsure",
}
MOST = 11  # kinds with a colour of their own, beside that of all others
STEPS = 6  # of a scale
UNKNOWN = 255
NONE = "not known"
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Shade:
    """[N] numbers of labels, UNKNOWN where nothing is known of an example; `ordered` labels go from low to high.
    `rest`: whether the last label is of all others. `meanings` of labels that are terms, one for each."""

    by: Shading
    codes: U8
    labels: Sequence[str]
    counts: Sequence[int]
    ordered: bool = False
    rest: bool = False
    meanings: Sequence[str] = ()


def shadings(store: Store) -> list[Shading]:
    """What a map of the store can be shaded by, as far as that is told without reading it."""
    space = signals.newest_space(store)
    held = set() if space is None else signals.names_in(store, space)
    needs: dict[Shading, set[str]] = {"loss": {"loss"}, "quadrant": {"loss", "entropy"}}
    return [by for by in SHADINGS if needs.get(by, set()) <= held]


def shades_of(store: Store, selection_id: int) -> list[Shading]:
    """Those of `OF_SELECTION` that a selection or mixture recorded."""
    recorded = {"selected", *choices.columns(store, selection_id)}
    return [by for by in OF_SELECTION if by in recorded]


def shade(store: Store, of: Map, by: Shading, selection: str | None = None) -> Shade:
    """The shading of a map by one of `SHADINGS`, by a selection's own where it is of one.

    Cost: a pass over the pool in the catalog, over two columns of the gradient rows, or over a selection's table.
    Raises InputError for an unknown shading or selection, and where nothing is recorded to shade by.
    """
    if by == "source":
        return _kinds(by, of.sources)
    if by == "loss":
        return _amounts(by, _signals(store, of, "loss")[0])
    if by == "quadrant":
        return _quadrants(*_signals(store, of, "loss", "entropy"))
    if by not in OF_SELECTION:
        raise InputError(f"nothing is shaded by {by!r}; there are: {', '.join(SHADINGS)}")
    if not selection:
        raise InputError(f"name the selection that shades by {by}")
    return _of_selection(store, of, by, selection)


def _of_selection(store: Store, of: Map, by: Shading, name: str) -> Shade:
    chosen = selections.get(store, name)
    if by == "selected":
        inside = places_of(of, chosen.example_ids)
        codes = np.ones(len(of.ids), np.uint8)
        codes[inside] = 0
        return Shade(by, codes, [f"in {name}", "not in it"], [len(inside), len(codes) - len(inside)])
    table = selections.details(store, chosen)
    columns = {} if table is None else {column: table[column] for column in table.column_names}
    if by not in columns:
        raise InputError(f"{name} recorded no {by} of its pool; shade by another, or name another selection")
    if by == "score":
        return _amounts(by, _placed(of, columns["example_id"], columns[by]))
    placed = columns[by].take(pc.index_in(of.ids, columns["example_id"].combine_chunks()))
    return _kinds(by, placed.combine_chunks().cast(pa.string()).dictionary_encode())


def places_of(of: Map, ids: Sequence[str]) -> NDArray[np.int64]:
    """Sorted places on the map of those of the ids that are on it."""
    at = pc.index_in(pa.array(ids, pa.string()), of.ids)
    return np.unique(at.drop_null().to_numpy()).astype(np.int64)


def _placed(of: Map, ids: pa.ChunkedArray, values: pa.ChunkedArray) -> F64:
    """[N] the values at the places of their ids; not a number where there is none."""
    found = values.take(pc.index_in(of.ids, ids.combine_chunks())).cast(pa.float64())
    return np.asarray(found.fill_null(np.nan).to_numpy(), np.float64)


def _signals(store: Store, of: Map, *names: str) -> list[F64]:
    """[N] of each signal of the pool's rows at the last checkpoint. Raises InputError where one was not kept."""
    space = signals.newest_space(store)
    lacking = set(names) - (set() if space is None else signals.names_in(store, space))
    if space is None or lacking:
        raise InputError(f"the last run kept no {' and no '.join(sorted(lacking))} of its rows")
    table = pa.concat_tables(signals.tables(store, space, names))
    return [_placed(of, table["example_id"], table[name]) for name in names]


def _quadrants(loss: F64, entropy: F64) -> Shade:
    codes = np.full(len(loss), UNKNOWN, np.uint8)
    known = np.isfinite(loss) & np.isfinite(entropy)
    codes[known] = quadrant(loss[known], entropy[known]) - 1
    counts = [int((codes == k).sum()) for k in range(len(QUADRANTS))]
    return Shade("quadrant", codes, list(QUADRANTS), counts, meanings=list(QUADRANTS.values()))


def _kinds(by: Shading, values: pa.DictionaryArray) -> Shade:
    """A label for each of the most frequent values; the others share the last."""
    numbers = values.indices.fill_null(-1).to_numpy()
    sizes = np.bincount(numbers[numbers >= 0], minlength=len(values.dictionary)).tolist()
    names = [str(name) for name in values.dictionary.to_pylist()]
    ranked = sorted((k for k in range(len(names)) if sizes[k]), key=lambda k: (-sizes[k], names[k]))
    code_of = np.full(len(names) + 1, UNKNOWN, np.uint8)  # the last is of -1
    for rank, k in enumerate(ranked):
        code_of[k] = min(rank, MOST)
    labels, counts = [names[k] for k in ranked[:MOST]], [sizes[k] for k in ranked[:MOST]]
    if rest := len(ranked) > MOST:
        labels.append(f"{len(ranked) - MOST} others")
        counts.append(sum(sizes) - sum(counts))
    return Shade(by, code_of[numbers], labels, counts, rest=rest)


def _amounts(by: Shading, values: F64) -> Shade:
    """A label for each step between quantiles; equal values are in one."""
    known = np.isfinite(values)
    codes = np.full(len(values), UNKNOWN, np.uint8)
    if not known.any():
        return Shade(by, codes, [], [], ordered=True)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, STEPS + 1)))
    codes[known] = np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, max(0, len(edges) - 2))
    steps = range(max(1, len(edges) - 1))
    ends = [(edges[k], edges[min(k + 1, len(edges) - 1)]) for k in steps]
    labels = [f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}" for low, high in ends]
    return Shade(by, codes, labels, [int((codes == k).sum()) for k in steps], ordered=True)
