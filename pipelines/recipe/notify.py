"""Telling others what runs make."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from gradsift.pipelines.recipe.section import Section

Kind = Literal["mixture made", "selection made", "drift above", "run failed"]
KINDS: tuple[Kind, ...] = ("mixture made", "selection made", "drift above", "run failed")
VARIABLE = re.compile(r"\$[A-Z_][A-Z0-9_]*")


def _usable(url: str) -> str:
    if VARIABLE.fullmatch(url):
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL, such as https://host/path, or the variable that holds it, such as $WEBHOOK")
    if parts.username is not None or parts.query:
        raise ValueError("holds something secret and would be written down with every run: name a variable, $WEBHOOK")
    return url


class Notify(Section):
    """Tell others what a run made: a JSON document is posted to a URL."""

    webhook: Annotated[str, AfterValidator(_usable)]
    """`https://host/path`, which is recorded with every run, or `$NAME`: the environment variable that holds it."""
    events: tuple[Kind, ...] = KINDS
    """What is told: a new version of a mixture or selection, a pool that has moved away from its warm-up, a failed
    run."""
