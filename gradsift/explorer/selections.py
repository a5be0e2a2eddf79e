"""The views of what was chosen: all selections and mixtures, the rows of one, two beside each other."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.datastore import choices, examples, selections, versions
from gradsift.datastore.store import Store
from gradsift.explorer.paging import pages
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.compare import compare
from gradsift.pipelines.query.sources import of_choice
from gradsift.pipelines.tables import first_turn

router = APIRouter()
ROWS = 50
TEXT_CHARS = 160
MOST = 200  # examples of a side, of a comparison
Reference = Annotated[str, Query(max_length=200)]
First = Annotated[int, Query(ge=0, le=1 << 40)]


@router.get("/selections", response_class=HTMLResponse)
def all_of_them(request: Request, store: OpenStore) -> HTMLResponse:
    """All selections and mixtures, and the numbered versions of everything."""
    return page(
        request, "selections.html.j2", title="Selections", choices=choices.choices(store), log=versions.log(store)
    )


@router.get("/selections/{name:path}", response_class=HTMLResponse)
def of_one(request: Request, store: OpenStore, name: str, first: First = 0) -> HTMLResponse:
    """The rows of a selection or mixture by its name, NAME@NUMBER or NAME@DIGEST, and its sources beside the pool's."""
    chosen = choices.choice(store, selections.number_of(store, name))
    items = choices.items(store, chosen.selection_id, first, ROWS)
    return page(
        request, "selection.html.j2", title=chosen.reference, chosen=chosen, items=items,
        texts=_texts(store, [item.example_id for item in items]), sources=of_choice(store, chosen),
        pages=pages(first, ROWS, len(items), chosen.examples),
    )  # fmt: skip


@router.get("/compare", response_class=HTMLResponse)
def of_two(
    request: Request,
    store: OpenStore,
    a: Reference = "",
    b: Reference = "",
    shown: Annotated[int, Query(ge=1, le=MOST)] = 10,
) -> HTMLResponse:
    """Two selections, mixtures or versions side by side; without both, a choice of two."""
    known = [one.reference for one in choices.choices(store) if one.void is None]
    pools = [str(one) for kind, name in versions.names(store) if kind == "pool" for one in _there(store, kind, name)]
    found = compare(store, a, b, shown) if a and b else None
    return page(
        request, "compare.html.j2", title="Compare", found=found, a=a, b=b, shown=shown, most=MOST,
        known=[*known, *pools],
    )  # fmt: skip


def _there(store: Store, kind: str, name: str) -> list[versions.Version]:
    """The versions of a name that still hold, newest first."""
    every = versions.numbered(store, kind, name)
    return [one for one in reversed(every) if one.content is not None and one.void is None]


def _texts(store: Store, ids: list[str]) -> dict[str, tuple[str, str]]:
    """{id: the beginnings of the first turns of user and assistant}"""
    chats = examples.get_messages(store, ids)
    return {
        i: (first_turn(chat, "user", TEXT_CHARS), first_turn(chat, "assistant", TEXT_CHARS))
        for i, chat in chats.items()
    }
