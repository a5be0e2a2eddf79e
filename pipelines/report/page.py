"""A report as a page of HTML and as Markdown.

Text of data sets is escaped by the template (and by `charts`); the page loads nothing and runs no script, and its
policy forbids both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from gradsift.pipelines.report.charts import STYLE
from gradsift.pipelines.report.parts import Document
from gradsift.pipelines.tables import Row, cell

MARKDOWN_ROWS = 40  # of a table, at most


def html(document: Document) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = figure
    return environment.get_template("report.html.j2").render(**vars(document), chart_style=STYLE)


def markdown(document: Document) -> str:
    """Cards and tables as Markdown, for places that show no HTML (Prefect's artifacts)."""
    lines = [f"# {cell(document.name)}", "", cell(document.what), ""]
    lines += [f"- **{cell(card.headline)}**: {cell(card.text)}" for card in document.cards]
    for section in document.sections:
        lines += ["", f"## {cell(section.title)}", ""]
        for part in section.parts:
            if part.table:
                lines += [f"### {cell(part.title)}", "", *_table(part.table[:MARKDOWN_ROWS]), ""]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    cells = [[cell(name) for name in rows[0]], *([_shown(value) for value in row.values()] for row in rows)]
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _shown(value: Any) -> str:
    return figure(value) if isinstance(value, int | float) else cell(value)


def figure(value: float) -> str:
    """A number as people read it."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
