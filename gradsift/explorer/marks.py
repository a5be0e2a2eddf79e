"""The view of near-duplicates and leaks: each row that was left out beside its twin."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.explorer.paging import pages
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.twins import twins

router = APIRouter()
PAIRS = 10


@router.get("/marks", response_class=HTMLResponse)
def of_reason(
    request: Request,
    store: OpenStore,
    reason: Annotated[str | None, Query(max_length=200)] = None,
    first: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
) -> HTMLResponse:
    """What the last run's screenings left out for one reason, the least similar pairs first."""
    found = twins(store, reason, first, PAIRS)
    return page(
        request, "marks.html.j2", title="Marks", found=found,
        pages=pages(first, PAIRS, max(0, min(PAIRS, found.total - first)), found.total, reason=found.reason or None),
    )  # fmt: skip
