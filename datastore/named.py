"""The named queries of `sql/queries`: what each is for, the parameters it takes, and its rows.

The first line of a query's file says it: `-- What is asked? Parameters: id (text: …), number (integer)`. Values are
bound to the statement, never written into it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gradsift import sql
from gradsift.datastore.engine import Record
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.datastore.suggest import suggestion

HEAD = re.compile(r"-- (?P<words>.*?)(?: Parameters: (?P<parameters>.*))?\n")
PARAMETER = re.compile(r"(\w+) \((text|integer)(?:: ([^)]*))?\)")


@dataclass(frozen=True)
class NamedQuery:
    """A query by its name; `parameters` are {name: type, and what it is}."""

    name: str
    words: str
    parameters: Mapping[str, str]


def queries() -> list[NamedQuery]:
    """The named queries, by name; they are the same for every database."""
    return [_query(name) for name in sql.query_names()]


def run(store: Store, name: str, given: Mapping[str, str | int]) -> list[Record]:
    """Rows of a named query. Raises InputError for an unknown name, and for parameters that are not those it takes."""
    names = sql.query_names()
    if name not in names:
        hint = suggestion(name, names, f"there are {', '.join(names)}")
        raise InputError(f"there is no query {name!r}; {hint}")
    query = _query(name)
    if set(given) != set(query.parameters):
        takes = ", ".join(f"{key} ({what})" for key, what in query.parameters.items()) or "no parameter"
        got = ", ".join(given) or "none"
        raise InputError(f"query {name} takes {takes}, and got {got}; give each as -p NAME=VALUE")
    return store.catalog.named(name, **{key: _value(name, key, query, value) for key, value in given.items()})


def _query(name: str) -> NamedQuery:
    head = HEAD.match(sql.query(name))
    assert head is not None  # noqa: S101 - a test looks at each file
    parameters = {key: f"{kind}: {what}" if what else kind for key, kind, what in PARAMETER.findall(head[2] or "")}
    return NamedQuery(name, head["words"], parameters)


def _value(name: str, key: str, query: NamedQuery, value: str | int) -> str | int:
    if query.parameters[key].startswith("text"):
        return str(value)
    try:
        return int(value)
    except ValueError:
        raise InputError(f"query {name}: {key} is an integer, not {value!r}") from None
