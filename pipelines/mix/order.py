"""The order in which a part of a mixture takes examples: by its target and method, or drawn from the seed.

Legend: N pool examples in the order of their ids; positions are places in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_text
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import Choice, rules
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Mix, Part, Select
from gradsift.pipelines.select.select import choose, sized_for_tokens
from gradsift.scorers.filling import copies_for_tokens
from gradsift.scorers.ngrams import mix as mix_bits

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Masks = dict[int, NDArray[np.bool_]]  # of label tokens, by position


@dataclass(frozen=True)
class Ranked:
    """Positions in order, their scores, and masks of label tokens by position."""

    order: I64
    scores: F64
    masks: Masks


@dataclass(frozen=True)
class Pool:
    """The pool as arrays, in the order of its ids: source codes, and lengths where the budget is in tokens."""

    data: Dataset
    names: list[str]
    code: I64
    lengths: I64 | None

    def size(self, positions: I64) -> int:
        """Rows, or tokens of a budget in tokens."""
        return len(positions) if self.lengths is None else int(self.lengths[positions].sum())


@dataclass(frozen=True)
class Mixer:
    """What all parts of a mixture look at: the pool, what is known for each part with a target (by the part's name),
    and what is known of the pool by its gradient rows (None without)."""

    work: Work
    mix: Mix
    pool: Pool
    evidence: Mapping[str, Evidence]
    rows: Evidence | None


class PartRanking:
    """Ranked positions of a part, for the whole of it or for one source; a random part is ranked by its seed."""

    def __init__(self, mixer: Mixer, part: Part, open_: NDArray[np.bool_]) -> None:
        self.work, self.part, self.pool = mixer.work, part, mixer.pool
        self.open = open_.copy()
        self.evidence: Evidence | None = None
        if part.target is not None:
            self.evidence = mixer.evidence[part.name or ""]
            usable = np.isin(np.array(self.pool.data.example_ids), np.array(self.evidence.ids))
            self.open &= usable
            self.method = mixer.work.recipe.method_of(part)
        self._whole: Ranked | None = None

    @property
    def for_every_budget(self) -> bool:
        """Whether one ranking serves every budget."""
        return self.evidence is None or rules()[self.method.parts()[1]].prefix

    def ranking(self) -> Ranked:
        """All open positions in order, their scores, and masks by position."""
        if self._whole is None:
            self._whole = self._random() if self.evidence is None else self._chosen(np.flatnonzero(self.open), None)
        return self._whole

    def _random(self) -> Ranked:
        positions = np.flatnonzero(self.open)
        salt = np.uint64(int(digest_text(f"{self.work.recipe.seed} {self.part.name}")[:16], 16))
        ids = self.pool.data.example_ids
        keys = mix_bits(np.array([int(ids[k][:16], 16) for k in positions], np.uint64) ^ salt)
        order = np.lexsort((positions, keys))
        return Ranked(positions[order], np.full(len(positions), np.nan), {})

    def _chosen(self, among: I64, amount: int | None) -> Ranked:
        """The method's choice among positions: all of them in order, or enough for an amount of rows or tokens."""
        of_pool = self.evidence
        assert of_pool is not None  # noqa: S101 - only parts with a target come here
        ids = [self.pool.data.example_ids[k] for k in among.tolist()]
        e = of_pool
        if len(ids) != len(of_pool.ids):
            members = dict.fromkeys(ids, "")
            lane = f"part {self.part.name}"
            e = of_pool.over(examples.define_dataset(self.work.store, "pool", of_pool.pool.name, members, lane))

        def take(size: int) -> Ranked:
            select = Select(**self.method.model_dump(exclude_unset=True), examples=size)
            return _by_position(*choose(e, select), e, self.pool)

        try:
            if amount is None:
                return take(len(ids))
            first = self._first_size(among, amount)
            return sized_for_tokens(
                take, lambda ranked: self.pool.size(ranked.order), first, len(ids), amount, reach=True
            )
        finally:
            e.let_rows_go()  # each choice may take the whole of `memory`

    def _first_size(self, among: I64, amount: int) -> int:
        if self.pool.lengths is None:
            return min(amount, len(among))
        # Some more than on average, so that there is a choice of lengths to close the last gap with.
        return min(len(among), int(1.2 * amount / max(1.0, float(self.pool.lengths[among].mean()))) + 20)

    def of_source(self, g: int, amount: int) -> Ranked:
        """What a source gives, in order: enough for the amount. A rule that plans for its size sees it alone."""
        if self.for_every_budget:
            ranked = self.ranking()
            of_source = self.pool.code[ranked.order] == g
            return Ranked(ranked.order[of_source], ranked.scores[of_source], ranked.masks)
        return self._chosen(np.flatnonzero(self.open & (self.pool.code == g)), amount)

    def of_whole_part(self, budget: int) -> Ranked:
        """What the method takes of the whole part when nothing else decides, in its order: not above the budget."""
        among = np.flatnonzero(self.open)
        ranked = self._chosen(among, min(budget, self.pool.size(among)))
        kept = np.arange(min(budget, len(ranked.order)))
        if self.pool.lengths is not None:
            kept = np.flatnonzero(copies_for_tokens(self.pool.lengths[ranked.order].tolist(), budget))
        return Ranked(ranked.order[kept], ranked.scores[kept], ranked.masks)


def _by_position(choice: Choice, scores: F64, e: Evidence, pool: Pool) -> Ranked:
    place = np.searchsorted(np.array(pool.data.example_ids), np.array(e.ids))
    masks = {int(place[k]): mask for k, mask in choice.masks.items()}
    return Ranked(place[choice.order], scores[choice.order], masks)
