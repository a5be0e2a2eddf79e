"""Functions that look into a store: what it holds, and what stayed out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyStore, opened

if TYPE_CHECKING:
    from gradsift.datastore.overview import Table
    from gradsift.pipelines.pool.marked import Marked
    from gradsift.pipelines.runs.stayed_out import Kind, Stayed


@dataclass(frozen=True)
class StayedOut:
    """Rows that stayed out: counted by dataset, source and reason, the most first; and one by one."""

    kinds: "list[Kind]"
    rows: "list[Stayed]"


def status(store: AnyStore = "store") -> "dict[str, Table]":
    """What a store holds: examples, files, quarantine, feature rows, selections, validation arms, live work.

    Parameters
    ----------
    store
        Folder of the store, or an open one.

    Returns
    -------
    dict of list of dict
        Tables by name, as lists of rows.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> by_source = {row["source"]: row["examples"] for row in gradsift.status("store")["examples"]}
    """
    from gradsift.datastore.overview import overview

    with opened(store) as there:
        return overview(there)


def marks(store: AnyStore = "store", *, reason: str | None = None, k: int = 10) -> "Marked":
    """Show what the last run's screening left out: near-duplicates and leaked test rows, each beside its twin.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    reason
        Only this reason: leak_ngrams, leak_near_duplicate, exact, near_duplicate, semantic.
    k
        How many pairs to show.

    Returns
    -------
    Marked
        `summary` by reason, and `pairs`, the least similar first.

    Raises
    ------
    InputError
        Where no run has finished, and for a reason that left nothing out.

    Example
    -------
    >>> pairs = gradsift.marks("store", k=3).pairs
    """
    from gradsift.pipelines.pool.marked import marked

    with opened(store) as there:
        return marked(there, reason, k)


def quarantine(
    store: AnyStore = "store",
    *,
    source: str | None = None,
    reason: str | None = None,
    file: str | None = None,
    limit: int | None = None,
) -> StayedOut:
    """Show which rows stayed out, and why: refused when they were read, or of no use to the model of the last run.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    source
        Only rows of this source.
    reason
        Only this reason: broken_json, role_order, no_labels, …
    file
        Only rows of this file: its path, or the end of it.
    limit
        How many rows; default: all. `kinds` counts all in any case.

    Returns
    -------
    StayedOut
        `kinds`, counted, and `rows` with file, line, reason, detail and excerpt.

    Raises
    ------
    InputError
        For a limit that is negative, or over 2^63 - 1.

    Example
    -------
    >>> stayed = gradsift.quarantine("store", limit=5)
    >>> sum(kind.rows for kind in stayed.kinds) >= len(stayed.rows)
    True
    """
    from gradsift.datastore.amounts import require_number
    from gradsift.datastore.quarantine import Asked
    from gradsift.pipelines.runs.stayed_out import kinds, stayed_out

    require_number("--limit", limit)
    asked = Asked(source, reason, file)
    with opened(store) as there:
        return StayedOut(kinds(there, asked), list(stayed_out(there, asked, limit)))
