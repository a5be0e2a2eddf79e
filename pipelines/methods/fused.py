"""The score `fused`: members' scores of one target as ranks, added up (scorers/fusion.py).

A member is a method that chooses by an order of scores, or a score. Of several columns (subtasks, queries) an example's
best counts, so that RDS+ is a member by its best query. What members look at comes from the same pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.methods import memory
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.memory import Memory, Sizes
from gradsift.pipelines.methods.registry import (
    Needs,
    Options,
    UnknownOption,
    checked_options,
    memory_of_part,
    methods,
    needs_of,
    rules,
    score,
    scored,
    scores,
    split_options,
)
from gradsift.pipelines.methods.rules import best
from gradsift.scorers import fusion

F64 = NDArray[np.float64]
DEFAULT = ("less", "rds")
NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Member:
    """A score with its options, how its columns become one number, and its weight."""

    name: str
    weight: float
    score: str
    options: Options
    reduce: Literal["max", "mean"] = "max"
    lowest: bool = False

    def values(self, e: Evidence) -> F64:
        """[N] where higher is better."""
        found = scored(e, self.name, self.score, self.options)
        one = found.mean(axis=1) if self.reduce == "mean" and found.ndim == 2 else found
        return best(one, self.lowest)


def members(options: Options) -> list[Member]:
    """The members that options of `fused` name, sorted. Raises UnknownOption for one that is not there or gives no
    order of scores, and for weights and options of none of them."""
    of, weights, given = options["of"], options["weights"], options["member_options"]
    if not of or len(set(of)) < len(of):
        raise UnknownOption("option `of`: give names of methods or scores, each once")
    for option, named in (("weights", weights), ("member_options", given)):
        if strange := sorted(set(named) - set(of)):
            raise UnknownOption(f"option `{option}`: `{strange[0]}` is no member; `of` has {', '.join(of)}")
    return [_member(name, float(weights.get(name, 1.0)), given.get(name, {})) for name in sorted(of)]


def _member(name: str, weight: float, given: Options) -> Member:
    known = methods()
    if name in known:
        score, rule, options = known[name].score, known[name].rule, {**known[name].options, **given}
    elif name in scores():
        score, rule, options = name, "top_k", dict(given)
    else:
        hint = suggestion(name, [*known, *scores()], f"known: {', '.join(known)}")
        raise UnknownOption(f"option `of`: no method or score `{name}`; {hint}")
    if score in ("none", "fused") or not rules()[rule].prefix:
        raise UnknownOption(f"option `of`: `{name}` chooses otherwise than by an order of scores and cannot be fused")
    of_score, of_rule = split_options(score, rule, checked_options(score, rule, options))
    ordered = {option: of_rule[option] for option in ("reduce", "lowest") if option in of_rule}
    return Member(name, weight, score, of_score, **ordered)


def _needs(options: Options) -> Needs:
    return frozenset().union(*(needs_of(one.score, "top_k", one.options) for one in members(options)))


def _bytes(s: Sizes, options: Options) -> float:
    return memory.numbers(s, 6) + sum(memory_of_part(scores()[one.score], one.options, s) for one in members(options))


def _names(options: Options) -> Iterator[str]:
    for one in members(options):
        yield from (one.name, one.score)


Weight = Annotated[float, Field(gt=0)]


@score("fused", _needs, memory=Memory(_bytes, "48·N, and what its members hold", "fewer members"), made_of=_names)
def fused(
    e: Evidence,
    *,
    of: Sequence[str] = DEFAULT,
    weights: Mapping[str, Weight] = NONE,
    k: Annotated[int, Field(ge=0)] = fusion.K,
    member_options: Mapping[str, dict[str, Any]] = NONE,
) -> F64:
    """Reciprocal ranks by the methods or scores in `of`, added up: weight/(k + rank), a weight 1 where none is given.
    `member_options` are {member: {option: value}}."""
    chosen = members({"of": of, "weights": weights, "member_options": member_options})
    return fusion.reciprocal_ranks(((one.name, one.weight, one.values(e)) for one in chosen), k)
