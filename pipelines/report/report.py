"""The report of a run: one HTML file that opens from disk, with every picture's figures; the same as JSON and Markdown.

Everything is read from the store; nothing is computed anew but pictures. Text of data sets is escaped by the template
(and by `charts`), the page loads nothing and runs no script (its policy forbids both).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from gradsift.datastore.files import disk_errors
from gradsift.datastore.selections import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import Recipe, parse_recipe
from gradsift.pipelines.report.sections import Section, sections
from gradsift.pipelines.version import VERSION


def report(store: Store, run: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report as data: name, what, cards, sections (each with parts: title, note, svg, table)."""
    run = run or last_run(store)
    recipe = parse_recipe(run["recipe"], "the recipe of the store's last run")
    run = {**run, "summary": {"mixtures": []} | run["summary"]}  # runs of older versions have none
    summary = run["summary"]
    return {
        "name": run["name"],
        "what": _what(recipe, summary),
        "cards": cards(summary),
        "sections": [asdict(s) for s in sections(store, recipe, run)],
        "version": VERSION,
    }


def write_report(store: Store, path: Path, run: Mapping[str, Any] | None = None) -> Path:
    """Write the HTML page and, beside it, the same as JSON; returns the page's path."""
    document = report(store, run)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html(document), "utf-8")
        path.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def html(document: Mapping[str, Any]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = figure
    return environment.get_template("report.html.j2").render(**document)


def markdown(document: Mapping[str, Any]) -> str:
    """Cards and tables as Markdown, for places that show no HTML (Prefect's artifacts)."""
    from gradsift.pipelines.export.card import cell

    lines = [f"# {cell(document['name'])}", "", cell(document["what"]), ""]
    lines += [f"- **{cell(c['headline'])}**: {cell(c['text'])}" for c in document["cards"]]
    for section in document["sections"]:
        lines += ["", f"## {cell(section['title'])}", ""]
        for part in section["parts"]:
            if part["table"]:
                lines += [f"### {cell(part['title'])}", "", *_markdown_table(part["table"][:40]), ""]
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from gradsift.pipelines.export.card import cell

    names = list(rows[0])
    shown = [
        [figure(v) if isinstance(v, int | float) and not isinstance(v, bool) else cell(v) for v in row.values()]
        for row in rows
    ]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(r) + " |" for r in shown)]


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


def _what(recipe: Recipe, summary: Mapping[str, Any]) -> str:
    pool = summary["ingest"]["pool"]
    parts = [f"{pool.get('used', pool['examples']):,} of {pool['rows_read']:,} pool rows used"]
    if recipe.lm is not None:
        parts.append(f"model {recipe.lm.hub or Path(recipe.lm.path or '').name}")
    parts += [f"target {name}" for name in recipe.targets]
    if recipe.validate_:
        parts.append(f"seeds {', '.join(map(str, recipe.validate_.seeds))}")
    return " · ".join(parts)


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def cards(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """One card for each target: is what was chosen better than random, in words."""
    out = []
    for arm in summary["arms"]:
        if arm["arm"] not in ("selected", "mixture") or "random" not in arm["versus"]:
            continue
        v = arm["versus"]["random"]
        words = {
            "better": "Better than random",
            "worse": "Worse than random",
            "no evidence": "No evidence",
            "one seed": "One seed: no verdict",
        }[v["verdict"]]
        change = f"{v['difference']:+.4f} nats per token"
        interval = "" if v["low"] is None else f", 95 % [{v['low']:+.4f}, {v['high']:+.4f}]"
        p = "" if v["p_adjusted"] is None else f", {p_value(v['p_adjusted'])} (corrected for {v['comparisons']})"
        text = f"{arm['target']}: {arm['arm']} − random = {change}{interval}{p}, n = {v['seeds']} seeds."
        others = [name for name, other in arm["versus"].items() if other["verdict"] != "better"]
        if v["verdict"] == "better" and others:
            text += f" Not better than {', '.join(others)}."
        out.append({"headline": words, "text": text, "kind": v["verdict"].replace(" ", "-")})
    if not out:
        for made in (*summary["selections"], *summary.get("mixtures", [])):
            text = f"{made['name']}: {made.get('rows', made['examples']):,} rows chosen. Not validated."
            out.append({"headline": "Chosen", "text": text, "kind": ""})
    return out


__all__ = ["Section", "cards", "html", "markdown", "report", "write_report"]
