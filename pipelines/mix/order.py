"""The order in which a part of a mixture takes examples: by its target and method, or drawn from the seed.

Legend: N pool examples in the order of their ids; positions are places in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_text
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import Choice, rules
from gradsift.pipelines.recipe import Method, Part, Recipe, Select
from gradsift.pipelines.select.select import choose
from gradsift.scorers.filling import copies_for_tokens
from gradsift.scorers.ngrams import mix as mix_bits

TOKEN_TRIES = 6
I64 = NDArray[np.int64]
Ranked = tuple[I64, NDArray[np.float64], dict[int, Any]]  # positions in order, their scores, masks by position


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


class Ranks:
    """Ranked positions of a part, for the whole of it or for one source; a random part is ranked by its seed."""

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        part: Part,
        pool: Pool,
        open_: NDArray[np.bool_],
        evidence: Mapping[str, Evidence],
    ) -> None:
        self.store, self.part, self.pool = store, part, pool
        self.seed = recipe.seed
        self.open = open_.copy()
        self.evidence: Evidence | None = None
        if part.target is not None:
            self.evidence = evidence[part.name or ""]
            usable = np.isin(np.array(pool.data.example_ids), np.array(self.evidence.ids))
            self.open &= usable
            self.method = part.select or default_method(recipe)
        self._whole: Ranked | None = None

    @property
    def full(self) -> bool:
        """Whether one ranking serves every budget."""
        return self.evidence is None or rules()[self.method.parts()[1]].prefix

    def ranking(self) -> Ranked:
        """All open positions in order, their scores, and masks by position."""
        if self._whole is None:
            self._whole = self._random() if self.evidence is None else self._chosen(np.flatnonzero(self.open), None)
        return self._whole

    def _random(self) -> Ranked:
        positions = np.flatnonzero(self.open)
        salt = np.uint64(int(digest_text(f"{self.seed} {self.part.name}")[:16], 16))
        ids = self.pool.data.example_ids
        keys = mix_bits(np.array([int(ids[k][:16], 16) for k in positions], np.uint64) ^ salt)
        order = np.lexsort((positions, keys))
        return positions[order], np.full(len(positions), np.nan), {}

    def _chosen(self, among: I64, amount: int | None) -> Ranked:
        """The method's choice among positions: all of them in order, or enough for an amount of rows or tokens."""
        base = self.evidence
        assert base is not None  # noqa: S101 - only parts with a target come here
        ids = [self.pool.data.example_ids[k] for k in among.tolist()]
        part = base.pool
        if len(ids) != len(base.ids):
            part = examples.define_dataset(self.store, "pool", base.pool.name, dict.fromkeys(ids, ""))
        e = base if part is base.pool else base.over(part)
        size = len(ids) if amount is None else self._first_size(among, amount)
        for _ in range(TOKEN_TRIES):
            choice, scores = choose(e, Select(**self.method.model_dump(exclude_unset=True), examples=size))
            found, values, masks = _by_position(choice, scores, e, self.pool)
            if amount is None or size == len(ids) or self.pool.size(found) >= amount:
                break
            size = min(len(ids), int(size * amount / max(1, self.pool.size(found)) * 1.1) + 1)
        return found, values, masks

    def _first_size(self, among: I64, amount: int) -> int:
        if self.pool.lengths is None:
            return min(amount, len(among))
        # Some more than on average, so that there is a choice of lengths to close the last gap with.
        return min(len(among), int(1.2 * amount / max(1.0, float(self.pool.lengths[among].mean()))) + 20)

    def of_source(self, g: int, amount: int) -> Ranked:
        """What a source gives, in order: enough for the amount. A rule that plans for its size runs inside it."""
        if self.full:
            order, scores, masks = self.ranking()
            mine = self.pool.code[order] == g
            return order[mine], scores[mine], masks
        return self._chosen(np.flatnonzero(self.open & (self.pool.code == g)), amount)

    def natural(self, budget: int) -> Ranked:
        """What the method takes of the whole part when nothing else decides, in its order: not above the budget."""
        among = np.flatnonzero(self.open)
        order, scores, masks = self._chosen(among, min(budget, self.pool.size(among)))
        kept = np.arange(min(budget, len(order)))
        if self.pool.lengths is not None:
            kept = np.flatnonzero(copies_for_tokens(self.pool.lengths[order].tolist(), budget))
        return order[kept], scores[kept], masks


def default_method(recipe: Recipe) -> Method:
    """The method of parts that name none: that of the recipe's `select`, else LESS."""
    if recipe.selecting is None:
        return Method()
    return Method(**recipe.selecting.model_dump(include=set(Method.model_fields), exclude_unset=True))


def _by_position(choice: Choice, scores: NDArray[np.float64], e: Evidence, pool: Pool) -> Ranked:
    names = np.array(pool.data.example_ids)
    place = np.searchsorted(names, np.array(e.ids))
    masks = {int(place[k]): mask for k, mask in choice.masks.items()}
    return place[choice.order], scores[choice.order], masks
