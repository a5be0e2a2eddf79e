"""Weights of a part's sources: by size, temperature, gradient norm, worst case, or a fitted scaling law."""

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.pipelines.mix.budget import Groups
from gradsift.pipelines.mix.law import law_weights
from gradsift.pipelines.mix.order import Mixer
from gradsift.pipelines.recipe import Part
from gradsift.scorers import budgets, prospect

F64 = NDArray[np.float64]


def group_weights(mixer: Mixer, part: Part, groups: Groups, budget: int) -> F64:
    """[G] weights of a part's sources, summing to one."""
    chosen = part.weights or "proportional"
    if isinstance(chosen, dict):
        weights = np.array([chosen.get(name, 0.0) for name in groups.names])
    elif chosen == "proportional":
        weights = np.asarray(groups.sizes, np.float64)
    elif chosen == "uniform":
        weights = np.ones(len(groups.names))
    elif chosen == "temperature":
        weights = budgets.temperature(groups.sizes, part.temperature)
    elif chosen == "tive":
        weights = _means(mixer, "grad_norm", groups)
    elif chosen == "prospect":
        losses = _means(mixer, "loss", groups)
        sigma = prospect.spectrum(part.prospect.spectrum, len(losses), part.prospect.parameter)
        weights = prospect.spectral_weights(losses.tolist(), sigma, part.prospect.shift_cost)
    else:
        weights = law_weights(mixer.work, part, mixer.pool.data, groups.names, budget)
    if weights.sum() <= 0:
        raise InputError(f"mix, part {part.name!r}: the weights of its sources sum to 0")
    return np.asarray(weights / weights.sum(), np.float64)


def _means(mixer: Mixer, signal: str, groups: Groups) -> F64:
    """[G] mean of a signal at the last checkpoint over the examples that have it."""
    if mixer.rows is None:
        raise InputError("weights `tive` and `prospect` look at gradient rows; the recipe needs `targets` and `model`")
    values = dict(zip(mixer.rows.ids, mixer.rows.signal(signal).tolist(), strict=True))
    ids = mixer.pool.data.example_ids
    means = []
    for rows in groups.members:
        known = [values[i] for i in (ids[k] for k in rows.tolist()) if i in values]
        if not known:
            raise InputError(
                "a source of the mixture has no example with a gradient row, which its weight is taken from"
            )
        means.append(float(np.mean(known)))
    return np.array(means)
