"""How a part's budget is divided among its sources: within caps, floors and what there is.

Legend: G sources of the part; budgets are rows, or tokens of a budget in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.pipelines.mix.order import Mixer, PartRanking, Pool
from gradsift.pipelines.recipe import Part
from gradsift.scorers import budgets

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Groups:
    """[G] sources of a part: names, codes in the pool, positions, sizes in the budget's unit, and room with copies."""

    names: list[str]
    codes: list[int]
    members: list[I64]
    sizes: list[int]
    room: list[int]


def groups_of(part: Part, ranks: PartRanking, pool: Pool) -> Groups:
    """The sources that have something left for a part. Raises InputError for one that it names and that has
    nothing left."""
    codes = [g for g in range(len(pool.names)) if (ranks.open & (pool.code == g)).any()]
    members = [np.flatnonzero(ranks.open & (pool.code == g)) for g in codes]
    sizes = [pool.size(rows) for rows in members]
    names = [pool.names[g] for g in codes]
    _check_names(part, names, pool)
    return Groups(names, codes, members, sizes, [size * part.repeat for size in sizes])


def allowed(part: Part, pool: Pool) -> NDArray[np.bool_]:
    """[N] whether an example is of a source that the part takes from. Raises InputError for an unknown source."""
    wanted = part.sources
    if wanted is None and isinstance(part.weights, dict):
        wanted = [name for name, weight in part.weights.items() if weight > 0]
    if wanted is None:
        return np.ones(len(pool.code), bool)
    if not wanted:
        raise InputError(f"mix, part {part.name!r}: the weights of its sources sum to 0")
    if unknown := [name for name in wanted if name not in pool.names]:
        raise InputError(_unknown(part, unknown[0], pool))
    return np.isin(pool.code, [pool.names.index(name) for name in wanted])


def _unknown(part: Part, name: str, pool: Pool) -> str:
    return (
        f"mix, part {part.name!r}: the pool has no source {name!r} (after screening; `gradsift marks` shows what that "
        f"left out); there are: {', '.join(pool.names)}"
    )


def _check_names(part: Part, names: Sequence[str], pool: Pool) -> None:
    given = part.weights if isinstance(part.weights, dict) else {}
    for name in (*given, *part.caps, *part.floors):
        if name not in pool.names:
            raise InputError(_unknown(part, name, pool))
    for name in (*(n for n, w in given.items() if w > 0), *part.floors):
        if name not in names:
            raise InputError(
                f"mix, part {part.name!r}: source {name!r} has no row left for it: earlier parts took them, or none is "
                "usable (no label token, no gradient row). Give it no weight, or reorder the parts."
            )


def check_room(part: Part, budget: int, groups: Groups, mixer: Mixer) -> None:
    """Raise InputError when a part is asked for more than there is."""
    if budget <= sum(groups.room):
        return
    unit = "rows" if mixer.pool.lengths is None else "tokens"
    copies = f" in {part.repeat} copies" if part.repeat > 1 else ""
    raise InputError(
        f"mix, part {part.name!r}: {budget:,} {unit} are asked for and there are {sum(groups.room):,}{copies}. Lower "
        "the budget or the part's share, add sources, or raise `repeat`."
    )


def by_ranking(part: Part) -> bool:
    """Whether the part's ranking decides how much each source gives."""
    return part.weights == "ranking" or (part.weights is None and part.target is not None)


def cap_of(part: Part, name: str, budget: int) -> int:
    """The most that a source may give."""
    return int(part.caps.get(name, 1.0) * budget + ROUNDING)


def within(part: Part, names: Sequence[str], amounts: F64, budget: int) -> bool:
    """Whether amounts by source keep caps and floors."""
    return all(
        part.floors.get(name, 0.0) * budget <= amount + ROUNDING
        and amount <= part.caps.get(name, 1.0) * budget + ROUNDING
        for name, amount in zip(names, amounts, strict=True)
    )


def divided(part: Part, groups: Groups, weights: F64, budget: int) -> I64:
    """[G] what each source is to give. Raises InputError when caps, floors and sizes do not allow it."""
    names, room = groups.names, groups.room
    least = [int(np.ceil(part.floors.get(n, 0.0) * budget - ROUNDING)) for n in names]
    most = [min(cap_of(part, n, budget), have) for n, have in zip(names, room, strict=True)]
    for name, low, high, have in zip(names, least, most, room, strict=True):
        if low > high:
            what = f"its cap allows {high:,}" if high < have else f"it has {have:,}"
            raise InputError(f"mix, part {part.name!r}: source {name!r} has a floor of {low:,} and {what}")
    if sum(least) > budget:
        raise InputError(f"mix, part {part.name!r}: the floors sum to {sum(least):,}, the budget is {budget:,}")
    reach = sum(high if weight > 0 else low for weight, low, high in zip(weights, least, most, strict=True))
    if reach < budget and by_ranking(part):
        # A cap limits a ranking that took nothing from the other sources: those share the rest by their room.
        extra = np.where(weights > 0, 0.0, np.asarray(room, np.float64))
        weights = weights + 1e-9 * extra / max(1.0, extra.sum())
        reach = sum(most)
    if reach < budget:
        raise InputError(
            f"mix, part {part.name!r}: caps and sizes leave {reach:,} of the {budget:,} that are asked for. Raise "
            "`caps` or `repeat`, weigh more sources, or lower the budget."
        )
    return budgets.bounded(weights.tolist(), budget, least, most)
