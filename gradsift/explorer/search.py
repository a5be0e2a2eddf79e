"""The view of rows by their words."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.find import MOST_CHARS, find

router = APIRouter()


@router.get("/search", response_class=HTMLResponse)
def search(
    request: Request,
    store: OpenStore,
    q: Annotated[str, Query(max_length=MOST_CHARS)] = "",
    start: Annotated[str, Query(max_length=40)] = "",
) -> HTMLResponse:
    """Rows that have all words of `q`, from a place on."""
    found = find(store, q, start=start) if q.strip() else None
    more = urlencode({"q": q, "start": found.next}) if found and found.next else ""
    return page(request, "search.html.j2", title="Search", q=q, start=start, found=found, more=more)
