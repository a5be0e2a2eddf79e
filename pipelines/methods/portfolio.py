"""The rule `portfolio`: of several methods the one whose choice trains a model best, found by short trainings.

    round r = 0, 1, …: every candidate that is left, and random, trained with 2^r seeds in all
    L_c = mean_s Σ_v w_v·loss_csv / Σ_v w_v;   the better half by L_c stays (rounded up; two after round 0), until one
    is left

(successive halving: Jamieson & Talwalkar 2016, arXiv 1502.07943, §3; seeds are what is halved over.) It stops before a
round that would cost more than is left of the FLOPs that it is allowed, and takes the best by then.

**Who is judged by what.** Most candidates look at the target's `val` rows to choose, so their loss on these very rows
says too little: a method that picks near-copies of them would win by that. The rows are therefore dealt into two halves
within subtasks; each half chooses once, and is judged on the other (two-fold cross-fitting), so that loss_csv is always
of a row that the choice never saw. The winner then chooses by all rows. A method that looks at no target chooses once.
Random rows are drawn anew for each seed. Test rows are never looked at.

Departures: halving starts with one seed and all rows, not with a share of the budget for each round; random is trained
in every round and never dropped, since the report compares with it. Legend: c candidates, s seeds, v the V target rows
with a label token, w their label tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gradsift.datastore.compared import Portfolio, Tried, Versus
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.findings import versus
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.measures import Trial, Trials
from gradsift.pipelines.methods.memory import PORTFOLIO
from gradsift.pipelines.methods.registry import Choice, Needs, Options, UnknownOption, methods, rule, rules
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.verdicts import Drawn, Losses, Pair, judge

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
By = Callable[[Evidence, str], tuple[Choice, F64]]
RANDOM = "random"
ENCODER = "embed"  # a candidate wherever an encoder is given
OF = ("less", "rds", "bm25", "tagcos", "fused")
ALLOWED = 16.0  # trainings of one arm, whose FLOPs are allowed where the recipe states none
SEED = 104_729  # added to the recipe's, so that trials share no seed with validation


def candidates(options: Options) -> list[str]:
    """The methods that options of the rule name. Raises UnknownOption for one that cannot be one."""
    of, known = list(options["of"]), methods()
    if not of or len(set(of)) < len(of):
        raise UnknownOption("option `of`: give names of methods, each once")
    for name in of:
        if name not in known:
            raise UnknownOption(f"option `of`: no method `{name}`; {suggestion(name, known, 'see `gradsift methods`')}")
        if name == RANDOM:
            raise UnknownOption("option `of`: `random` is what every candidate is compared with, and no candidate")
        if rules()[known[name].rule].between is not None:
            raise UnknownOption(f"option `of`: `{name}` chooses between methods itself")
        if "training" in known[name].needs:
            raise UnknownOption(
                f"option `of`: `{name}` trains a model on all `val` rows, by which it would then be judged; leave it "
                "out, or name it as `select.method`"
            )
    return of


def with_encoder(of: Sequence[str], encoder: bool) -> list[str]:
    """The candidates of a run: those that `of` names, and `embed` where an encoder is given."""
    return [*of, *([ENCODER] if encoder and ENCODER not in of else [])]


def most_trainings(names: Sequence[str]) -> int:
    """How many trainings all rounds take at most."""
    sides = sorted((1 + ("target" in methods()[name].needs) for name in names), reverse=True)
    left, number, total = len(names), 1, 0
    while number == 1 or left > 1:
        total += _seeds(number, new=True) * (sum(sides[:left]) + 1)
        left, number = _staying(left, number), number + 1
    return total


def _seeds(number: int, *, new: bool = False) -> int:
    """Seeds that a candidate of a round has in all, or has new."""
    return 1 << max(0, number - (2 if new else 1))


def _staying(left: int, number: int) -> int:
    """How many of a round stay: the better half, and two after the first round, which has one seed."""
    return max(-(-left // 2), min(left, 2) if number == 1 else 1)


def _needs(options: Options) -> Needs:
    own: Needs = frozenset({"target", "training"})
    return own.union(*(methods()[name].needs for name in candidates(options)))


@dataclass(frozen=True)
class _Rows:
    """What was chosen: ids, and masks of label tokens by id."""

    ids: tuple[str, ...]
    masks: Mapping[str, list[bool]]


@dataclass
class _Bench:
    """Where candidates are tried: [V] which half of the target each row is in, their weights, what was chosen by each
    half, and the losses so far, [V] by candidate and seed (NaN where one diverged)."""

    e: Evidence
    by: By
    trials: Trials
    epochs: int
    half: I64
    weights: F64
    sides: tuple[Evidence, Evidence]
    chosen: dict[str, tuple[_Rows, _Rows]] = field(default_factory=dict)
    losses: dict[str, dict[int, F64]] = field(default_factory=dict)
    trained: set[Trial] = field(default_factory=set)
    spent: float = 0.0

    def rows(self, name: str, seed: int) -> tuple[_Rows, _Rows]:
        """What a candidate chooses by each half; random rows are the seed's."""
        if name == RANDOM:
            drawn = _rows(self.e.towards(self.e.target, seed), self.by, name)
            return drawn, drawn
        if name not in self.chosen:
            if "target" in methods()[name].needs:
                one, other = (_rows(side, self.by, name) for side in self.sides)
                self.chosen[name] = one, other
            else:
                self.chosen[name] = (_rows(self.e, self.by, name),) * 2
        return self.chosen[name]

    def asked(self, name: str, seed: int) -> tuple[Trial, Trial]:
        """The trainings on what is chosen by the first half and by the second; one where these are the same rows."""
        one, other = (Trial(name, side.ids, seed, self.epochs, side.masks) for side in self.rows(name, seed))
        return one, other

    def whole(self, name: str) -> float:
        """FLOPs of a whole training on a candidate's rows."""
        return self.trials.flops(replace(self.asked(name, self.e.seed + SEED)[0], epochs=self.trials.epochs))

    def mean(self, name: str) -> float:
        """The mean loss of a candidate over its seeds; infinite where one diverged."""
        found = [float(np.average(of_seed, weights=self.weights)) for of_seed in self.losses[name].values()]
        return float(np.mean(found)) if np.isfinite(found).all() else np.inf


