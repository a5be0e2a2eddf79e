"""Queries: which pool rows have a gradient like this chat's, or like that row's?

The question is always a plain gradient, as a target's row is: of a chat that is asked about, or of a stored example,
taken from the store where it has one, else computed. It is compared with the pool's plain rows where the store keeps
them for the whole pool (`features.plain_rows`), else with the pool's own rows, as LESS compares a target with them. Two
rows of Adam's steps are never compared: momentum gives all of them a common part, and everything looks alike.

At `all` checkpoints, cosines are added with the weights of LESS, the checkpoints' mean learning rates over their sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import checkpoints, examples, features, index_search, indexes, mapped
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import check_comparable, example_id
from gradsift.datastore.index_search import Found
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import Typical, neighbours_combined, typical
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job, plain_space, require_model
from gradsift.pipelines.model.generate import greedy, stop_tokens
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import recorded_recipe
from gradsift.pipelines.runs.last import mean_lr, space_at
from gradsift.pipelines.tables import first_turn
from gradsift.scorers.less import checkpoint_weights

F32 = NDArray[np.float32]
At = int | Literal["all"] | None  # a checkpoint, all of them, or the last
ANSWER_TOKENS = 64
EXCERPT_CHARS = 160


@dataclass(frozen=True)
class Hit:
    """A neighbour, with enough to read."""

    rank: int
    cosine: float
    example_id: str
    source: str
    user: str
    assistant: str


@dataclass(frozen=True)
class Answer:
    """Neighbours of a query and the chat that was asked about. `rows`: the transform of the pool rows that were
    compared with its plain gradient; `typical`: cosines of random pairs of such rows."""

    user: str
    assistant: str
    checkpoint: int | Literal["all"]
    generated: bool
    hits: list[Hit]
    rows: str = ""
    typical: Typical | None = None
    index: str = ""  # the kind that was asked, '' where the search was exact
    recall: float | None = None  # of that index, as it was measured
    note: str = ""
    opposed: bool = False  # whether the hits are those that point the other way: the lowest cosines


@dataclass(frozen=True)
class _Place:
    """Rows of one checkpoint: the pool's space that is searched, the space that questions are of, the weight."""

    space: int
    asked: int
    ordinal: int
    weight: float


@dataclass(frozen=True)
class _Searched:
    """Where a run's rows are searched: at which checkpoints, and the pool whose members are looked at (None: all)."""

    store: Store
    places: tuple[_Place, ...]
    pool: int | None
    at: int | Literal["all"]
    index: str | None = None  # kind of the index that is asked, or `auto`; None for exact search
    opposed: bool = False

    @property
    def transform(self) -> str:
        """Of the pool's rows."""
        return str(features.space_spec(self.store, self.places[0].space)["transform"])

    def near(self, rows: Sequence[F32], k: int, leave_out: str = "") -> Found:
        """The k nearest rows to a question, of which there is a row [D] for each place, without an example."""
        sign = np.float32(-1 if self.opposed else 1)
        questions, count = [sign * row[None] for row in rows], k + bool(leave_out)
        spaces = [(place.space, place.weight) for place in self.places]
        without = [] if self.pool is None else features.outside(self.store, spaces[0][0], self.pool)
        if self.index is None:
            found = Found(neighbours_combined(self.store, spaces, questions, count, without=without))
        elif self.opposed or len(spaces) > 1:
            raise InputError("an index is of the nearest rows at one checkpoint; ask anything else without --index")
        else:
            space, question = spaces[0][0], questions[0]
            found = index_search.near(self.store, space, question, count, without=without, kind=self.index)
        kept = [neighbour for neighbour in found.neighbours[0] if neighbour.example_id != leave_out][:k]
        return replace(found, neighbours=[[replace(n, cosine=float(sign) * n.cosine) for n in kept]])

    @property
    def plain(self) -> bool:
        """Whether the pool's rows are as a question is: of the same transform and loss."""
        place = self.places[0]
        pool, asked = (features.space_spec(self.store, space) for space in (place.space, place.asked))
        return bool((pool["transform"], pool["loss"]) == (asked["transform"], asked["loss"]))

    def typical(self) -> Typical | None:
        """Cosines of random pairs: of rows as questions are, of targets unless the pool has such, and pool rows."""
        spaces = [(p.space, p.space if self.plain else p.asked, p.weight) for p in self.places]
        return typical(self.store, spaces, self.pool, self.pool if self.plain else None)


def query_by_id(
    store: Store,
    name: str,
    k: int,
    checkpoint: At = None,
    *,
    everything: bool = False,
    index: str | None = None,
    opposed: bool = False,
) -> Answer:
    """Neighbours of a stored example (without itself). `name` may be the start of an id. The model is loaded where the
    store has no plain row of the example. `everything`: look at rows that left the pool, too. `index`: ask one of this
    kind (`auto`: the best there is) instead of searching exactly. `opposed`: the rows with the lowest cosines."""
    example = examples.find_prefix(store, name)
    where = replace(_where(store, checkpoint, everything), index=index, opposed=opposed)
    chat = examples.get_messages(store, [example])[example]
    rows = [_stored_row(where, place, example) for place in where.places]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        try:
            known = [_computed_row(extractor, chat) for extractor in _extractors(where)][::-1]
        except InputError as error:
            raise InputError(
                f"the store has no plain gradient of example {example[:8]}, and its model cannot compute it: {error} "
                "(`features.plain_rows: true` keeps them)"
            ) from error
    return _answer(where, chat, where.near(known, k, example))


