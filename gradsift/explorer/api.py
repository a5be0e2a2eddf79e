"""Questions over HTTP: `POST /query` takes what `gradsift query` takes, as JSON, and answers with what `--json` prints.

    {"id": "3f9c2a1b", "k": 5, "space": "embedding", "filters": {"sources": ["forum"], "chars": "..2000"}}

A question of stored rows loads no model where the store keeps their rows. One of text does, unless the page was started
with `--no-model`: the model is loaded by the first, kept for the next, and works on one question at a time. Predicates
go through the same gate as the command's: they read, and nothing else.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.explorer.shared import OpenStore
from gradsift.pipelines.query.answers import Answer
from gradsift.pipelines.query.filters import Filter, of_selection, range_of
from gradsift.pipelines.query.query import Question, Where, ask
from gradsift.pipelines.query.spaces import Kind

BODY_BYTES = 8 << 20  # of a question: a vector of 200,000 numbers is half of it
MOST_ROWS = 1_000
MOST_CHATS = 64
MOST_NAMES = 1_000
T = TypeVar("T")
Name = Annotated[str, Field(max_length=1_000)]
Names = Annotated[list[Name], Field(max_length=MOST_NAMES)]
Text = Annotated[str, Field(max_length=1_000_000)]
Turns = Annotated[list[dict[str, Any]], Field(max_length=1_000)]


class Body(BaseModel):
    """A part of a question: a field that is not known is an error, so that one mistyped is not left out in silence."""

    model_config = ConfigDict(extra="forbid")


class Filters(Body):
    """Which rows may be answers; each field narrows down, and is written as its flag is."""

    sources: Names = []
    licences: Names = []
    chars: Name | None = None
    """A range: 100..2000, ..2000, 0.5.. or a single number; `loss` likewise."""
    loss: Name | None = None
    score: Name | None = None
    """NAME:LOW..HIGH, of the table of a selection; `cluster` likewise."""
    cluster: Name | None = None
    mark: Name | None = None
    selected_in: Name | None = None
    where: Annotated[str, Field(max_length=10_000)] | None = None
    """What stands after WHERE, in SQL."""

    def checked(self) -> Filter:
        """The filter. Raises InputError for a range that is none."""
        return Filter(
            sources=tuple(self.sources),
            licences=tuple(self.licences),
            chars=range_of(self.chars, "chars"),
            loss=range_of(self.loss, "loss"),
            score=of_selection(self.score, "score"),
            cluster=of_selection(self.cluster, "cluster"),
            mark=self.mark,
            selected_in=self.selected_in,
            where=self.where,
        )


class Ask(Body):
    """A question: one of `text`, `id`, `chats`, `target`, `vector` and `like`; where it is asked; how many answers."""

    text: Text | None = None
    answer: Text | None = None
    greedy: bool = False
    id: Name | None = None
    chats: Annotated[list[Turns], Field(min_length=1, max_length=MOST_CHATS)] | None = None
    target: Name | None = None
    vector: Annotated[list[FiniteFloat], Field(min_length=1)] | None = None
    like: Names = []
    unlike: Names = []
    k: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 10
    space: Kind = "gradients"
    checkpoint: int | Literal["all"] | None = None
    opposed: bool = False
    everything: bool = False
    index: Name | None = None
    filters: Filters = Filters()

    def question(self) -> Question:
        """The question as the library takes it. Raises InputError for a chat that is none."""
        return Question(
            text=self.text,
            id=self.id,
            chats=None if self.chats is None else [_chat(turns, n) for n, turns in enumerate(self.chats, 1)],
            target=self.target,
            vectors=None if self.vector is None else np.array(self.vector),
            like=self.like,
            unlike=self.unlike,
            answer=self.answer,
            greedy=self.greedy,
        )


class Limited(APIRoute):
    """A path that reads no body of more than BODY_BYTES."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind that limit; that a length is said is seen to before (`security.py`)."""
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            if int(request.headers.get("content-length", 0)) > BODY_BYTES:
                raise HTTPException(413, f"a question is of at most {BODY_BYTES:,} bytes")
            return await handle(request)

        return limited


router = APIRouter(route_class=Limited)


@router.post("/query")
def query(request: Request, store: OpenStore, asked: Ask) -> Answer:
    """The nearest rows to a question."""
    where = Where(
        asked.space, asked.checkpoint, asked.everything, asked.index, asked.filters.checked(),
        by_model=request.app.state.models,
    )  # fmt: skip
    return ask(store, asked.question(), asked.k, where, opposed=asked.opposed)


def _chat(turns: list[dict[str, Any]], number: int) -> Messages:
    from gradsift.pipelines.pool.canonical import canonical_messages
    from gradsift.pipelines.pool.row_error import RowError

    try:
        return canonical_messages({"messages": turns}, "messages")
    except RowError as error:
        raise InputError(f"chat {number}: {error.reason}: {error}") from None
