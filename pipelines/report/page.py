"""A report as a page of HTML and as Markdown.

Text of data sets is escaped by the template (and by `charts`); the page loads nothing and runs no script, and its
policy forbids both.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from gradsift.pipelines.report.charts import ON_PAPER, STYLE
from gradsift.pipelines.report.parts import Answer, Document, Matrix
from gradsift.pipelines.tables import Row, cell

MARKDOWN_ROWS = 40  # of a table, at most


def html(document: Document) -> str:
    """The page."""
    return _template().render(**vars(document), chart_style=STYLE, print_style=ON_PAPER)


@cache
def _template() -> jinja2.Template:
    """The page's template: to compile it takes a quarter of a second, and a run writes two pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"figure": figure, "sentence": _sentence, "commands": _commands}
    return environment.get_template("report.html.j2")


def _sentence(answer: Answer) -> Markup:
    """An answer's sentence with the target's name, which stands between asterisks, in italics; escaped."""
    target = escape(answer.target)
    return Markup(str(_commands(answer.text)).replace(f"*{target}*", f"<em>{target}</em>"))  # noqa: S704 - both escaped


def _commands(text: str) -> Markup:
    """Text in which what stands between backticks is code; escaped. A backtick without its twin stays one."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def markdown(document: Document) -> str:
    """Answers, the matrix, next steps, cards and tables as Markdown, for places that show no HTML (Prefect's
    artifacts)."""
    lines = [f"# {cell(document.name)}", "", cell(" · ".join(filter(None, [document.date, document.what]))), ""]
    if document.matrix is not None:
        lines += [*_matrix(document.matrix), "", cell(document.matrix.note), ""]
    lines += [f"- **{cell(answer.headline)}**: {cell(answer.text)}" for answer in document.answers]
    lines += ["", *(f"- **{cell(card.headline)}**: {cell(card.text)}" for card in document.cards)]
    if document.next:
        lines += ["", "## What to do next", "", *(f"- {cell(step)}" for step in document.next)]
    for section in document.sections:
        lines += ["", f"## {cell(section.title)}", ""]
        for part in section.parts:
            if part.table:
                lines += [f"### {cell(part.title)}", "", *_table(part.table[:MARKDOWN_ROWS]), ""]
    lines += ["", "## How it was made", "", *(f"- {fact['what']}: {cell(fact['value'])}" for fact in document.facts)]
    return "\n".join(lines) + "\n"


def _matrix(matrix: Matrix) -> list[str]:
    lines = [["arm", *map(cell, matrix.targets)]]
    lines += [
        [cell(line.arm), *(f"**{one.words}**" if one.best else one.words for one in line.cells)]
        for line in matrix.lines
    ]
    head, *body = ["| " + " | ".join(row) + " |" for row in lines]
    return [head, "|---|" + "---:|" * len(matrix.targets), *body]


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
