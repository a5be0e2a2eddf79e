"""What happened in a run, for others: events, and the webhook that they are posted to.

The body of a POST is one JSON object: `event` (what happened), `store` (its folder), `run` (its name), and of

    mixture made, selection made   version, name, number, rows, came, left (null: nothing to compare), export
    drift above                    warmup, drift (null: too few rows), share, max_drift
    run failed                     error (its type), message ('' where it could hold text of rows)

A version that was there before is not told again. A webhook that does not answer fails no run: it is tried three times,
and then said.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from gradsift.datastore.errors import BusyError, GradsiftError
from gradsift.datastore.runs import Json, RunResult
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe.notify import Kind, Notify

T = TypeVar("T")
OF_VERSION = ("version", "name", "number", "rows", "came", "left")
TIMEOUT = 10.0
DELAYS = (0.0, 1.0, 5.0)  # before each try


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    what: Kind
    store: str
    run: str
    facts: Json = field(default_factory=dict)

    def document(self) -> Json:
        """As plain data."""
        return {"event": self.what, "store": self.store, "run": self.run, **self.facts}


Tell = Callable[[Event], None]


def telling(name: str, root: Path, tell: Tell, action: Callable[[], RunResult]) -> RunResult:
    """Do a run, and tell what happened. Raises what the run raised, which is told unless the store was only busy."""
    try:
        result = action()
    except BusyError:
        raise
    except Exception as error:
        tell(failure(root, name, error))
        raise
    for event in events_of(root, result):
        tell(event)
    return result


def events_of(root: Path, result: RunResult) -> Iterator[Event]:
    """What happened in a run that finished."""
    store = str(root.resolve())
    exports = {made.name: made.export for made in result.made}
    for version in result.versions:
        if version.new and version.kind != "pool":
            facts: Json = {name: getattr(version, name) for name in OF_VERSION}
            what: Kind = "mixture made" if version.kind == "mixture" else "selection made"
            yield Event(what, store, result.name, {**facts, "export": exports.get(version.name)})
    if result.drift is not None and result.drift.advised:
        facts = {name: getattr(result.drift, name) for name in ("warmup", "drift", "share", "max_drift")}
        yield Event("drift above", store, result.name, facts)


def failure(root: Path, name: str, error: Exception) -> Event:
    """That a run failed."""
    message = str(error) if isinstance(error, GradsiftError) else ""
    return Event("run failed", str(root.resolve()), name, {"error": type(error).__name__, "message": message})


def webhook(notify: Notify | None, progress: Progress) -> Tell:
    """Post what a recipe asks for; what was in vain is said as progress."""

    def tell(event: Event) -> None:
        if notify is not None and event.what in notify.events:
            why = post(notify.webhook, event.document())
            if why:
                progress(f"webhook: {event.what!r} was not told: {why}", 1, 1)

    return tell


def post(url: str, document: Json) -> str:
    """Post a document; returns why it did not get there, or ''. At most about 40 s. Names the host alone."""
    if url.startswith("$"):
        name, url = url, os.environ.get(url[1:], "")
        if urlsplit(url).scheme not in ("http", "https"):
            return f"{name} holds no URL"
    data = json.dumps(document).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - http(s), see above
    why = ""
    for delay in DELAYS:
        time.sleep(delay)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
                return ""
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException) as error:
            why = type(error.reason if isinstance(error, urllib.error.URLError) else error).__name__
    return f"{urlsplit(url).hostname}: {why}"
