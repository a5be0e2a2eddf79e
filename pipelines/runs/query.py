"""Queries: which pool rows have a gradient like this chat's, or like that row's?"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.datastore import checkpoints, examples, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Messages
from gradsift.datastore.identity import check_comparable, example_id
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import Neighbour, neighbours
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.model.generate import greedy, stop_tokens
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import parse_recipe
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
    """Neighbours of a query and the chat that was asked about."""

    user: str
    assistant: str
    checkpoint: int
    generated: bool
    hits: list[Hit]


def query_by_id(store: Store, name: str, k: int, checkpoint: int | None = None) -> Answer:
    """Neighbours of a stored example (without itself). `name` may be the start of an id. Loads no model."""
    example = examples.find_prefix(store, name)
    space, ordinal = space_at(last_run(store), checkpoint)
    block = features.read_all(store, space, [example])
    near = neighbours(store, space, block.unit(), k + 1)[0]
    chat = examples.get_messages(store, [example])[example]
    return _answer(store, chat, [neighbour for neighbour in near if neighbour.example_id != example][:k], ordinal)


def query_by_text(store: Store, user: str, assistant: str | None, k: int, checkpoint: int | None = None) -> Answer:
    """Neighbours of a chat of one turn. Without an answer, the checkpoint's own greedy one is used.

    Loads the model of the store's last run, and refuses if its rows would be of another feature space.
    """
    space, ordinal = space_at(last_run(store), checkpoint)
    extractor = _extractor(store, space)
    check_comparable(features.space_spec(store, space), extractor.job.as_query().space())
    text = assistant if assistant is not None else _own_answer(extractor, user)
    if not text.strip():
        raise InputError("the model answers nothing here; give an answer with --answer")
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    encoded = extractor.encode(chat)
    if not encoded.usable:
        raise InputError(
            f"this query has no label token within {extractor.job.encoding.max_length} tokens ({encoded.status}), "
            "so it has no gradient; give a shorter prompt"
        )
    block, rejected = extractor.rows([example_id(chat)], [encoded], as_query=True)
    if rejected:
        raise InputError(f"the gradient of this query is {next(iter(rejected.values()))}; try another answer")
    near = neighbours(store, space, block.unit(), k)[0]
    return _answer(store, chat, near, ordinal, generated=assistant is None)


def _extractor(store: Store, space_id: int) -> Extractor:
    recipe = parse_recipe(last_run(store).recipes.resolved, "the recipe of the store's last run")
    point = checkpoints.by_digest(store, features.space_spec(store, space_id)["checkpoint"])
    return Extractor(make_job(open_work(store, recipe), point))


def _own_answer(extractor: Extractor, user: str) -> str:
    tokenizer, longest = extractor.job.loaded.tokenizer, extractor.job.encoding.max_length
    prompt = [{"role": "user", "content": user}]
    stops = stop_tokens(extractor.model, tokenizer)
    (tokens,) = greedy(extractor.model, tokenizer, [prompt], ANSWER_TOKENS, longest, stops=stops)
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _answer(
    store: Store, chat: Messages, near: Sequence[Neighbour], ordinal: int, *, generated: bool = False
) -> Answer:
    ids = [neighbour.example_id for neighbour in near]
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)
    hits = [
        Hit(rank, round(neighbour.cosine, 4), i, sources[i].source, *_turns(chats[i]))
        for rank, (i, neighbour) in enumerate(zip(ids, near, strict=True))
    ]
    return Answer(*_turns(chat), ordinal, generated, hits)


def _turns(chat: Messages) -> tuple[str, str]:
    """The first turns of user and assistant, shortened."""
    return first_turn(chat, "user", EXCERPT_CHARS), first_turn(chat, "assistant", EXCERPT_CHARS)
