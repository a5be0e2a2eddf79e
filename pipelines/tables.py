"""Text of data sets in tables of Markdown and CSV: signs that Markdown, HTML, a spreadsheet or a terminal would act on
are escaped or taken out. A table is a list of rows with the same columns, in the order of the first row."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from gradsift.datastore.chats import Messages, turn_text

Row = Mapping[str, Any]  # of a table, by column
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shortened(text: str, size: int) -> str:
    """The text, or its start and an ellipsis: at most `size` characters."""
    return text if len(text) <= size else f"{text[: size - 1]}…"


def first_turn(chat: Messages, role: str, size: int) -> str:
    """The first turn of a role in a chat, shortened; empty where there is none."""
    return shortened(next((turn_text(turn) for turn in chat if turn["role"] == role), ""), size)


def printable(text: str) -> str:
    """The text with a space for every character that does not print."""
    return "".join(c if c.isprintable() else " " for c in text)


def visible(text: str) -> str:
    """The text with what a terminal would obey, or not show, spelled out, but for ends of lines: for messages, in which
    names may be those of any file."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table of escaped cells; numbers to the right."""
    if not rows:
        return "None.\n"
    names = list(rows[0])
    numeric = {n for n in names if all(isinstance(row[n], int | float | None) for row in rows)}
    lines = [
        "| " + " | ".join(n.replace("_", " ") for n in names) + " |",
        "|" + "|".join("---:" if n in numeric else "---" for n in names) + "|",
    ]
    lines += ["| " + " | ".join(cell(row[n]) for n in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """A value as text that stays inside its cell."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = printable(str(value))
        for sign, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\["), ("!", "\\!")):
            text = text.replace(sign, safe)
        return text
    return f"{value:,}" if isinstance(value, int) else f"{value:.1%}"


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV; a text cell that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0]) if rows else ["source", "rows"]
    writer.writerow(names)
    writer.writerows([safe_csv(row[n]) for n in names] for row in rows)
    return text.getvalue()


def safe_csv(value: Any) -> Any:
    """A CSV cell without a formula or control characters."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) or value.startswith(FORMULA) else text
