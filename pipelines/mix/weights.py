"""Weights of a part's sources: by size, temperature, gradient norm, worst case, or a fitted scaling law."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.recipe import Mix, Part
from gradsift.scorers import budgets, prospect

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass
class Context:
    """What weights and budgets may need beyond the pool: each part is asked for only where a recipe needs it.

    `lengths` gives [N] counts of a dataset's tokens and label tokens; `evidence` any target's (its pool side is looked
    at); `law` the fitted weights of a part and the positions that it holds out.
    """

    lengths: Callable[[Dataset], Mapping[str, I64]]
    evidence: Evidence | None = None
    law: Callable[[Part, Dataset, Sequence[str], float], F64] | None = None
    hold_out: Callable[[Part, Dataset], I64] | None = None
    identity: dict[str, Any] = field(default_factory=dict)  # of tokenizer and model

    def spec(self, mix: Mix) -> dict[str, Any]:
        """What of it decides a mixture."""
        fitted = any(p.weights == "scaling_law" for p in mix.all_parts())
        return self.identity if mix.tokens or mix.label_tokens or fitted else {}

    def held_out(self, part: Part, pool: Dataset) -> I64:
        """Positions that a fitted law measures on."""
        return self.hold_out(part, pool) if self.hold_out else np.zeros(0, np.int64)


def group_weights(
    part: Part,
    names: Sequence[str],
    sizes: Sequence[int],
    members: Sequence[I64],
    budget: int,
    pool: Dataset,
    context: Context,
) -> F64:
    """[G] weights of a part's sources, summing to one. `sizes` are in the budget's unit, `members` positions."""
    how = part.weights or "proportional"
    if isinstance(how, dict):
        found = np.array([how.get(name, 0.0) for name in names])
    elif how == "proportional":
        found = np.asarray(sizes, np.float64)
    elif how == "uniform":
        found = np.ones(len(names))
    elif how == "temperature":
        found = budgets.temperature(sizes, part.temperature)
    elif how == "tive":
        found = _means(context, "grad_norm", members, pool)
    elif how == "prospect":
        losses = _means(context, "loss", members, pool)
        sigma = prospect.spectrum(part.prospect.spectrum, len(losses), part.prospect.parameter)
        found = prospect.spectral_weights(losses.tolist(), sigma, part.prospect.shift_cost)
    else:
        if context.law is None:
            raise InputError("`weights: scaling_law` trains a model; use `gradsift run`")
        found = context.law(part, pool, names, budget)
    if found.sum() <= 0:
        raise InputError(f"mix, part {part.name!r}: the weights of its sources sum to 0")
    return np.asarray(found / found.sum(), np.float64)


def _means(context: Context, signal: str, members: Sequence[I64], pool: Dataset) -> F64:
    """[G] mean of a signal at the last checkpoint over the examples that have it."""
    if context.evidence is None:
        raise InputError("weights `tive` and `prospect` look at gradient rows; the recipe needs `targets` and `model`")
    e = context.evidence
    values = dict(zip(e.ids, e.signal(signal).tolist(), strict=True))
    out = []
    for rows in members:
        known = [values[i] for i in (pool.example_ids[k] for k in rows.tolist()) if i in values]
        if not known:
            raise InputError(
                "a source of the mixture has no example with a gradient row, which its weight is taken from"
            )
        out.append(float(np.mean(known)))
    return np.array(out)
