"""JSON that the catalog holds, which who can write it may have made of anything."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from gradsift.datastore.errors import CorruptionError


def object_of(text: str | None, what: str) -> dict[str, Any]:
    """An object that the catalog holds as JSON; empty for null. Raises CorruptionError for another text."""
    try:
        document: dict[str, Any] = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{what} in the catalog is no JSON: {error}. Run `gradsift verify`") from error
    if not isinstance(document, dict):
        raise CorruptionError(f"{what} in the catalog is no JSON object. Run `gradsift verify`")
    return document


def with_rest(document: Mapping[str, Any], name: str, known: Collection[str], rest: str) -> list[dict[str, Any]]:
    """The objects that a document lists under a name; of each, what is not `known` under the name `rest`. Raises
    CorruptionError where it lists none."""
    try:
        return [
            {k: v for k, v in one.items() if k in known} | {rest: {k: v for k, v in one.items() if k not in known}}
            for one in document[name]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise CorruptionError(f"`{name}` in the catalog is no list of objects. Run `gradsift verify`") from error
