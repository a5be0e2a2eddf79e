"""What views share: the open store, templates, and how text of the store is shown.

Legend of a view: `router` with its paths; a template of its own that extends `base.html.j2`. A path that shows
something is read by GET and says all in its query string, so that a link to it shows the same.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup, escape

from gradsift.datastore.store import Store
from gradsift.pipelines.version import VERSION

HERE = Path(__file__).parent
STATIC = HERE / "static"
NAVIGATION = (  # name and path of each view; the first one opens
    ("Map", "/map"),
    ("Search", "/search"),
    ("Selections", "/selections"),
    ("Compare", "/compare"),
    ("Sources", "/sources"),
    ("Marks", "/marks"),
    ("Runs", "/runs"),
)
SHOWN_CHARS = 20_000  # of a text, unless all of it is asked for
HIDDEN = {  # signs that show nothing, or turn what is around them
    *range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0),  # control signs, but for tab and line feed
    0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
    0xFFF9, 0xFFFA, 0xFFFB, *range(0xE0000, 0xE1000),  # tags and selectors: text that nobody sees
}  # fmt: skip


def _store_of(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


OpenStore = Annotated[Store, Depends(_store_of)]


def visible(text: str) -> str:
    """The text with a sign for each character that would show nothing or turn what is around it: control characters
    (escape sequences of terminals), overrides of direction, signs of no width. ‹U+202E› stands for one."""
    return text.translate(_SIGNS)


_SIGNS = {
    **{code: f"‹U+{code:04X}›" for code in HIDDEN},
    **{code: chr(0x2400 + code) for code in HIDDEN if code < 0x20},  # ␛ for escape
    0x0D: "␍",
    0x7F: "␡",
}


def excerpt(text: str, size: int) -> str:
    """The start of a text on one line, visible, with an ellipsis where there is more."""
    start = " ".join(text[: 4 * size].split())
    return visible(start if len(start) <= size and len(text) <= 4 * size else f"{start[: size - 1]}…")


def figure(value: Any) -> str:
    """A number as people read it; – for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def signal(value: float | None) -> str:
    """A signal with four digits that say something, a count as a count; – for none."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def score(value: float | None) -> str:
    """A score with as many decimals as others of its column; – for none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if not value or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def similarity(value: float) -> str:
    """A similarity with three decimals; none is −0."""
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "−")


def commands(text: str) -> Markup:
    """Text in which what stands between backticks is code; visible and escaped. A backtick without its twin stays."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - escaped


def percent(share: float) -> str:
    """A share from 0 to 1 as people read it; what rounds to nothing and is something says so."""
    return f"{share:.1%}" if share >= 0.0005 or not share else "< 0.1%"


def when(seconds: float | None) -> str:
    """A time, in seconds since 1970, as a date and a time of day of UTC; – for none."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
for _shows in (visible, excerpt, figure, percent, score, signal, similarity, when, commands):
    ENVIRONMENT.filters[_shows.__name__] = _shows
ENVIRONMENT.globals |= {"version": VERSION, "SHOWN_CHARS": SHOWN_CHARS, "navigation": NAVIGATION}


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as the answer to a request. `title` is its heading, and what it calls itself in the navigation."""
    text = ENVIRONMENT.get_template(template).render(path=request.url.path, url=str(request.url.query), **values)
    return HTMLResponse(text, status)
