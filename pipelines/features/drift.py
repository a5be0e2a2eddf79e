"""How far a pool has moved away from the warm-up that its rows are taken at.

Compared are losses and gradient norms at the last checkpoint: of the rows that came after the warm-up against those
that it was drawn from, whether they are in the pool now or not, without the ones that it trained on, whose losses it
lowered. Where that cannot be done (few rows came, or it trained on all that were there) the share of rows that came
stands for the drift, which is never larger. Cost: reading both pools' rows once, and nothing where no row came.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import features, warmups
from gradsift.datastore.examples import Dataset
from gradsift.datastore.store import Store
from gradsift.datastore.warmups import Drift, Shifted, WarmupRun
from gradsift.scorers.drift import shift

SIGNALS = ("loss", "grad_norm")
ENOUGH = 20  # rows of either side
CHANCE = 0.01  # a gap with a larger p counts as none


def drift_of(
    store: Store,
    run: WarmupRun,
    pool: Dataset,
    space: int,
    *,
    reused: bool,
    max_drift: float,
    among: Sequence[str] | None = None,
) -> Drift:
    """The drift of a pool with rows in a space (the last checkpoint's), by those of a random sample where others were
    not computed (`among`). Of a warm-up whose pool the store has no record of any more, the rows that it trained on
    alone count as ones that were there."""
    drawn = warmups.pool_of(store, run)
    trained = set(warmups.trained(store, run.fingerprint))
    before = trained.union(() if drawn is None else drawn.example_ids)
    came = [name for name in pool.example_ids if name not in before]
    there = sorted(before - trained)
    shifts = _shifts(store, space, *_known(came, there, among))
    share = len(came) / len(pool.example_ids)
    moved = max((share * one.gap for one in shifts if one.p < CHANCE), default=0.0) if shifts or not came else None
    return Drift(
        warmup=run.fingerprint,
        reused=reused,
        drawn_from=run.pool_rows,
        trained=len(trained),
        epochs=run.epochs,
        rows=len(pool.example_ids),
        came=len(came),
        left=0 if drawn is None else run.pool_rows - (len(pool.example_ids) - len(came)),  # also those deleted
        share=share,
        drift=moved,
        max_drift=max_drift,
        advised=(share if moved is None else moved) > max_drift,
        shifts=shifts,
    )


def _known(came: Sequence[str], there: Sequence[str], among: Sequence[str] | None) -> tuple[list[str], list[str]]:
    known = None if among is None else set(among)
    one, other = ([i for i in ids if known is None or i in known] for ids in (came, there))
    return one, other


def _shifts(store: Store, space: int, came: Sequence[str], there: Sequence[str]) -> list[Shifted]:
    """Of each signal, where enough rows of both sides have a finite one."""
    if min(len(came), len(there)) < ENOUGH:
        return []
    after, before = _signals(store, space, came), _signals(store, space, there)
    shifts = []
    for name in SIGNALS:
        new, old = after[name], before[name]
        if min(len(new), len(old)) >= ENOUGH:
            found = shift(new, old)
            medians = float(np.median(old)), float(np.median(new))
            shifts.append(Shifted(name, found.gap, found.p, found.higher, *medians))
    return shifts


def _signals(store: Store, space: int, ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Finite values of each signal of these examples, in any order."""
    parts: dict[str, list[NDArray[np.float64]]] = {name: [np.zeros(0)] for name in SIGNALS}
    for block in features.read(store, space, ids):
        for name in SIGNALS:
            parts[name].append(block.signal(name).astype(np.float64))
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    return {name: values[np.isfinite(values)] for name, values in whole.items()}
