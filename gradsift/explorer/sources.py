"""The view of sources before and after, and of the rows that stayed out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.datastore.quarantine import Asked
from gradsift.explorer.paging import pages
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.sources import sources, stayed

router = APIRouter()
ROWS = 25
MOST = 100_000  # rows that are passed over, at most
Name = Annotated[str | None, Query(max_length=2_000)]


@router.get("/sources", response_class=HTMLResponse)
def of_pool(request: Request, store: OpenStore) -> HTMLResponse:
    """Each source in the pool, after screening, and in what was chosen; where rows went."""
    return page(request, "sources.html.j2", title="Sources", found=sources(store))


@router.get("/sources/stayed-out", response_class=HTMLResponse)
def of_stayed(
    request: Request,
    store: OpenStore,
    source: Name = None,
    reason: Name = None,
    first: Annotated[int, Query(ge=0, le=MOST)] = 0,
) -> HTMLResponse:
    """Rows that were refused, or that the model cannot use, by file and line."""
    rows = stayed(store, Asked(source, reason), first, ROWS)
    return page(
        request, "stayed.html.j2", title="Rows that stayed out", rows=rows, source=source, reason=reason,
        pages=pages(first, ROWS, len(rows), None, source=source, reason=reason),
    )  # fmt: skip
