"""Queries: which pool rows have a gradient like this chat's, or like that row's?"""

from dataclasses import dataclass

from gradsift.datastore import checkpoints, examples, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import check_comparable, example_id
from gradsift.datastore.search import neighbours
from gradsift.datastore.selections import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job
from gradsift.pipelines.model.load import open_model
from gradsift.pipelines.recipe import parse_recipe

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
    found = examples.find_prefix(store, name)
    space, ordinal = _space(store, checkpoint)
    block = features.read_all(store, space, [found])
    near = neighbours(store, space, block.unit(), k + 1)[0]
    chat = examples.get_messages(store, [found])[found]
    return _answer(store, chat, [(n.example_id, n.cosine) for n in near if n.example_id != found][:k], ordinal)


def query_by_text(store: Store, user: str, assistant: str | None, k: int, checkpoint: int | None = None) -> Answer:
    """Neighbours of a chat of one turn. Without an answer, the checkpoint's own greedy one is used.

    Loads the model of the store's last run, and refuses if its rows would be of another feature space.
    """
    space, ordinal = _space(store, checkpoint)
    extractor = _extractor(store, space)
    check_comparable(features.space_spec(store, space), extractor.job.as_query().space())
    text = assistant if assistant is not None else _greedy(extractor, user)
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    encoded = extractor.encode(chat)
    if not text.strip():
        raise InputError("the model answers nothing here; give an answer with --answer")
    if not encoded.usable:
        raise InputError(
            f"this query has no label token within {extractor.job.encoding.max_length} tokens ({encoded.status}), "
            "so it has no gradient; give a shorter prompt"
        )
    block, rejected = extractor.rows([example_id(chat)], [encoded], as_query=True)
    if rejected:
        raise InputError(f"the gradient of this query is {next(iter(rejected.values()))}; try another answer")
    near = neighbours(store, space, block.unit(), k)[0]
    hits = [(n.example_id, n.cosine) for n in near]
    return _answer(store, chat, hits, ordinal, generated=assistant is None)


def _space(store: Store, checkpoint: int | None) -> tuple[int, int]:
    rows = [row for row in last_run(store)["summary"]["rows"] if row["role"] == "pool"]
    if not rows:
        raise InputError("the store's last run computed no gradients; run a recipe with `select`")
    ordinals = [row["checkpoint"] for row in rows]
    wanted = max(ordinals) if checkpoint is None else checkpoint
    if wanted not in ordinals:
        raise InputError(f"there is no checkpoint {wanted}; this store has {sorted(ordinals)}")
    return next(row["space_id"] for row in rows if row["checkpoint"] == wanted), wanted


def _extractor(store: Store, space_id: int) -> Extractor:
    recipe = parse_recipe(last_run(store)["recipe"], "the recipe of the store's last run")
    point = checkpoints.by_digest(store, features.space_spec(store, space_id)["checkpoint"])
    job = make_job(recipe, open_model(recipe.model), store, point)
    return Extractor(job)


def _greedy(extractor: Extractor, user: str) -> str:
    import torch

    from gradsift.pipelines.model.encode import chat_template

    tokenizer = extractor.job.loaded.tokenizer
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}],
        chat_template=chat_template(tokenizer),
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    ).to(extractor.device)
    with torch.no_grad():
        out = extractor.model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def _answer(
    store: Store,
    chat: list[dict[str, str]],
    near: list[tuple[str, float]],
    ordinal: int,
    *,
    generated: bool = False,
) -> Answer:
    ids = [name for name, _ in near]
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)
    hits = [
        Hit(rank, round(cosine, 4), name, sources[name][0], *_turns(chats[name]))
        for rank, (name, cosine) in enumerate(near)
    ]
    return Answer(*_turns(chat), ordinal, generated, hits)


def _turns(chat: list[dict[str, str]]) -> tuple[str, str]:
    def first(role: str) -> str:
        text = next((m["content"] for m in chat if m["role"] == role), "")
        return text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "…"

    return first("user"), first("assistant")
