"""Stage: gradient rows of those examples that may be chosen, where rows of all would cost more than they tell.

1. Landmarks, drawn at random, get rows at the checkpoint that weighs most. Their scores for every target teach a
   prediction from words, source and lengths (`scorers/predict.py`).
2. In rounds, the rows that are most likely to be among the best, for what they cost in tokens, get rows at that
   checkpoint, and the prediction is learnt anew: until so few of the best are expected among the others that the
   overlap is as asked for, or `most` of the tokens are spent.
3. The best by that checkpoint, for each target some times its budget, get rows at the others.

Rows lie in the spaces of full ones: a later run of the whole pool computes the rest. What is looked at follows from
the recipe, the pool and the rows of what was looked at before, never from other rows of the store; so a run that is
interrupted looks at the same again, and finds its rows computed.
Legend: N usable examples, O outputs (one for each target, or for each of its columns where they take turns).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import blocks, examples
from gradsift.datastore.cascades import CascadeReport
from gradsift.datastore.chats import Messages
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_text
from gradsift.datastore.runs import SpaceRows
from gradsift.pipelines.features.gather import Material, Shortlist
from gradsift.pipelines.features.gradients import checkpoint_rows
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.model.lengths import lengths
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.progress import Step
from gradsift.pipelines.recipe import Cascade
from gradsift.scorers import predict
from gradsift.scorers.ngrams import mix
from gradsift.scorers.ranking import within_tokens
from gradsift.scorers.rows import Rows, block_rows
from gradsift.scorers.word_rows import rarity, word_row

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
WORDS = 256  # dims of the words of what is asked, and of those of the answers
SOURCES = 64  # dims of the source's name
FEWEST = 32  # landmarks
LANE = "cascade"
CHANCE_DECIMALS = 6  # finer differences of chances are float rounding; ties go to the smaller id


@dataclass(frozen=True)
class Cascaded:
    """The material with its shortlist, the rows that there are, ids of the landmarks, and the report."""

    material: Material
    rows: Sequence[SpaceRows]
    landmarks: Sequence[str]
    report: CascadeReport


@dataclass(frozen=True)
class _Pool:
    """Usable examples in the order of their ids: [N] ids, tokens and label tokens, [N, D] features from words; and the
    `others`, which have no label."""

    ids: Sequence[str]
    tokens: I64
    labels: I64
    features: Rows
    others: Sequence[str]


@dataclass
class _Seen:
    """What was looked at, in that order: positions, and [n, O] scores. The first `landmarks` were drawn at random.
    Examples without a finite gradient are in `looked` alone."""

    looked: NDArray[np.bool_]
    positions: list[int] = field(default_factory=list)
    scores: list[F64] = field(default_factory=list)
    landmarks: int = 0
    computed: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows, by role and name of their dataset
    rounds: int = 0


@dataclass(frozen=True)
class _Guess:
    """What a prediction says: [N] chances to be among the best of any target that is not done, [O] how many of the best
    were seen and how many more are expected, how many are wanted of each, and the landmarks' explained variance."""

    chance: F64
    found: I64
    missed: F64
    wanted: int
    explained: F64


