"""Queries: which pool rows have a gradient like this chat's, or like that row's?

The question is always a plain gradient, as a target's row is: of a chat that is asked about, or of a stored example,
taken from the store where it has one, else computed. It is compared with the pool's plain rows where the store keeps
them for the whole pool (`features.plain_rows`), else with the pool's own rows, as LESS compares a target with them. Two
rows of Adam's steps are never compared: momentum gives all of them a common part, and everything looks alike.
"""

from dataclasses import dataclass, replace

from gradsift.datastore import checkpoints, examples, features, index_search, indexes
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Messages
from gradsift.datastore.identity import check_comparable, example_id
from gradsift.datastore.index_search import Found
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import Typical, neighbours, typical
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job, plain_space, require_model
from gradsift.pipelines.model.generate import greedy, stop_tokens
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import recorded_recipe
from gradsift.pipelines.runs.last import space_at
from gradsift.pipelines.tables import first_turn

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
    checkpoint: int
    generated: bool
    hits: list[Hit]
    rows: str = ""
    typical: Typical | None = None
    index: str = ""  # the kind that was asked, '' where the search was exact
    recall: float | None = None  # of that index, as it was measured
    note: str = ""


@dataclass(frozen=True)
class _Searched:
    """Where a run's rows are searched: the pool's space and those of its rows that are looked at, the space that
    questions are of, and the checkpoint of both."""

    store: Store
    space: int
    ids: list[str]
    asked: int
    ordinal: int
    index: str | None = None  # kind of the index that is asked, or `auto`; None for exact search

    @property
    def transform(self) -> str:
        """Of the pool's rows."""
        return str(features.space_spec(self.store, self.space)["transform"])

    def near(self, row: FeatureBlock, k: int, leave_out: str = "") -> Found:
        """The k nearest rows to one, without an example."""
        question, count = row.unit(), k + bool(leave_out)
        if self.index is None:
            found = Found(neighbours(self.store, self.space, question, count, self.ids))
        else:
            found = index_search.near(self.store, self.space, question, count, self.ids, kind=self.index)
        kept = [neighbour for neighbour in found.neighbours[0] if neighbour.example_id != leave_out][:k]
        return replace(found, neighbours=[kept])

    @property
    def plain(self) -> bool:
        """Whether the pool's rows are as a question is: of the same transform and loss."""
        pool, asked = (features.space_spec(self.store, space) for space in (self.space, self.asked))
        return bool((pool["transform"], pool["loss"]) == (asked["transform"], asked["loss"]))

    def typical(self) -> Typical | None:
        """Cosines of random pairs: of rows as questions are, of targets unless the pool has such, and pool rows."""
        alike = self.space if self.plain else self.asked
        known = self.ids if alike == self.space else features.ids_with_rows(self.store, alike)
        return typical(self.store, alike, known, self.space, self.ids)


def query_by_id(
    store: Store,
    name: str,
    k: int,
    checkpoint: int | None = None,
    *,
    everything: bool = False,
    index: str | None = None,
) -> Answer:
    """Neighbours of a stored example (without itself). `name` may be the start of an id. The model is loaded where the
    store has no plain row of the example. `everything`: look at rows that left the pool, too. `index`: ask one of this
    kind (`auto`: the best there is) instead of searching exactly."""
    example = examples.find_prefix(store, name)
    where = replace(_where(store, checkpoint, everything), index=index)
    chat = examples.get_messages(store, [example])[example]
    row = _stored_row(where, example)
    if row is None:
        try:
            extractor = _extractor(where)
        except InputError as error:
            raise InputError(
                f"the store has no plain gradient of example {example[:8]}, and its model cannot compute it: {error} "
                "(`features.plain_rows: true` keeps them)"
            ) from error
        row = _computed_row(extractor, chat)
    return _answer(where, chat, where.near(row, k, example))


def query_by_text(
    store: Store,
    user: str,
    assistant: str | None,
    k: int,
    checkpoint: int | None = None,
    *,
    everything: bool = False,
    index: str | None = None,
) -> Answer:
    """Neighbours of a chat of one turn. Without an answer, the checkpoint's own greedy one is used.

    Loads the model of the store's last run, and refuses if its rows would be of another feature space.
    """
    where = replace(_where(store, checkpoint, everything), index=index)
    extractor = _extractor(where)
    text = assistant if assistant is not None else _own_answer(extractor, user)
    if not text.strip():
        raise InputError("the model answers nothing here; give an answer with --answer")
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    return _answer(where, chat, where.near(_computed_row(extractor, chat), k), generated=assistant is None)


def searched_space(store: Store, checkpoint: int | None = None, start: str | None = None) -> int:
    """The feature space that a query at a checkpoint searches, or the one whose fingerprint starts so."""
    return _where(store, checkpoint, everything=False).space if start is None else indexes.find_space(store, start)


def _where(store: Store, checkpoint: int | None, everything: bool) -> _Searched:
    last = last_run(store)
    train, ordinal = space_at(last, checkpoint)
    asked = next(r.space_id for r in last.result.rows if r.role == "target" and r.checkpoint == ordinal)
    members = last.result.ingest.pool.used_dataset_id
    pool = None if everything or members is None else examples.get_dataset(store, members).example_ids
    plain = plain_space(store, train)
    with_rows = features.ids_with_rows(store, train)
    ids = with_rows if pool is None else sorted(set(with_rows) & set(pool))
    if plain is not None and not features.lacking(store, plain, ids):
        train = plain
    return _Searched(store, train, ids, asked, ordinal)


def _stored_row(where: _Searched, example: str) -> FeatureBlock | None:
    """The plain row of an example, of a target's or of the pool where both are of the same loss."""
    for space in [where.asked, where.space] if where.plain else [where.asked]:
        if example in features.ids_with_rows(where.store, space):
            return features.read_all(where.store, space, [example])
    return None


def _computed_row(extractor: Extractor, chat: Messages) -> FeatureBlock:
    encoded = extractor.encode(chat)
    if not encoded.usable:
        raise InputError(
            f"this chat has no label token within {extractor.job.encoding.max_length} tokens ({encoded.status}), "
            "so it has no gradient; give a shorter prompt"
        )
    block, rejected = extractor.rows([example_id(chat)], [encoded], as_query=True)
    if rejected:
        raise InputError(f"the gradient of this query is {next(iter(rejected.values()))}; try another answer")
    return block


def _extractor(where: _Searched) -> Extractor:
    """The model as it computes rows of questions. Raises FeatureSpaceMismatch where it is not the pool's any more."""
    store = where.store
    recipe = recorded_recipe(last_run(store).recipes.resolved, "the recipe of the store's last run")
    spec = features.space_spec(store, where.space)
    work = open_work(store, recipe)
    require_model(store, where.space, work.model)
    job = make_job(work, checkpoints.by_digest(store, spec["checkpoint"]))
    check_comparable(spec, job.as_query().space())
    return Extractor(job)


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
        *_turns(chat), where.ordinal, generated, hits, where.transform, where.typical(),
        index=found.index, recall=found.recall, note=found.note,
    )  # fmt: skip


def _turns(chat: Messages) -> tuple[str, str]:
    """The first turns of user and assistant, shortened."""
    return first_turn(chat, "user", EXCERPT_CHARS), first_turn(chat, "assistant", EXCERPT_CHARS)