@rule("portfolio", _needs, memory=PORTFOLIO, between=candidates)
def portfolio(
    e: Evidence,
    by: By,
    *,
    of: Sequence[str] = OF,
    epochs: Annotated[int, Field(gt=0)] = 1,
    flops: Annotated[float, Field(gt=0)] | None = None,
) -> Choice:
    """What the best of the methods `of` chooses (and of `embed`, where an encoder is given), by trainings of `epochs`
    that cost at most `flops`; without that, as many as `ALLOWED` whole trainings on what the candidates choose.

    Cost: of each candidate three choices (two halves of the target, one for its random reference), the trainings.
    Raises Unsuitable for a target of fewer than two rows and where even the first round is not allowed.
    """
    names = with_encoder(of, e.encoder is not None)
    bench = _bench(e, by, epochs)
    allowed = flops if flops is not None else ALLOWED * float(np.mean([bench.whole(name) for name in names]))
    left, rounds = names, list[Tried]()
    while not rounds or len(left) > 1:
        number = rounds[-1].round + 1 if rounds else 1
        asked = _new(bench, left, _seeds(number))
        if bench.spent + (price := _price(bench, asked)) > allowed:
            if rounds:
                break
            raise Unsuitable(_too_little(price, allowed, names))
        _train(bench, asked, f"{e.target.name}, round {number} of trials", price)
        order = sorted(left, key=lambda name: (bench.mean(name), names.index(name)))
        left = order[: _staying(len(order), number)]
        rounds += [_tried(bench, number, name, name in left) for name in [*order, RANDOM]]
    order = _standing(rounds)
    choice, values = by(e, order[0])
    told = Portfolio(
        won=order[0],
        runner_up=order[1] if len(order) > 1 else "",
        allowed=allowed,
        spent=bench.spent,
        trainings=len(bench.trained),
        epochs=epochs,
        tokens=sum(bench.trials.tokens(trial) for trial in bench.trained),
        rounds=rounds,
        versus=_compared(bench, order),
    )
    return replace(choice, scores=values, portfolio=told)


def _bench(e: Evidence, by: By, epochs: int) -> _Bench:
    trials = e.trials()
    ids, tokens = trials.rows()
    if len(ids) < 2:
        raise Unsuitable(
            f"target {e.target.name!r} has {len(ids)} rows with a label token; it takes two or more, to choose by some "
            "and judge by the others. Add `val` rows, or name a method"
        )
    half = halves(e.target, ids, e.seed)
    sides = [
        e.towards(_part(e.target, [i for i, k in zip(ids, half, strict=True) if k == side]), e.seed) for side in (0, 1)
    ]
    return _Bench(e, by, trials, epochs, half, tokens.astype(np.float64), (sides[0], sides[1]))