def query_by_text(
    store: Store,
    user: str,
    assistant: str | None,
    k: int,
    checkpoint: At = None,
    *,
    everything: bool = False,
    index: str | None = None,
    opposed: bool = False,
) -> Answer:
    """Neighbours of a chat of one turn. Without an answer, the checkpoint's own greedy one is used.

    Loads the model of the store's last run, and refuses if its rows would be of another feature space.
    """
    where = replace(_where(store, checkpoint, everything), index=index, opposed=opposed)
    extractors = _extractors(where)
    extractor = next(extractors)
    text = assistant if assistant is not None else _own_answer(extractor, user)
    if not text.strip():
        raise InputError("the model answers nothing here; give an answer with --answer")
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    rows = [_computed_row(extractor, chat)]
    del extractor
    rows += [_computed_row(older, chat) for older in extractors]
    return _answer(where, chat, where.near(rows[::-1], k), generated=assistant is None)


def searched_space(store: Store, checkpoint: int | None = None, start: str | None = None) -> int:
    """The feature space that a query at a checkpoint searches, or the one whose fingerprint starts so."""
    if start is not None:
        return indexes.find_space(store, start)
    return _where(store, checkpoint, everything=False).places[0].space


def _where(store: Store, checkpoint: At, everything: bool) -> _Searched:
    last = last_run(store)
    if checkpoint == "all" and last.result.pool_rows:
        ordinals: list[int | None] = [row.checkpoint for row in last.result.pool_rows]
    else:
        ordinals = [None if checkpoint == "all" else checkpoint]
    spaces = [space_at(last, ordinal) for ordinal in ordinals]
    asked = {row.checkpoint: row.space_id for row in last.result.rows if row.role == "target"}
    weights = checkpoint_weights([mean_lr(store, space) for space, _ in spaces]) if len(spaces) > 1 else [1.0]
    pool = None if everything else last.result.ingest.pool.used_dataset_id
    plain = [plain_space(store, train) for train, _ in spaces]
    all_plain = all(
        p is not None and features.covers(store, s, p, pool) for p, (s, _) in zip(plain, spaces, strict=True)
    )
    places = tuple(
        _Place(p if all_plain and p is not None else space, asked[ordinal], ordinal, weight)
        for p, (space, ordinal), weight in zip(plain, spaces, weights, strict=True)
        if weight > 0
    )
    return _Searched(store, places, pool, "all" if checkpoint == "all" else places[0].ordinal)


def _stored_row(where: _Searched, place: _Place, example: str) -> F32 | None:
    """The plain row of an example, of a target's or of the pool where both are of the same loss."""
    for space in [place.asked, place.space] if where.plain else [place.asked]:
        row = mapped.units(where.store, space, [example]).get(example)
        if row is not None:
            return row
    return None


def _computed_row(extractor: Extractor, chat: Messages) -> F32:
    encoded = extractor.encode(chat)
    if not encoded.usable:
        raise InputError(
            f"this chat has no label token within {extractor.job.encoding.max_length} tokens ({encoded.status}), "
            "so it has no gradient; give a shorter prompt"
        )
    block, rejected = extractor.rows([example_id(chat)], [encoded], as_query=True)
    if rejected:
        raise InputError(f"the gradient of this query is {next(iter(rejected.values()))}; try another answer")
    row: F32 = block.unit()[0]
    return row


def _extractors(where: _Searched) -> Iterator[Extractor]:
    """The model as it computes rows of questions, at the last checkpoint first: one at a time, each takes its memory.
    Raises FeatureSpaceMismatch where it is not the pool's any more."""
    store = where.store
    recipe = recorded_recipe(last_run(store).recipes.resolved, "the recipe of the store's last run")
    work = open_work(store, recipe)
    for place in reversed(where.places):
        spec = features.space_spec(store, place.space)
        require_model(store, place.space, work.model)
        job = make_job(work, checkpoints.by_digest(store, spec["checkpoint"]))
        check_comparable(spec, job.as_query().space())
        yield Extractor(job)


def _own_answer(extractor: Extractor, user: str) -> str:
    tokenizer, longest = extractor.job.loaded.tokenizer, extractor.job.encoding.max_length
    prompt = [{"role": "user", "content": user}]
    stops = stop_tokens(extractor.model, tokenizer)
    (tokens,) = greedy(extractor.model, tokenizer, [prompt], ANSWER_TOKENS, longest, stops=stops)
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _answer(where: _Searched, chat: Messages, found: Found, *, generated: bool = False) -> Answer:
    near = found.neighbours[0]
    ids = [neighbour.example_id for neighbour in near]
    chats, sources = examples.get_messages(where.store, ids), examples.sources_of(where.store, ids)
    hits = [
        Hit(rank, round(neighbour.cosine, 4), i, sources[i].source, *_turns(chats[i]))
        for rank, (i, neighbour) in enumerate(zip(ids, near, strict=True))
    ]
    return Answer(
        *_turns(chat), where.at, generated, hits, where.transform, where.typical(),
        index=found.index, recall=found.recall, note=found.note, opposed=where.opposed,
    )  # fmt: skip


def _turns(chat: Messages) -> tuple[str, str]:
    """The first turns of user and assistant, shortened."""
    return first_turn(chat, "user", EXCERPT_CHARS), first_turn(chat, "assistant", EXCERPT_CHARS)
