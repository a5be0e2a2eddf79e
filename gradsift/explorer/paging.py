"""Long lists a page at a time: which rows stand on it, and the links to those before and after."""

from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True)
class Pages:
    """A page of a list: the numbers of its `first` row and of the one after its `last`, of `total` (None: unknown);
    `before` and `after` are query strings of the pages next to it, '' where there is none."""

    first: int
    last: int
    total: int | None
    before: str = ""
    after: str = ""


def pages(first: int, size: int, shown: int, total: int | None, **query: str | None) -> Pages:
    """A page of at most `size` rows of which `shown` are there. `query` are the other parameters of the list's URL;
    those that are None are left out."""
    given = {name: value for name, value in query.items() if value is not None}

    def link(start: int) -> str:
        return urlencode(given | ({"first": str(start)} if start else {})) or "first=0"

    more = shown == size if total is None else first + shown < total
    return Pages(
        first, first + shown, total, link(max(0, first - size)) if first else "", link(first + size) if more else ""
    )
