"""The views of one example: its chat and what is known of it, its tokens, its neighbours by each space."""

from bisect import bisect
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.explorer.chat import CUT, pretty, show
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.beside import DEPTH, beside
from gradsift.pipelines.query.gradients import At
from gradsift.pipelines.query.row import row
from gradsift.pipelines.query.tokens import Token, tokens_of

router = APIRouter()
EDGES = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.5, 6.5)  # nats, between ten shades
ORIGINS = 20
EXTRA_CHARS = 2_000
TOKENS = 2_000
By = Literal["nll", "entropy"]
All = Annotated[bool, Query(alias="all")]


@router.get("/row/{name}", response_class=HTMLResponse)
def of_row(request: Request, store: OpenStore, name: str, whole: All = False) -> HTMLResponse:
    """An example by its id, or the start of it."""
    view = row(store, _find(store, name))
    origins = view.origins if whole else view.origins[:ORIGINS]
    extra = [
        (key, text if whole else text[:EXTRA_CHARS], len(text))
        for key, text in sorted({(key, pretty(value)) for origin in origins for key, value in origin.extra.items()})
    ]
    names = list(dict.fromkeys(name for one in view.passes for name in one.signals.values))
    return page(
        request, "row.html.j2", title=f"Row {view.example_id[:8]}", view=view, chat=show(view.messages, whole=whole),
        origins=origins, extra=extra, signals=names, whole=whole, cut=CUT,
    )  # fmt: skip


@router.get("/row/{name}/tokens", response_class=HTMLResponse)
def of_tokens(
    request: Request,
    store: OpenStore,
    name: str,
    by: By = "nll",
    checkpoint: int | None = None,
    mask: Annotated[str | None, Query(max_length=200)] = None,
    whole: All = False,
) -> HTMLResponse:
    """The tokens of an example, shaded by what the model makes of them."""
    example_id = _find(store, name)
    view = tokens_of(store, example_id, checkpoint, mask)
    tokens = view.tokens if whole else view.tokens[:TOKENS]
    return page(
        request, "tokens.html.j2", title=f"Tokens of {example_id[:8]}", view=view, by=by,
        tokens=[(token, shade(token, by)) for token in tokens], left=len(view.tokens) - len(tokens),
        pruned=sum(not token.kept for token in view.tokens), labels=sum(token.label for token in view.tokens),
        edges=EDGES,
    )  # fmt: skip


@router.get("/row/{name}/neighbours", response_class=HTMLResponse)
def of_neighbours(
    request: Request,
    store: OpenStore,
    name: str,
    k: Annotated[int, Query(ge=1, le=DEPTH)] = 8,
    opposed: bool = False,
    checkpoint: Annotated[str | None, Query(pattern=r"^(all|[0-9]{1,6})$")] = None,
) -> HTMLResponse:
    """The neighbours of an example by each space, side by side."""
    example_id = _find(store, name)
    at: At = "all" if checkpoint == "all" else None if checkpoint is None else int(checkpoint)
    found = beside(store, example_id, k, opposed=opposed, checkpoint=at)
    return page(
        request, "neighbours.html.j2", title=f"Neighbours of {example_id[:8]}", found=found, k=k,
        checkpoint=checkpoint,
    )  # fmt: skip


def _find(store: Store, name: str) -> str:
    """The one example whose id starts so. Raises InputError that says how else to find a row."""
    try:
        return examples.find_prefix(store, name)
    except InputError as error:
        raise InputError(f"{error}; Search finds rows by their words") from None


def shade(token: Token, by: By) -> int | None:
    """0 to 9 for what a token's figure is; None where it has none."""
    value = token.nll if by == "nll" else token.entropy
    return None if value is None else bisect(EDGES, value)