class _Search:
    """One cascade at work."""

    def __init__(self, work: Work, material: Material, settings: Cascade, scout: Checkpoint) -> None:
        self.work, self.material, self.settings, self.scout = work, material, settings, scout
        self.score, self.rule, self.options = work.recipe.select.parts()
        self.owners: list[str] = []  # [O] targets
        self.pool = _usable(work, material.pool, settings)
        self.seen = _Seen(np.zeros(len(self.pool.ids), bool))

    def look(self, positions: I64, beside: Sequence[str] = ()) -> None:
        """Have rows of these, and note their scores. With a row that is there already, so that a round all of whose
        examples have no finite gradient is a round like others."""
        ids = [self.pool.ids[k] for k in positions]
        part = self.dataset([*ids, *beside, *(self.pool.ids[k] for k in self.seen.positions[:1])])
        pair, rows = checkpoint_rows(self.work, replace(self.material, pool=part), self.scout)
        self.seen.computed.update({(row.role, row.dataset): row.computed for row in rows})
        names, scores = self.scored(part, [pair])
        of_name = dict(zip(names, scores, strict=True))
        with_row = [k for k in positions.tolist() if self.pool.ids[k] in of_name]
        self.seen.looked[positions] = True
        self.seen.positions += with_row
        self.seen.scores += [of_name[self.pool.ids[k]] for k in with_row]

    def dataset(self, ids: Sequence[str]) -> Dataset:
        """A part of the pool, as the catalog knows it."""
        return examples.define_dataset(self.work.store, "pool", self.material.pool.name, dict.fromkeys(ids, ""), LANE)

    def scored(self, part: Dataset, pairs: Sequence[SpacePair]) -> tuple[list[str], F64]:
        """(ids with a row in all of these spaces, sorted; [n, O] their scores, as the method has them)."""
        per, renormalise = self.options.get("per", "subtask"), self.options.get("renorm_subtask_mean", False)
        columns, owners, ids = [], [], []
        for name, target in self.material.targets.items():
            e = Evidence(self.work.store, part, target, pairs, memory=self.work.recipe.memory)
            values = e.similarity("gradients", per, renormalise)
            if self.rule == "top_k":
                mean = self.options.get("reduce", "max") == "mean"
                values = (values.mean(axis=1) if mean else values.max(axis=1))[:, None]
            columns.append(values)
            owners += [name] * values.shape[1]
            ids = e.ids
        self.owners = owners
        return ids, np.concatenate(columns, axis=1)

    def guess(self) -> _Guess:
        """Predict all that was not looked at."""
        seen, positions = self.seen, np.array(self.seen.positions, np.int64)
        known, count = np.stack(seen.scores), len(self.pool.ids)
        mean, deviation = np.full((count, known.shape[1]), -np.inf), np.empty(count)
        mean[positions] = known
        missed, chance = np.zeros(known.shape[1]), np.zeros(mean.shape, np.float32)
        if seen.landmarks < predict.FEWEST:  # of a pool as small, which was looked at wholly: see `_begun`
            wanted = self.wanted(mean)
            return _Guess(chance.sum(axis=1), np.full(len(missed), min(wanted, len(known))), missed, wanted, missed)
        fitted = predict.fit(self.pool.features.read(positions), known, seen.landmarks)
        for part, rows in self.pool.features.blocks():
            mean[part], deviation[part] = fitted.predict(rows)
        mean[seen.looked] = -np.inf  # also of those without a row
        mean[positions] = known
        wanted = self.wanted(mean)
        limit = np.array([predict.kth_best(column, wanted) for column in mean.T])
        found = (known >= limit).sum(axis=0)
        for start in range(0, count, predict.CENTRES):
            part = slice(start, start + predict.CENTRES)
            unseen = np.flatnonzero(~seen.looked[part])
            of_part = fitted.above(limit, mean[part][unseen], deviation[part][unseen])
            chance[start + unseen] = np.round(of_part, CHANCE_DECIMALS)
            missed += of_part.sum(axis=0)
        open_ = np.array([share < self.settings.overlap for share in _by_output(self.owners, found, missed)])
        return _Guess(chance[:, open_].sum(axis=1, dtype=np.float64), found, missed, wanted, fitted.explained)

    def wanted(self, scores: F64) -> int:
        """How many of the best are wanted of each output, by the [N, O] scores that are known or predicted: the budget,
        also where columns take turns. What others took is passed over, so a column's turn may come that far down."""
        select = self.work.recipe.select
        if select.label_tokens is not None:
            size = 1
            for name in dict.fromkeys(self.owners):
                mine = np.array([owner == name for owner in self.owners])
                order = np.argsort(-scores[:, mine].max(axis=1), kind="stable")
                size = max(size, len(within_tokens(order, self.pool.labels.tolist(), select.label_tokens)))
        else:
            size = select.examples or max(1, int((select.fraction or 0.0) * len(self.pool.ids)))
        return min(max(size, select.at_least or 0), len(self.pool.ids))

    def next(self, guess: _Guess) -> I64:
        """Positions to look at: the most likely for their tokens, of a step's tokens. None when it is enough."""
        shares = _by_output(self.owners, guess.found, guess.missed)
        looked = self.seen.looked
        enough = len(self.seen.positions) >= guess.wanted
        total, spent = int(self.pool.tokens.sum()), int(self.pool.tokens[looked].sum())
        left = self.settings.most * total - spent
        if looked.all() or (enough and (min(shares) >= self.settings.overlap or left <= 0)):
            return np.zeros(0, np.int64)
        worth = np.where(looked, -1.0, guess.chance / self.pool.tokens)
        order = np.argsort(-worth, kind="stable")[: int((~looked).sum())]
        room = self.settings.step * total
        return order[
            : int(np.searchsorted(np.cumsum(self.pool.tokens[order]), min(room, left) if enough else room)) + 1
        ]

    def shortlist(self, wanted: int) -> list[int]:
        """Places among what was seen of the best of each output."""
        known = np.stack(self.seen.scores)
        places: set[int] = set()
        for column in known.T:
            order = np.lexsort((np.array(self.seen.positions), -column))
            places |= set(order[: ceil(self.settings.shortlist * wanted)].tolist())
        return sorted(places)


