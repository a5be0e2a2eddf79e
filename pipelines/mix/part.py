"""One part of a mixture: its budget divided among sources, within caps, floors and what there is.

Legend: G sources of the part; budgets are rows, or tokens of a budget in tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.mix.order import Pool, Ranked, Ranks
from gradsift.pipelines.mix.weights import Context, group_weights
from gradsift.pipelines.recipe import Part, Recipe
from gradsift.pipelines.select.select import refusals_of
from gradsift.scorers import budgets
from gradsift.scorers.filling import copies_for_examples, copies_for_tokens

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A line of the mixture's table: what a part asked of a source and what came out.

    `weight` is the share of the part that was asked for (None where the ranking decides), `requested` the budget that
    follows from it before caps, floors and what there is, `budget` after. Both are rows, or tokens of a token budget.
    """

    part: str
    source: str
    weight: float | None
    requested: int | None
    budget: int
    rows: int
    examples: int
    tokens: int | None
    share: float
    note: str


@dataclass
class Taken:
    """What has been chosen so far: positions in the pool, in order."""

    positions: list[I64] = field(default_factory=list)
    copies: list[I64] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    masks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    table: list[Share] = field(default_factory=list)


def fill_part(
    store: Store,
    recipe: Recipe,
    part: Part,
    budget: int,
    pool: Pool,
    free: NDArray[np.bool_],
    evidence: Mapping[str, Evidence],
    context: Context,
    taken: Taken,
) -> None:
    """Fill one part's budget from what is free, and note it in `taken` and `free`. Raises InputError naming the part,
    the source and the way out when it cannot be met."""
    open_ = free & _allowed(part, pool)
    if part.weights == "scaling_law":
        open_[context.held_out(part, pool.data)] = False
    ranks = Ranks(store, recipe, part, pool, open_, evidence)
    groups = [g for g in range(len(pool.names)) if (ranks.open & (pool.code == g)).any()]
    sizes = [pool.size(np.flatnonzero(ranks.open & (pool.code == g))) for g in groups]
    names = [pool.names[g] for g in groups]
    _check_names(part, names, pool)
    room = [size * part.repeat for size in sizes]
    if budget > sum(room):
        raise InputError(_too_large(part, budget, sum(room), pool))
    picked = ranks.natural(budget) if _by_ranking(part) else None
    if picked is not None:
        weights = np.array([pool.size(picked[0][pool.code[picked[0]] == g]) for g in groups], np.float64)
    else:
        members = [np.flatnonzero(ranks.open & (pool.code == g)) for g in groups]
        with refusals_of(f"mix, part {part.name!r}"):
            weights = group_weights(part, names, sizes, members, budget, pool.data, context)
    given = _group_budgets(part, names, weights, budget, room)
    wanted = (
        None
        if picked is not None
        else budgets.bounded(weights.tolist(), budget, [0] * len(names), [budget] * len(names))
    )
    if picked is not None and _within(part, names, weights, budget) and budget <= sum(sizes):
        given = weights.astype(np.int64)
        filled = [_of(picked, pool.code[picked[0]] == g) for g in groups]
    else:
        amounts = zip(groups, names, given.tolist(), strict=True)
        filled = [_fill(part, g, name, amount, ranks, pool) for g, name, amount in amounts]
        if pool.lengths is not None:
            _close(part, budget, filled, room, names, pool.lengths)
    for k, (name, source) in enumerate(zip(names, filled, strict=True)):
        kept = np.flatnonzero(source.copies)
        positions, copies = source.order[kept], source.copies[kept]
        free[positions] = False
        line = _line(part, name, k, weights, wanted, given, room, positions, copies, pool, budget)
        if line.rows or line.requested:
            taken.table.append(line)
    _add(part, filled, ranks, picked, taken)


def _add(part: Part, filled: Sequence["_Source"], ranks: Ranks, picked: Ranked | None, taken: Taken) -> None:
    """Note what a part takes, in the order of its ranking where there is one for all sources."""
    positions = np.concatenate([f.order for f in filled])
    copies = np.concatenate([f.copies for f in filled])
    scores = np.concatenate([f.scores for f in filled])
    order = np.arange(len(positions))
    if picked is not None or ranks.full:
        whole = picked[0] if picked is not None and np.isin(positions, picked[0]).all() else None
        if whole is None and ranks.full:
            whole = ranks.ranking()[0]
        if whole is not None:
            place = np.empty(len(ranks.open), np.int64)
            place[whole] = np.arange(len(whole))
            order = np.argsort(place[positions], kind="stable")
    order = order[copies[order] > 0]
    taken.positions.append(positions[order])
    taken.copies.append(copies[order])
    taken.scores.append(scores[order])
    taken.parts.append(part.name or "")
    for source in filled:
        taken.masks |= {at: source.masks[at] for at in positions[order].tolist() if at in source.masks}


def _within(part: Part, names: Sequence[str], taken: NDArray[np.float64], budget: int) -> bool:
    """Whether what the ranking takes of each source keeps caps and floors."""
    return all(
        part.floors.get(name, 0.0) * budget <= amount + 1e-9 and amount <= part.caps.get(name, 1.0) * budget + 1e-9
        for name, amount in zip(names, taken, strict=True)
    )


def _of(ranked: Ranked, mine: NDArray[np.bool_]) -> "_Source":
    order, scores, masks = ranked
    return _Source(order[mine], scores[mine], masks, np.ones(int(mine.sum()), np.int64))


