"""The views of runs: their state, what they made, and the reports that they wrote."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, Response

from gradsift.datastore import runs
from gradsift.datastore.lives import lives
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.report.kept import listed, read_page

router = APIRouter()
# A report is one page with its style and pictures inside; it needs nothing else, and what is in it may do nothing else.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
REPORT_HEADERS = {"content-security-policy": REPORT_POLICY, "x-dns-prefetch-control": "off"}


@router.get("/runs", response_class=HTMLResponse)
def all_of_them(request: Request, store: OpenStore) -> HTMLResponse:
    """All runs, the newest first."""
    kept = {one.run: one for one in listed(store)}
    return page(request, "runs.html.j2", title="Runs", lives=lives(store)[::-1], kept=kept)


@router.get("/runs/{number}/report", response_class=HTMLResponse)
def of_run(store: OpenStore, number: Annotated[int, Path(ge=0, lt=1 << 31)]) -> Response:
    """The report of a run as it stands in the store's folder, in a sandbox of its own."""
    text = read_page(store, runs.get(store, number))
    return HTMLResponse(text, headers=REPORT_HEADERS)