def cascade(work: Work, material: Material, points: Sequence[Checkpoint], stage: Step) -> Cascaded:
    """Rows of a part of the pool, at the checkpoints of a run; `stage` does each round, which has a name."""
    settings = work.recipe.cascade
    assert settings is not None  # noqa: S101 - only recipes with a cascade come here
    scout = max(points, key=lambda point: (point.mean_lr, -point.ordinal))
    search: _Search = stage("gradients-landmarks", lambda: _begun(work, material, settings, scout))
    while True:
        guess = search.guess()
        positions = search.next(guess)
        if not len(positions):
            break
        search.seen.rounds += 1
        stage(f"gradients-round-{search.seen.rounds}", lambda: search.look(positions))
    return _ended(search, guess, points, stage)


def _begun(work: Work, material: Material, settings: Cascade, scout: Checkpoint) -> _Search:
    search = _Search(work, material, settings, scout)
    search.look(_landmarks(search.pool.ids, work.recipe.seed, settings), search.pool.others)
    drawn, search.seen.landmarks = int(search.seen.looked.sum()), len(search.seen.positions)
    if search.seen.landmarks < predict.FEWEST and not search.seen.looked.all():
        raise InputError(
            f"features.cascade: {search.seen.landmarks} of {drawn} landmarks have a finite gradient, and scores are "
            f"predicted from at least {predict.FEWEST}; raise `features.cascade.landmarks`, or leave the cascade "
            "out and see in the report which rows have none"
        )
    return search


def _ended(search: _Search, guess: _Guess, points: Sequence[Checkpoint], stage: Step) -> Cascaded:
    """Rows at the other checkpoints, and what there is to say."""
    work, material, seen, pool = search.work, search.material, search.seen, search.pool
    places = search.shortlist(guess.wanted)
    listed = np.array(seen.positions)[places]
    short = search.dataset([pool.ids[k] for k in listed.tolist()])
    looked = search.dataset([*(pool.ids[k] for k in np.flatnonzero(seen.looked).tolist()), *pool.others])
    pairs, rows = [], []
    for point in points:
        part = looked if point is search.scout else short
        pair, made = stage(
            f"gradients-{point.ordinal}", partial(checkpoint_rows, work, replace(material, pool=part), point)
        )
        if point is search.scout:
            made = [replace(one, computed=seen.computed[one.role, one.dataset]) for one in made]
        pairs.append(pair)
        rows += made
    missed = guess.missed + _lost_by_shortlist(search, short, pairs, places, guess.wanted)
    overlap = _by_target(search.owners, guess.found, missed)
    total, spent = int(pool.tokens.sum()), int(pool.tokens[seen.looked].sum())
    report = CascadeReport(
        checkpoint=search.scout.ordinal,
        usable=len(pool.ids),
        tokens=total,
        landmarks=seen.landmarks,
        rounds=seen.rounds,
        seen=len(seen.positions),
        shortlist=len(places),
        price=(spent + int(pool.tokens[listed].sum()) * (len(points) - 1)) / (total * len(points)),
        overlap={name: round(share, 4) for name, share in overlap.items()},
        explained={
            name: round(
                float(np.mean([e for e, owner in zip(guess.explained, search.owners, strict=True) if owner == name])), 4
            )
            for name in overlap
        },
        reached=min(overlap.values()) >= search.settings.overlap,
        dataset_id=short.dataset_id,
    )
    drawn = [pool.ids[k] for k in seen.positions[: seen.landmarks]]
    found = replace(material, pairs=tuple(pairs), shortlist=Shortlist(short, len(pool.ids)))
    return Cascaded(found, rows, drawn, report)