def halves(target: Dataset, ids: Sequence[str], seed: int) -> I64:
    """[V] 0 or 1 for each of a target's rows: dealt in turns within its subtasks, in an order that the seed draws, so
    that the halves differ by one row at most, in all and in each subtask."""
    subtask = dict(zip(target.example_ids, target.subtasks, strict=True))
    drawn = np.random.default_rng([seed, 3]).permutation(len(ids))
    place = np.empty(len(ids), np.int64)
    place[sorted(range(len(ids)), key=lambda k: (subtask[ids[k]], drawn[k]))] = np.arange(len(ids))
    return place % 2


def _part(target: Dataset, ids: Sequence[str]) -> Dataset:
    """A part of a target; it is not recorded."""
    subtask = dict(zip(target.example_ids, target.subtasks, strict=True))
    digest = digest_ids(f"{i}\t{subtask[i]}" for i in ids)
    return replace(target, digest=digest, example_ids=list(ids), subtasks=[subtask[i] for i in ids])


def _rows(e: Evidence, by: By, name: str) -> _Rows:
    choice, _ = by(e, name)
    masks = {e.ids[k]: mask.tolist() for k, mask in choice.masks.items()}
    return _Rows(tuple(e.ids[int(k)] for k in choice.order), masks)


def _new(bench: _Bench, names: Sequence[str], seeds: int) -> dict[tuple[str, int], tuple[Trial, Trial]]:
    """Trainings of candidates and of random that are missing of so many seeds."""
    first = bench.e.seed + SEED
    return {
        (name, seed): bench.asked(name, seed)
        for name in (*names, RANDOM)
        for seed in range(first, first + seeds)
        if seed not in bench.losses.get(name, {})
    }


def _price(bench: _Bench, asked: Mapping[tuple[str, int], tuple[Trial, Trial]]) -> float:
    return sum(bench.trials.flops(trial) for trial in _distinct(asked))


def _distinct(asked: Mapping[tuple[str, int], tuple[Trial, Trial]]) -> list[Trial]:
    """Each training that is asked for, once."""
    return list(dict.fromkeys(trial for pair in asked.values() for trial in pair))


def _train(bench: _Bench, asked: Mapping[tuple[str, int], tuple[Trial, Trial]], label: str, price: float) -> None:
    trials = _distinct(asked)
    found = dict(zip(trials, bench.trials.losses(label, trials), strict=True))
    for (name, seed), (one, other) in asked.items():
        of_others = np.where(bench.half == 1, found[one], found[other])  # each half is judged on the other
        bench.losses.setdefault(name, {})[seed] = of_others
    bench.trained.update(trials)
    bench.spent += price


def _tried(bench: _Bench, number: int, name: str, stayed: bool) -> Tried:
    loss = bench.mean(name)
    return Tried(number, name, len(bench.losses[name]), loss if np.isfinite(loss) else None, stayed or name == RANDOM)


def _standing(rounds: Sequence[Tried]) -> list[str]:
    """Candidates from the one that won to the one that left first: of each its last round, and its place in that."""
    last = {tried.method: (-tried.round, place) for place, tried in enumerate(rounds) if tried.method != RANDOM}
    return sorted(last, key=lambda name: last[name])


def _compared(bench: _Bench, order: Sequence[str]) -> dict[str, Versus]:
    """The winner against the others and `random`. All pairs are corrected together: which of them is looked at was
    decided by the same figures."""
    of = {name: _losses(name, bench.losses[name]) for name in (*order, RANDOM)}
    of = {name: losses for name, losses in of.items() if losses.seeds}
    like = of.get(RANDOM) if RANDOM in of and len(of[RANDOM].seeds) > 1 else None
    named = [pair for pair in combinations(of, 2) if set(of[pair[0]].seeds) & set(of[pair[1]].seeds)]
    pairs = [
        Pair(of[one], of[other], bench.weights, like, like if other != RANDOM else None, first=other == RANDOM)
        for one, other in named
    ]
    found = zip(named, judge(pairs), strict=True)
    return {other: versus(finding) for (one, other), finding in found if one == order[0]}


def _losses(name: str, by_seed: Mapping[int, F64]) -> Losses:
    good = {seed: values for seed, values in by_seed.items() if np.isfinite(values).all()}
    drawn: Drawn = "anew" if name == RANDOM else "once"
    return Losses(np.array(list(good.values())), list(good), drawn, len(by_seed) - len(good))


def _too_little(price: float, allowed: float, names: Sequence[str]) -> str:
    return (
        f"one training of each of {', '.join(names)} and of random rows takes {price:.3g} FLOPs, and {allowed:.3g} are "
        "allowed; raise the option `flops`, or name fewer methods in `of`"
    )