@dataclass
class _Source:
    """What a source gives: positions in rank order, their scores and masks, and how often each is taken."""

    order: I64
    scores: NDArray[np.float64]
    masks: dict[int, NDArray[np.bool_]]
    copies: I64


def _fill(part: Part, g: int, name: str, amount: int, ranks: Ranks, pool: Pool) -> _Source:
    if not amount:
        return _Source(np.zeros(0, np.int64), np.zeros(0), {}, np.zeros(0, np.int64))
    order, scores, masks = ranks.of_source(g, amount)
    if pool.lengths is None:
        copies = copies_for_examples(len(order), amount)
    else:
        copies = copies_for_tokens(pool.lengths[order].tolist(), amount, part.repeat)
    if len(order) and int(copies.max()) > part.repeat:
        raise InputError(
            f"mix, part {part.name!r}: the method gives only {len(order):,} rows of source {name!r} and {amount:,} are "
            "asked for; loosen its options"
        )
    return _Source(order, scores, masks, copies)


def _close(
    part: Part, budget: int, filled: Sequence[_Source], room: Sequence[int], names: Sequence[str], lengths: I64
) -> None:
    """Let one source take the few tokens that lengths left over in all of them, where its own lengths allow it."""
    spent = [int((lengths[f.order] * f.copies).sum()) for f in filled]
    for k in sorted(range(len(filled)), key=lambda k: -room[k]):
        wish = spent[k] + budget - sum(spent)
        if wish > spent[k] and len(filled[k].order) and wish <= part.caps.get(names[k], 1.0) * budget:
            copies = copies_for_tokens(lengths[filled[k].order].tolist(), wish, part.repeat)
            got = int((lengths[filled[k].order] * copies).sum())
            if got > spent[k]:
                filled[k].copies, spent[k] = copies, got


def _allowed(part: Part, pool: Pool) -> NDArray[np.bool_]:
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


def _too_large(part: Part, budget: int, room: int, pool: Pool) -> str:
    unit = "rows" if pool.lengths is None else "tokens"
    copies = f" in {part.repeat} copies" if part.repeat > 1 else ""
    return (
        f"mix, part {part.name!r}: {budget:,} {unit} are asked for and there are {room:,}{copies}. Lower the budget or "
        "the part's share, add sources, or raise `repeat`."
    )


def _by_ranking(part: Part) -> bool:
    return part.weights == "ranking" or (part.weights is None and part.target is not None)


def _group_budgets(
    part: Part, names: Sequence[str], weights: NDArray[np.float64], budget: int, room: Sequence[int]
) -> I64:
    caps = [int(part.caps.get(n, 1.0) * budget + 1e-9) for n in names]
    least = [int(np.ceil(part.floors.get(n, 0.0) * budget - 1e-9)) for n in names]
    most = np.minimum(caps, room).tolist()
    for name, low, high, have in zip(names, least, most, room, strict=True):
        if low > high:
            what = f"its cap allows {high:,}" if high < have else f"it has {have:,}"
            raise InputError(f"mix, part {part.name!r}: source {name!r} has a floor of {low:,} and {what}")
    if sum(least) > budget:
        raise InputError(f"mix, part {part.name!r}: the floors sum to {sum(least):,}, the budget is {budget:,}")
    reach = sum(high if weight > 0 else low for weight, low, high in zip(weights, least, most, strict=True))
    if reach < budget and _by_ranking(part):
        # A cap bites a ranking that took nothing of the other sources: they share the rest by what they have.
        extra = np.where(weights > 0, 0.0, np.asarray(room, np.float64))
        weights = weights + 1e-9 * extra / max(1.0, extra.sum())
        reach = sum(most)
    if reach < budget:
        raise InputError(
            f"mix, part {part.name!r}: caps and sizes leave {reach:,} of the {budget:,} that are asked for. Raise "
            "`caps` "
            "or `repeat`, weigh more sources, or lower the budget."
        )
    return budgets.bounded(weights.tolist(), budget, least, most)


def _line(
    part: Part,
    name: str,
    k: int,
    weights: NDArray[np.float64],
    wanted: I64 | None,
    given: I64,
    room: Sequence[int],
    positions: I64,
    copies: I64,
    pool: Pool,
    budget: int,
) -> Share:
    requested = None if wanted is None else int(wanted[k])
    notes = []
    if requested is not None and given[k] < requested:
        at_room = "all there is" if given[k] == room[k] else "gives way to floors"
        notes.append("cap" if given[k] == int(part.caps.get(name, 1.0) * budget + 1e-9) else at_room)
    elif requested is not None and given[k] > requested:
        notes.append("floor" if name in part.floors else "takes what others cannot give")
    if len(copies) and int(copies.max()) > 1:
        notes.append(f"up to {int(copies.max())} copies")
    tokens = None if pool.lengths is None else int((pool.lengths[positions] * copies).sum())
    if tokens is not None and tokens != given[k]:
        notes.append(f"{tokens - int(given[k]):+d} tokens: examples are not cut")
    rows = int(copies.sum())
    weight = None if wanted is None else float(weights[k] / weights.sum())
    share = (rows if tokens is None else tokens) / max(1, budget)
    return Share(part.name or "", name, weight, requested, int(given[k]), rows, len(positions), tokens, share,
                 "; ".join(notes))  # fmt: skip
