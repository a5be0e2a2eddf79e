"""One part of a mixture: its sources filled from their rankings, and what came out.

Legend: G sources of the part; budgets are rows, or tokens of a budget in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Share
from gradsift.pipelines.mix.budget import Groups, allowed, by_ranking, cap_of, check_room, divided, groups_of, within
from gradsift.pipelines.mix.law import held_out
from gradsift.pipelines.mix.order import Masks, Mixer, PartRanking, Pool, Ranked
from gradsift.pipelines.mix.weights import group_weights
from gradsift.pipelines.recipe import Part
from gradsift.pipelines.select.select import refusals_of
from gradsift.scorers import budgets
from gradsift.scorers.filling import copies_for_examples, copies_for_tokens

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass
class Taken:
    """What is still free [N], and what has been chosen so far: positions in the pool, in order."""

    free: NDArray[np.bool_]
    positions: list[I64] = field(default_factory=list)
    copies: list[I64] = field(default_factory=list)
    scores: list[F64] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    masks: Masks = field(default_factory=dict)
    table: list[Share] = field(default_factory=list)


@dataclass
class _Filling:
    """What a source gives: positions in rank order, their scores and masks, and how often each is taken."""

    order: I64
    scores: F64
    masks: Masks
    copies: I64


@dataclass(frozen=True)
class _PartPlan:
    """[G] weights of a part's sources, what follows from them before caps, floors and what there is (None where the
    ranking decides), and after."""

    weights: F64
    requested: I64 | None
    given: I64


@dataclass(frozen=True)
class _FilledPart:
    """What each source of a part gives, by which plan, and what its ranking took of the whole (None where weights of
    sources decide)."""

    sources: Sequence[_Filling]
    plan: _PartPlan
    picked: Ranked | None

    @property
    def rows(self) -> int:
        """Rows, copies counted."""
        return sum(int(source.copies.sum()) for source in self.sources)


def fill_part(mixer: Mixer, part: Part, budget: int, taken: Taken) -> None:
    """Fill one part's budget from what is free, and note it in `taken`; a part with a least number of rows gets more
    until it has them. Raises InputError when that cannot be done, naming the part, the source and what to change."""
    pool = mixer.pool
    open_ = taken.free & allowed(part, pool)
    if part.weights == "scaling_law":
        open_[held_out(mixer.work, part, pool.data)] = False
    ranks = PartRanking(mixer, part, open_)
    groups = groups_of(part, ranks, pool)
    least, most = part.at_least or 0, sum(groups.room)
    filled, step = _filled_part(mixer, part, budget, ranks, groups), 1
    while filled.rows < least:
        if budget >= most:
            raise InputError(
                f"mix, part {part.name!r}: at least {least:,} rows are asked for and there are {filled.rows:,}. Lower "
                "`at_least`, add sources, raise `repeat`, or loosen the method's options."
            )
        # By the share that is missing; by twice as much each time at least, since the last few rows may be long ones.
        budget = min(max(budget + step, -(-budget * least // max(1, filled.rows))), most)
        step *= 2
        filled = _filled_part(mixer, part, budget, ranks, groups)
    for k, source in enumerate(filled.sources):
        taken.free[source.order[source.copies > 0]] = False
        line = _table_line(part, k, groups, filled.plan, source, pool, budget)
        if line.rows or line.requested:
            taken.table.append(line)
    _note_taken(part, filled.sources, ranks, filled.picked, taken)


def _filled_part(mixer: Mixer, part: Part, budget: int, ranks: PartRanking, groups: Groups) -> _FilledPart:
    pool = mixer.pool
    check_room(part, budget, groups, mixer)
    picked = ranks.of_whole_part(budget) if by_ranking(part) else None
    plan = _plan(mixer, part, groups, budget, picked)
    if picked is not None and within(part, groups.names, plan.weights, budget) and budget <= sum(groups.sizes):
        plan = _PartPlan(plan.weights, None, plan.weights.astype(np.int64))
        return _FilledPart([_taken_whole(picked, pool.code[picked.order] == g) for g in groups.codes], plan, picked)
    sources = _filled(part, groups, plan, ranks, pool)
    if pool.lengths is not None:
        _close_gap(part, budget, sources, groups, pool.lengths)
    return _FilledPart(sources, plan, picked)


def _plan(mixer: Mixer, part: Part, groups: Groups, budget: int, picked: Ranked | None) -> _PartPlan:
    if picked is not None:
        code = mixer.pool.code[picked.order]
        weights = np.array([mixer.pool.size(picked.order[code == g]) for g in groups.codes], np.float64)
        return _PartPlan(weights, None, divided(part, groups, weights, budget))
    with refusals_of(f"mix, part {part.name!r}"):
        weights = group_weights(mixer, part, groups, budget)
    count = len(groups.names)
    requested = budgets.bounded(weights.tolist(), budget, [0] * count, [budget] * count)
    return _PartPlan(weights, requested, divided(part, groups, weights, budget))


def _note_taken(
    part: Part, sources: Sequence[_Filling], ranks: PartRanking, picked: Ranked | None, taken: Taken
) -> None:
    """Note what a part takes, in the order of its ranking where there is one for all sources."""
    positions = np.concatenate([source.order for source in sources])
    copies = np.concatenate([source.copies for source in sources])
    scores = np.concatenate([source.scores for source in sources])
    order = np.arange(len(positions))
    if picked is not None or ranks.for_every_budget:
        whole = picked.order if picked is not None and np.isin(positions, picked.order).all() else None
        if whole is None and ranks.for_every_budget:
            whole = ranks.ranking().order
        if whole is not None:
            place = np.empty(len(ranks.open), np.int64)
            place[whole] = np.arange(len(whole))
            order = np.argsort(place[positions], kind="stable")
    order = order[copies[order] > 0]
    taken.positions.append(positions[order])
    taken.copies.append(copies[order])
    taken.scores.append(scores[order])
    taken.parts.append(part.name or "")
    for source in sources:
        taken.masks |= {at: source.masks[at] for at in positions[order].tolist() if at in source.masks}


def _taken_whole(ranked: Ranked, mine: NDArray[np.bool_]) -> _Filling:
    return _Filling(ranked.order[mine], ranked.scores[mine], ranked.masks, np.ones(int(mine.sum()), np.int64))


def _filled(part: Part, groups: Groups, plan: _PartPlan, ranks: PartRanking, pool: Pool) -> list[_Filling]:
    amounts = zip(groups.codes, groups.names, plan.given.tolist(), strict=True)
    return [_fill(part, g, name, amount, ranks, pool) for g, name, amount in amounts]


def _fill(part: Part, g: int, name: str, amount: int, ranks: PartRanking, pool: Pool) -> _Filling:
    if not amount:
        return _Filling(np.zeros(0, np.int64), np.zeros(0), {}, np.zeros(0, np.int64))
    ranked = ranks.of_source(g, amount)
    if pool.lengths is None:
        copies = copies_for_examples(len(ranked.order), amount)
    else:
        copies = copies_for_tokens(pool.lengths[ranked.order].tolist(), amount, part.repeat)
    if len(ranked.order) and int(copies.max()) > part.repeat:
        raise InputError(
            f"mix, part {part.name!r}: the method gives only {len(ranked.order):,} rows of source {name!r} and "
            f"{amount:,} are asked for; loosen its options"
        )
    return _Filling(ranked.order, ranked.scores, ranked.masks, copies)


def _close_gap(part: Part, budget: int, sources: Sequence[_Filling], groups: Groups, lengths: I64) -> None:
    """Let one source take the few tokens that lengths left over in all of them, where its own lengths allow it."""
    spent = [int((lengths[source.order] * source.copies).sum()) for source in sources]
    for k in sorted(range(len(sources)), key=lambda k: -groups.room[k]):
        wanted = spent[k] + budget - sum(spent)
        most = part.caps.get(groups.names[k], 1.0) * budget
        if wanted > spent[k] and len(sources[k].order) and wanted <= most:
            copies = copies_for_tokens(lengths[sources[k].order].tolist(), wanted, part.repeat)
            reached = int((lengths[sources[k].order] * copies).sum())
            if reached > spent[k]:
                sources[k].copies, spent[k] = copies, reached


def _table_line(
    part: Part, k: int, groups: Groups, plan: _PartPlan, source: _Filling, pool: Pool, budget: int
) -> Share:
    name, given = groups.names[k], int(plan.given[k])
    positions, copies = source.order[source.copies > 0], source.copies[source.copies > 0]
    requested = None if plan.requested is None else int(plan.requested[k])
    notes = []
    if requested is not None and given < requested:
        at_room = "all there is" if given == groups.room[k] else "gives way to floors"
        notes.append("cap" if given == cap_of(part, name, budget) else at_room)
    elif requested is not None and given > requested:
        notes.append("floor" if name in part.floors else "takes what others cannot give")
    if len(copies) and int(copies.max()) > 1:
        notes.append(f"up to {int(copies.max())} copies")
    tokens = None if pool.lengths is None else int((pool.lengths[positions] * copies).sum())
    if tokens is not None and tokens != given:
        notes.append(f"{tokens - given:+d} tokens: examples are not cut")
    rows = int(copies.sum())
    return Share(
        part=part.name or "",
        source=name,
        weight=None if requested is None else float(plan.weights[k] / plan.weights.sum()),
        requested=requested,
        budget=given,
        rows=rows,
        examples=len(positions),
        tokens=tokens,
        share=(rows if tokens is None else tokens) / max(1, budget),
        note="; ".join(notes),
    )
