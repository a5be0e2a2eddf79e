"""The report of a run: one HTML file that opens from disk, with every picture's figures; the same as JSON.

Everything is read from the store; only the pictures are made here.
"""

import json
from dataclasses import asdict
from pathlib import Path

from gradsift.datastore import inside, outputs, runs
from gradsift.datastore.files import disk_errors
from gradsift.datastore.runs import ArmRow, MixtureReport, Run, RunResult, last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import Recipe, recorded_recipe
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.report.advice import advice
from gradsift.pipelines.report.answers import HEADLINES, answers
from gradsift.pipelines.report.arms import BETTER
from gradsift.pipelines.report.facts import date_of, facts, recipe_text, words
from gradsift.pipelines.report.funnel import funnel
from gradsift.pipelines.report.kept import REPORTS, is_kept, newest_page, page_of
from gradsift.pipelines.report.matrix import matrix
from gradsift.pipelines.report.page import html
from gradsift.pipelines.report.parts import Card, Document
from gradsift.pipelines.report.sections import sections
from gradsift.pipelines.version import VERSION

CLAIMS = {
    "method": " About the method, if its sets vary no more than random ones.",
    "this set": " About this very set of rows; another draw may differ.",
}


def report(store: Store, run: Run | None = None) -> Document:
    """The report of a run, the store's last one by default."""
    run = run or last_run(store)
    recipe = recorded_recipe(run.recipes.resolved, "the recipe of the store's last run")
    result = run.result
    return Document(
        run.name,
        _what(recipe, result),
        cards(result),
        sections(store, recipe, run),
        VERSION,
        run=run.run_id,
        date=date_of(run),
        answers=answers(result),
        matrix=matrix(result.arms),
        next=advice(result),
        words=words(result),
        facts=facts(store, recipe, run),
        recipe=recipe_text(run),
    )


def write_report(store: Store, path: Path, run: Run | None = None) -> Path:
    """Write the HTML page and, beside it, the same as JSON; returns the page's path. In the store's own folder no link
    is followed (CorruptionError)."""
    document = report(store, run)
    outputs.note(store, "report", path)
    texts = {
        path: html(document),
        path.with_suffix(".json"): json.dumps(asdict(document), indent=1, ensure_ascii=False) + "\n",
    }
    for file, text in texts.items():
        if is_kept(store, path):
            inside.write_text(store.root, f"{REPORTS}/{file.name}", text)
            continue
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    return path


def keep_report(store: Store, run: Run, out: Path | None = None) -> Path:
    """Write a run's report to `out`, else to where it is kept, and to its name's page if no later run has the name.
    Returns `out`, or the page."""
    newest = next((one.run_id for one in runs.newest_of_each(store) if one.name == run.name), run.run_id)
    kept = page_of(store, run)
    write_report(store, kept, run)
    page = kept
    if newest == run.run_id:
        page = write_report(store, newest_page(store, run.name), run)
    return page if out is None else write_report(store, out, run)


def is_whole(path: Path) -> bool:
    """Whether a page and its JSON are there, to their ends."""
    try:
        json.loads(path.with_suffix(".json").read_text("utf-8"))
        return path.read_text("utf-8").rstrip().endswith("</html>")
    except (OSError, ValueError):
        return False


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def cards(result: RunResult) -> list[Card]:
    """One card for each target: is what was chosen better than random, in the figures behind its answer."""
    validated = [_card(arm) for arm in result.arms if arm.arm in OURS and "random" in arm.versus]
    if validated:
        return validated
    sizes = [(made.name, made.rows if isinstance(made, MixtureReport) else made.examples) for made in result.made]
    return [Card("Chosen", f"{name}: {rows:,} rows chosen. Not validated.", "") for name, rows in sizes]


def _card(arm: ArmRow) -> Card:
    versus = arm.versus["random"]
    change = f"{versus.difference:+.4f} nats per token"
    low, high, p_adjusted = versus.told
    interval = "" if low is None or high is None else f", 95 % [{low:+.4f}, {high:+.4f}]"
    p = "" if p_adjusted is None else f", {p_value(p_adjusted)} (corrected for {versus.comparisons})"
    rows = f", {versus.rows} test rows" if versus.rows else ""
    text = f"{arm.target}: {arm.arm} − random = {change}{interval}{p}, n = {versus.seeds} seeds{rows}."
    text += CLAIMS.get(versus.claim, "")
    unbeaten = [name for name, other in arm.versus.items() if other.verdict not in BETTER]
    if versus.verdict in BETTER and unbeaten:
        text += f" Not better than {', '.join(unbeaten)}."
    return Card(HEADLINES[versus.verdict], text, versus.verdict.replace(" ", "-"))


def _what(recipe: Recipe, result: RunResult) -> str:
    pool = result.ingest.pool
    used = funnel(result).used
    words = [f"{used:,} of {pool.rows_read:,} pool rows used"]
    if recipe.lm is not None:
        words.append(f"model {recipe.lm.hub or Path(recipe.lm.path or '').name}")
    words += [f"target {name}" for name in recipe.targets]
    if recipe.validate_:
        words.append(f"seeds {', '.join(map(str, recipe.validate_.seeds))}")
    return " · ".join(words)
