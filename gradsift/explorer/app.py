"""The explorer as an application: routers of its views, one store, and errors that say what to do."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from gradsift.datastore.errors import (
    BusyError,
    FeatureSpaceMismatch,
    GradsiftError,
    InputError,
    UnavailableError,
)
from gradsift.datastore.store import Store
from gradsift.explorer import api, lineage, marks, rows, runs, search, selections, sources
from gradsift.explorer import map as map_view
from gradsift.explorer.security import LOOPBACK, Rules, guarded
from gradsift.explorer.shared import NAVIGATION, STATIC, page
from gradsift.pipelines.query.models import keep_models
from gradsift.pipelines.version import VERSION

VIEWS = (map_view, search, api, rows, lineage, selections, sources, marks, runs)  # each with a router
PAGES = [
    route
    for view in VIEWS
    for route in view.router.routes
    if isinstance(route, APIRoute) and route.response_class is HTMLResponse
]
THREADS = 8  # that answer at once: each has a connection to the catalog
NO_PAGE = "there is no page here; the links above lead to those there are"


def make_app(store: Store, rules: Rules = LOOPBACK, *, models: bool = True) -> FastAPI:
    """The page of a store, for an ASGI server. The store stays its caller's, who closes it afterwards. `models`:
    whether a question of text may load the model of the rows, which is kept then."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield

    app = FastAPI(title="gradsift", version=VERSION, docs_url=None, redoc_url=None, lifespan=life)
    app.state.store, app.state.models = store, models
    if models:
        keep_models(store)
    app.add_middleware(guarded, rules=rules, is_view=_is_view)
    app.add_exception_handler(GradsiftError, _refused)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_api_route("/", _first_view, include_in_schema=False)
    for view in VIEWS:
        app.include_router(view.router)
    return app


def _is_view(scope: Scope) -> bool:
    """Whether a request is for a page to look at: not for numbers, files or JSON."""
    return scope["path"] == "/" or any(route.matches(scope)[0] is not Match.NONE for route in PAGES)


def _first_view() -> Response:
    return RedirectResponse(NAVIGATION[0][1], 307)


def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, GradsiftError):
        return _told(request, error.message, _status(error), error.more)
    return _told(request, str(error), 500)


def _status(error: Exception) -> int:
    if isinstance(error, InputError):
        return 400
    if isinstance(error, FeatureSpaceMismatch):
        return 409
    return 503 if isinstance(error, BusyError | UnavailableError) else 500


def _failed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = {404: NO_PAGE, 405: "this path takes no such request"}
    told = str(error.detail) if isinstance(error, HTTPException) else ""
    return _told(request, told if told and told not in ("Not Found", "Method Not Allowed") else known[status], status)


def _invalid(request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    return _told(request, "; ".join(map(_problem, problems)), 422)


def _problem(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return f"the body is no JSON: {one['ctx']['error']} at character {one['loc'][-1]}"
    return f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}"


def _told(request: Request, message: str, status: int, more: str = "") -> Response:
    """A page for a person, JSON for a program."""
    if "text/html" in request.headers.get("accept", ""):
        return page(request, "error.html.j2", status, title="Not possible", message=message, more=more)
    return JSONResponse({"error": message} | ({"more": more} if more else {}), status)