def _lost_by_shortlist(
    search: _Search, short: Dataset, pairs: Sequence[SpacePair], places: Sequence[int], wanted: int
) -> F64:
    """[O] how many of the best by all checkpoints are expected among those that were seen and are not in the list."""
    if len(pairs) == 1:
        return np.zeros(len(search.owners))
    names, final = search.scored(short, pairs)
    of_name = dict(zip(names, final, strict=True))
    first, ids = np.stack(search.seen.scores), [search.pool.ids[k] for k in search.seen.positions]
    both = [place for place in places if ids[place] in of_name]
    others = np.ones(len(first), bool)
    others[list(places)] = False
    known, finals = first[both], np.stack([of_name[ids[place]] for place in both])
    return np.array(
        [
            predict.expected_above(predict.kth_best(finals[:, o], wanted), known[:, o], finals[:, o], first[others, o])
            for o in range(finals.shape[1])
        ]
    )


def _by_target(owners: Sequence[str], found: I64, missed: F64) -> dict[str, float]:
    """The overlap of each target, over its outputs."""
    shares = {}
    for name in dict.fromkeys(owners):
        mine = np.array([owner == name for owner in owners])
        shares[name] = predict.overlap(int(found[mine].sum()), float(missed[mine].sum()))
    return shares


def _by_output(owners: Sequence[str], found: I64, missed: F64) -> list[float]:
    """[O] the overlap of each output's target."""
    shares = _by_target(owners, found, missed)
    return [shares[owner] for owner in owners]


def _landmarks(ids: Sequence[str], seed: int, settings: Cascade) -> I64:
    """Positions of the landmarks: by a hash of their ids, so that most of them stay when a pool grows."""
    salt = np.uint64(int(digest_text(f"{seed} landmarks")[:16], 16))
    keys = mix(np.array([int(name[:16], 16) for name in ids], np.uint64) ^ salt)
    count = max(FEWEST, round(settings.landmarks * len(ids)))
    return np.lexsort((np.arange(len(ids)), keys))[:count].astype(np.int64)


def _usable(work: Work, pool: Dataset, settings: Cascade) -> _Pool:
    counted = lengths(work, pool)
    tokens, labels = counted["n_tokens"], counted["n_label_tokens"]
    usable = np.flatnonzero(labels > 0)
    ids = [pool.example_ids[k] for k in usable.tolist()]
    others = [pool.example_ids[k] for k in np.flatnonzero(labels == 0).tolist()]
    tokens, labels = tokens[usable], labels[usable]
    return _Pool(ids, tokens, labels, _features(work, ids, tokens, labels, settings), others)


def _features(work: Work, ids: Sequence[str], tokens: I64, labels: I64, settings: Cascade) -> Rows:
    """[N, D] words of what is asked and of the answers, source and lengths, of about the same weight. Read once, and
    kept in a scratch file of 2·D bytes a row."""
    store = work.store
    drawn = [ids[k] for k in _landmarks(ids, work.recipe.seed, settings).tolist()]

    def texts() -> Iterator[str]:
        for part in examples.in_parts(store, drawn):
            yield from (text for chat in examples.get_messages(store, part).values() for text in _asked_and_said(chat))

    weights = rarity(texts())
    long = _standard(np.stack([np.log1p(tokens - labels), np.log1p(labels)], axis=1)) / np.sqrt(2)

    def laid() -> Iterator[tuple[I64, NDArray[Any], F32]]:
        done = 0
        for part in examples.in_parts(store, ids):
            chats, sources = examples.get_messages(store, part), examples.sources_of(store, part)
            rows = np.zeros((len(part), 2 * WORDS + SOURCES + 2), np.float16)
            for k, name in enumerate(part):
                asked, said = _asked_and_said(chats[name])
                rows[k, :WORDS] = word_row(asked, weights, WORDS)
                rows[k, WORDS : 2 * WORDS] = word_row(said, weights, WORDS)
                rows[k, 2 * WORDS + int(digest_text(sources[name].source)[:8], 16) % SOURCES] = 1
            rows[:, -2:] = long[done : done + len(part)]
            yield np.arange(done, done + len(part)), rows, np.ones(len(part), np.float32)
            done += len(part)
            work.progress("words of the pool", done, len(ids))

    found = blocks.lay_out(store, len(ids), laid())
    return Rows((len(ids), found.dims), found.decode, block_rows(found.dims))


def _asked_and_said(chat: Messages) -> tuple[str, str]:
    """What others say in a chat, and what the assistant does."""

    def turns(said: bool) -> str:
        return "\n".join(turn["content"] or "" for turn in chat if (turn["role"] == "assistant") == said)

    return turns(False), turns(True)


def _standard(values: F64) -> F64:
    return np.asarray((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9), np.float64)
