"""How results look: tables and progress on a terminal, plain lines on a pipe, one JSON document with --json."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradsift.pipelines.progress import Progress
from gradsift.pipelines.tables import Row

LINE_SECONDS = 5.0
answered = False  # whether a document was printed: an error after it is told on standard error alone


def document(value: Any) -> None:
    """Print one JSON document on standard output."""
    global answered
    answered = True
    sys.stdout.write(json.dumps(value, ensure_ascii=True, default=str) + "\n")


FIRST = 24
LEAST = 8  # characters of a column of text, before numbers are folded


def table(title: str, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table; dataset text in it is escaped and stripped of control characters.

    Numbers, and the first column, which says what a line is about, are kept whole if the terminal is wide enough.
    """
    console = Console()
    if not rows:
        console.print(f"[bold]{title}[/bold]: none")
        return
    names = list(columns or rows[0])
    cells = {name: [cell(row.get(name)) for row in rows] for name in names}
    numbers = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    whole = numbers | ({names[0]} if max(map(len, cells[names[0]])) <= FIRST else set())
    widths = [max(map(len, [*cells[n], *n.replace("_", " ").split()])) if n in whole else LEAST for n in names]
    if sum(widths) + 2 * len(names) > console.width:
        whole = set()
    shown = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for name in names:
        words = name.replace("_", " ").split()
        shown.add_column(
            ("\n" if name in whole else " ").join(words),
            justify="right" if name in numbers else "left",
            overflow="fold",
            no_wrap=name in whole,
        )
    for line_cells in zip(*cells.values(), strict=True):
        shown.add_row(*line_cells)
    console.print(shown)


def cell(value: Any) -> str:
    """A value as safe text of a table cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{k} {v}" for k, v in value.items()) or "–"
    if isinstance(value, list):
        value = ", ".join(str(v) for v in value)
    return escape("".join(c if c.isprintable() else " " for c in str(value)))


def line(text: str) -> None:
    """Print a line on standard output."""
    Console().print(cell(text), highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error: bars on a terminal, else a line at most every five seconds."""
    if sys.stderr.isatty():
        yield from _bars()
    else:
        yield _lines()


def _bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        known: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in known:
                known[stage] = bars.add_task(escape(stage), total=total)
            bars.update(known[stage], completed=done, total=total)

        yield update


def _lines() -> Progress:
    last: dict[str, float] = {}
    begun: dict[str, tuple[float, int]] = {}

    def update(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        start, first = begun.setdefault(stage, (now, done))
        if now - last.get(stage, float("-inf")) < LINE_SECONDS and done != total:
            return
        last[stage] = now
        rate = (done - first) / (now - start) if now > start else 0.0
        left = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if rate and total else ""
        sys.stderr.write(f"{stage}: {done}{f' of {total}' if total else ''}{left}\n")
        sys.stderr.flush()

    return update
