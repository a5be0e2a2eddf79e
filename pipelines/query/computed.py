"""Rows of questions that the model of the store's last run computes: it is loaded, one checkpoint at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import checkpoints, features
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import check_comparable, example_id
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import make_job, require_model
from gradsift.pipelines.model.generate import greedy, stop_tokens
from gradsift.pipelines.model.work import Work, open_work
from gradsift.pipelines.query.models import model_for
from gradsift.pipelines.recipe import recorded_recipe

T = TypeVar("T")
F32 = NDArray[np.float32]
ANSWER_TOKENS = 64


def rows_of(store: Store, spaces: Sequence[int], chats: Sequence[Messages]) -> list[F32]:
    """[Q, D] unit rows of chats, as a target has them, at the checkpoint of each of the pool's spaces.

    Raises InputError for a chat without a gradient, FeatureSpaceMismatch where the model is another.
    """
    return _at_each(store, spaces, lambda extractor: _rows(extractor, chats))


def embeddings_of(store: Store, space: int, chats: Sequence[Messages]) -> F32:
    """[Q, H] unit RDS+ embeddings of chats, with or without an answer, at the checkpoint of a space of the pool's.

    Raises InputError for a chat that the model's template does not render, and for one without a finite embedding;
    FeatureSpaceMismatch where the model is another.
    """

    def embed(extractor: Extractor) -> F32:
        encoded = [extractor.encode(chat) for chat in chats]
        for number, one in enumerate(encoded, 1):
            if not one.input_ids:
                raise InputError(f"the model's chat template does not render chat {number} of the questions")
        return extractor.embeddings(encoded).astype(np.float32)

    (rows,) = _at_each(store, [space], embed)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputError("a question has no finite embedding at this checkpoint; leave it out")
    return np.asarray(rows / lengths, np.float32)


def own_answer(store: Store, space: int, user: str) -> str:
    """The greedy answer of the model at the checkpoint of a space of the pool's. Raises InputError where it says
    nothing."""

    def write(extractor: Extractor) -> str:
        tokenizer, longest = extractor.job.loaded.tokenizer, extractor.job.encoding.max_length
        prompt = [{"role": "user", "content": user}]
        stops = stop_tokens(extractor.model, tokenizer)
        (tokens,) = greedy(extractor.model, tokenizer, [prompt], ANSWER_TOKENS, longest, stops=stops)
        return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    (answer,) = _at_each(store, [space], write)
    if not answer:
        raise InputError("the model answers nothing here; give an answer with --answer")
    return answer


def _rows(extractor: Extractor, chats: Sequence[Messages]) -> F32:
    encoded = [extractor.encode(chat) for chat in chats]
    which = "this chat" if len(chats) == 1 else "chat {} of the questions"
    for number, one in enumerate(encoded, 1):
        if not one.usable:
            raise InputError(
                f"{which.format(number)} has no label token within {extractor.job.encoding.max_length} tokens "
                f"({one.status}), so it has no gradient; give a shorter prompt"
            )
    names = [example_id(chat) for chat in chats]
    places = {name: k for k, name in enumerate(names)}  # a chat that is asked about twice is computed once
    block, rejected = extractor.rows(list(places), [encoded[k] for k in places.values()], as_query=True)
    if rejected:
        name, status = next(iter(rejected.items()))
        raise InputError(f"the gradient of {which.format(places[name] + 1)} is {status}; try another answer")
    unit = dict(zip(block.example_ids, block.unit(), strict=True))
    return np.stack([unit[name] for name in names])


def _at_each(store: Store, spaces: Sequence[int], use: Callable[[Extractor], T]) -> list[T]:
    """What a function makes of the model as it computes rows of questions, at one checkpoint after the other: each
    takes its memory. Raises FeatureSpaceMismatch where it is not the pool's any more."""
    recipe = recorded_recipe(last_run(store).recipes.resolved, "the recipe of the store's last run")
    works: list[Work] = []  # the model's files are opened once, and not at all for one that is kept

    def load(space: int) -> Extractor:
        if not works:
            works.append(open_work(store, recipe))
        spec = features.space_spec(store, space)
        require_model(store, space, works[0].model)
        job = make_job(works[0], checkpoints.by_digest(store, spec["checkpoint"]))
        check_comparable(spec, job.as_query().space())
        return Extractor(job)

    made = []
    for space in spaces:
        with model_for(store, ("checkpoint", space), partial(load, space)) as extractor:
            made.append(use(extractor))
    return made
