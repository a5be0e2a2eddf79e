"""The views of lineage: the way of one row from its files to what was made of it, and what became of a file's rows."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gradsift.datastore import ways
from gradsift.datastore.errors import InputError
from gradsift.explorer.paging import pages
from gradsift.explorer.shared import OpenStore, page
from gradsift.pipelines.query.lineage import ID, MOST_FILES, Deleted, Lineage, Traced, of_file, trace

router = APIRouter()
LINES = 100


@router.get("/lineage", response_class=HTMLResponse)
def of_a_file(
    request: Request,
    store: OpenStore,
    file: Annotated[str, Query(max_length=4_000)],
    first: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
) -> HTMLResponse:
    """What became of the rows of a file that was read, by its path as the store has it, or the end of that: no file is
    opened."""
    named = ways.files_named(store, file)
    if not named:
        raise InputError(f"no row of the store was read from {file!r}; the page of a row links to its files")
    if file not in named and len(named) > 1:
        raise InputError(f"several files end so: {', '.join(named[:MOST_FILES])}; give more of the path")
    found = of_file(store, file if file in named else named[0], rows=True)
    lines = found.lines[first : first + LINES]
    return page(
        request, "file.html.j2", title="Lineage of a file", found=found, lines=lines,
        pages=pages(first, LINES, len(lines), len(found.lines), file=file),
    )  # fmt: skip


@router.get("/lineage/{name}", response_class=HTMLResponse)
def of_row(request: Request, store: OpenStore, name: str) -> HTMLResponse:
    """The lineage of an example by its id, or the start of it."""
    traced = trace(store, name) if ID.fullmatch(name) else Traced()  # nothing else: it may be a path
    known: list[Lineage | Deleted] = [*traced.examples, *traced.deleted]
    if not known:
        raise InputError(f"no example has an id starting with {name!r}; Search finds rows by their words")
    found = known[0]
    return page(
        request, "lineage.html.j2", title=f"Lineage of {found.example_id[:8]}", found=found,
        deleted=isinstance(found, Deleted),
    )  # fmt: skip
