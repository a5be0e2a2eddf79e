"""The command that shows which rows stayed out."""

import json as to_json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app

if TYPE_CHECKING:
    from gradsift.pipelines.runs.stayed_out import Kind, Stayed

SHOWN = 20  # rows on a terminal
BATCH = 1_000


@app.command
def quarantine(
    *,
    source: str | None = None,
    reason: str | None = None,
    file: str | None = None,
    limit: Annotated[int | None, Parameter(name=["--limit", "-n"])] = None,
    csv: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show which rows stayed out, and why: refused when they were read, or of no use to the model of the last run.

    Parameters
    ----------
    source
        Only rows of this source.
    reason
        Only this reason: broken_json, role_order, no_labels, …
    file
        Only rows of this file: its path, or the end of it.
    limit
        How many rows; default: 20, and all with --json or --csv.
    csv
        Print the rows as CSV.
    """
    from gradsift import api
    from gradsift.cli import show
    from gradsift.datastore.errors import InputError

    if csv and json:
        raise InputError("give either --csv or --json")
    if csv or json:
        _print_all(store, (source, reason, file), limit, csv=csv)
        return
    shown = SHOWN if limit is None else limit
    stayed = api.quarantine(store, source=source, reason=reason, file=file, limit=shown)
    if not stayed.kinds:
        reasons = ", ".join(sorted({kind.reason for kind in api.quarantine(store, limit=0).kinds}))
        show.line(
            f"Nothing stayed out of what was asked for; there are {reasons}." if reasons else "Nothing stayed out."
        )
        return
    show.table("Rows that stayed out", [asdict(kind) for kind in stayed.kinds])
    _print_rows(stayed.rows)
    total = sum(kind.rows for kind in stayed.kinds)
    if shown < total:
        show.line(f"{shown:,} of {total:,} rows; --limit, --csv and --json show more.")


def _print_all(store: Path, asked: tuple[str | None, str | None, str | None], limit: int | None, *, csv: bool) -> None:
    """All rows that are asked for, written as they are read: there may be more than fit into memory."""
    from gradsift.cli import show
    from gradsift.datastore.amounts import require_number
    from gradsift.datastore.quarantine import Asked
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.stayed_out import kinds, stayed_out

    require_number("--limit", limit)
    with Store(store, create=False) as opened:
        rows = stayed_out(opened, Asked(*asked), limit)
        if csv:
            _print_csv(rows)
            return
        found = kinds(opened, Asked(*asked))
        show.answered = True
        _print_json(found, rows)


def _print_rows(rows: "Sequence[Stayed]") -> None:
    """Rows as a few lines each: paths and excerpts are too long for a table."""
    from gradsift.cli import show

    for row in rows:
        show.line(f"{row.file}:{row.line}  {row.reason} ({row.source})")
        show.line(f"    {row.detail}")
        if row.excerpt:
            show.line(f"    | {row.excerpt}")
        if row.example_id:
            show.line(f"    example {row.example_id}")


def _print_json(found: "list[Kind]", rows: "Iterator[Stayed]") -> None:
    """One document, written as it is read."""
    sys.stdout.write(f'{{"kinds": {to_json.dumps([asdict(kind) for kind in found])}, "rows": [')
    for number, row in enumerate(rows):
        sys.stdout.write(f"{', ' if number else ''}{to_json.dumps(asdict(row))}")
    sys.stdout.write("]}\n")


def _print_csv(rows: "Iterator[Stayed]") -> None:
    from gradsift.pipelines.runs.stayed_out import Stayed
    from gradsift.pipelines.tables import as_csv

    header = as_csv([asdict(Stayed("", "", "", 0, "", "", "", ""))]).partition("\n")[0]
    sys.stdout.write(f"{header}\n")
    while part := list(islice(rows, BATCH)):
        sys.stdout.write(as_csv([asdict(row) for row in part]).partition("\n")[2])
