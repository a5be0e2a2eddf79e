"""How results look: tables and progress on a terminal, plain lines on a pipe, one JSON document with --json."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gradsift.pipelines.progress import Progress
from gradsift.pipelines.tables import Row, printable, visible

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
    """Print rows as a table; dataset text in it is stripped of control characters, and its markup is text.

    Numbers, and the first column, which says what a line is about, are kept whole if the terminal is wide enough; then
    words are, and paths and names that do not fit are broken after a slash or dash.
    """
    console = Console()
    if not rows:
        console.print(Text.assemble((title, "bold"), ": none"))
        return
    console.print(Text(title, "bold"))  # not the table's own, which would be wrapped at the table's width
    names = list(columns or rows[0])
    cells = {name: [plain(row.get(name)) for row in rows] for name in names}
    numbers = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    whole = numbers | ({names[0]} if max(map(cell_len, cells[names[0]])) <= FIRST else set())
    words = {name: name.replace("_", " ").split() for name in names}
    most = {name: max(map(cell_len, [*cells[name], *words[name]])) for name in names}
    least = {n: most[n] if n in whole else max(map(cell_len, [*words[n], *" ".join(cells[n]).split()])) for n in names}
    widths = _widths(most, least, whole, console.width - 2 * len(names) - 1)
    shown = Table(header_style="dim", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        shown.add_column(
            Text(("\n" if name in whole else " ").join(words[name])),
            justify="right" if name in numbers else "left",
            overflow="fold",
            width=widths[name],
        )
    for k in range(len(rows)):
        shown.add_row(*(Text(_broken(cells[name][k], widths[name])) for name in names))
    console.print(shown)


def _widths(most: Mapping[str, int], least: Mapping[str, int], whole: Set[str], room: int) -> dict[str, int]:
    """Widths of columns that need `most` for one line, and `least` to cut no word: where there is room for more, the
    narrowest gets it; where there is not enough, the widest column of text is narrower, in the end any. One whose words
    are cut by that is narrower still, as long as a longer text takes fewer lines for it."""
    widths, cut = dict(least), set[str]()

    def lines(name: str, less: int = 0) -> int:
        return -(-most[name] // (widths[name] - less))

    while sum(widths.values()) > room and max(widths.values()) > 1:
        texts = [name for name in widths if name not in whole and widths[name] > LEAST]
        widest = max(texts or widths, key=lambda name: widths[name])
        widths[widest] -= 1
        cut.add(widest)
    tallest = max(widths, key=lines)
    while giving := [name for name in cut if widths[name] > LEAST and lines(name, 1) < lines(tallest)]:
        widths[max(giving, key=lambda name: widths[name])] -= 1
        widths[tallest] += 1
        tallest = max(widths, key=lines)
    while sum(widths.values()) < room and (short := [name for name in widths if widths[name] < most[name]]):
        widths[min(short, key=lambda name: widths[name])] += 1
    return widths


def _broken(text: str, width: int) -> str:
    """The text with words that are wider than a column broken after a slash or dash."""
    words = text.split(" ")
    for k, word in enumerate(words):
        lines = [""]
        for part in re.split(r"(?<=[/_-])", word) if cell_len(word) > width else [word]:
            if lines[-1] and cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
        words[k] = "\n".join(lines)
    return " ".join(words)


def plain(value: Any) -> str:
    """A value as the text of a table's cell, on one line."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{k} {v}" for k, v in value.items()) or "–"
    if isinstance(value, list):
        value = ", ".join(str(v) for v in value)
    return printable(str(value))


def line(text: str) -> None:
    """Print a line on standard output."""
    Console().print(escape(plain(text)), highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error: bars on a terminal, else a line at most every five seconds."""
    if sys.stderr.isatty():
        yield from _bars()
    else:
        yield _lines()


def pace(seconds: float, done: int, left: int) -> str:
    """How fast something goes and what is left of it, as the end of a line; nothing as long as that is not known."""
    if seconds <= 0 or done <= 0 or left < 0:
        return ""
    each = seconds / done
    rate = f"{1 / each:.1f}/s" if each <= 1 else f"{each:.1f} s each" if each < 10 else f"{each:.0f} s each"
    return f", {rate}, {duration(left * each)} left" if left else f", {rate}"


def duration(seconds: float) -> str:
    """A time as a person reads it: 40 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        known: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in known:
                known[stage] = bars.add_task(escape(visible(stage)), total=total)
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
        left = pace(now - start, done - first, (total or 0) - done)
        sys.stderr.write(f"{visible(stage)}: {done}{f' of {total}' if total else ''}{left}\n")
        sys.stderr.flush()

    return update
