"""What an export says of itself: its card, croissant.json, and whose tokens the configs are for."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq

from gradsift.datastore import selections
from gradsift.datastore.runs import BY_HAND, Recipes
from gradsift.pipelines.export import about, card, croissant
from gradsift.pipelines.export.job import PLACELESS, Job
from gradsift.pipelines.export.rows import Labels, Layout, rows_in
from gradsift.pipelines.export.trainers import Tokens
from gradsift.pipelines.recipe import Encoding
from gradsift.pipelines.select.told import told
from gradsift.pipelines.tables import Row

KEEPS_ANSWERS = (
    "The rows were chosen under `encoding.truncation: keep_answer`: of a chat that is too long, the middle of its "
    "prompt went. A trainer that reads `messages` cuts the end of such a chat instead, answer and all. Export with "
    "`export: {labels: true}` to train on what was chosen."
)
KEEPS_ANSWERS_LABELLED = (
    "Of a chat that is too long, `input_ids` lack the middle of the prompt (`encoding.truncation: keep_answer`); "
    "`messages` are whole."
)


def card_of(job: Job, plan: Layout, digest: str, labels: Labels | None) -> card.Card:
    """The card of an export, as those of the first layouts have it."""
    labelled = labels is not None
    selection, rows = job.selection, len(plan.item)
    asked = selections.plan(job.store, selection)
    what, notes, again = f"Chosen by `{selection.method}` for the target `{selection.target}`.", list[str](), card.AGAIN
    if selection.method == BY_HAND:
        what = "Picked by hand among the examples of a pool, in the order of their ids."
        again = "`gradsift run recipe.yaml` reads the pool again that they were picked from"
    composition: list[Row] = [
        {"source": name, "rows": n, "share": n / rows} for name, n in sources_of(plan).most_common()
    ]
    if asked:
        what = f"A mixture: {asked.requested:,} {asked.unit} asked for, {asked.realised:,} in it."
        notes = [f"Shares are of each part's budget. Rule: {asked.rule}. Order: {asked.order}."]
        composition = [asdict(line) for line in asked.table]
    if labelled:
        notes.append(
            "`input_ids` and `labels` are those of the recipe's tokenizer; −100 has no loss. LLaMA-Factory reads "
            "`messages` and does not use them."
        )
    if labels is not None and job.layout != PLACELESS:
        notes.append(_tokens_words(labels))
    if _keeps_answers(job.recipes):
        notes.append(KEEPS_ANSWERS_LABELLED if labelled else KEEPS_ANSWERS)
    return card.Card(
        name=selection.name,
        what=what,
        rows=rows,
        examples=len(selection.example_ids),
        licences={name or "unknown": count for name, count in licences_of(plan).items()},
        composition=composition,
        pattern=f"data/train-*.{job.options.format}",
        digest=digest,
        lineage={
            "export": digest,
            "selection": selection.digest,
            "method": selection.method,
            "seed": job.seed,
            "recipe": job.recipes.resolved.get("name", ""),
        },
        notes=notes,
        version=job.made_by["gradsift"],
        again=again,
        hub_sources=[source["hub"] for source in job.recipes.written.get("pool", []) if source.get("hub")],
    )


def told_in(job: Job, described: card.Card, tokens: Tokens, data: Path) -> card.Card:
    """The card with how the rows were chosen, and its columns and configs."""
    asked = selections.plan(job.store, job.selection)
    tried = selections.portfolio(job.store, job.selection)
    trials = told(tried) if tried is not None else ""
    how = about.how(job.selection, job.lineage, asked, job.recipes.written, job.told, trials)
    return replace(described, how=how, columns=about.columns(_columns(data)), configs=_ready(tokens))


def croissant_of(job: Job, plan: Layout, described: card.Card, folder: Path, files: Mapping[str, str]) -> str:
    """The text of croissant.json, for {name: sha256} of all other files of the export in a folder."""
    data = folder / next(name for name in files if name.startswith("data/"))
    parquet = data.suffix == ".parquet"
    about = croissant.About(
        name=described.name,
        what=described.what,
        method=job.selection.method,
        rows=sum(rows_in(folder / name) for name in files if name.startswith("data/")),
        licences=described.licences,
        version=job.told.version,
        selection=job.selection.digest,
        program=described.version,
        schema=pq.read_schema(data) if parquet else croissant.schema(_columns(data), plan.facts.schema),
        pattern=described.pattern,
    )
    return croissant.croissant(about, {name: ((folder / name).stat().st_size, sha) for name, sha in files.items()})


def tokens_of(job: Job, labels: Labels | None, *, tools: bool) -> Tokens:
    """How its rows become tokens."""
    resolved = job.recipes.resolved
    model = resolved.get("model") or {}
    return Tokens(
        labelled=labels is not None,
        pruned=selections.is_masked(job.selection),
        max_length=Encoding.model_validate(resolved.get("encoding") or {}).max_length if model else None,
        model=model.get("hub"),
        keeps_answers=_keeps_answers(job.recipes),
        tools=tools,
    )


def licences_of(plan: Layout) -> Counter[str | None]:
    """{licence or None: rows}, the most frequent first."""
    names = plan.facts["licence"].to_pylist()
    return Counter(dict(Counter(names[k] or None for k in plan.item.tolist()).most_common()))


def sources_of(plan: Layout) -> Counter[str]:
    """{source: rows}."""
    names = plan.facts["source"].to_pylist()
    return Counter(names[k] for k in plan.item.tolist())


def unlicensed(plan: Layout, rows: int) -> str:
    """That rows without a licence were refused, and whose they are."""
    pairs = zip(plan.facts["source"].to_pylist(), plan.facts["licence"].to_pylist(), strict=True)
    bare = Counter(source for source, licence in pairs if not licence)
    named = ", ".join(f"{source} ({count:,})" for source, count in bare.most_common(5))
    return (
        f"export.require_licence: {rows:,} rows have no licence, of sources {named}. Give these sources a `licence` in "
        "the recipe, or leave them out."
    )


def _keeps_answers(recipes: Recipes) -> bool:
    return bool(recipes.resolved.get("encoding", {}).get("truncation") == "keep_answer")


def _tokens_words(labels: Labels) -> str:
    """Whose tokens they are: another tokenizer reads other words in them, and nothing would say so."""
    from gradsift.pipelines.model.encode import tokenizer_digest

    encoding = labels.encoding
    return (
        f"They are cut at {encoding.max_length:,} tokens (`max_length`; truncation `{encoding.truncation}`), and "
        f"belong to the tokenizer with the digest `{tokenizer_digest(labels.tokenizer)[:12]}`, its chat template "
        "included. A model with another one would train on other words without an error: give it `messages`."
    )


def _ready(tokens: Tokens) -> str:
    """Which config is for whom."""
    said = "`trl.yaml`, `axolotl.yaml` and `dataset_info.json` (LLaMA-Factory) are ready configs for trainers."
    if tokens.labelled and not tokens.pruned:
        said += " `trl.yaml` is for the recipe's model, whose tokens the rows hold, `trl-messages.yaml` for others."
    return said


def _columns(data: Path) -> list[str]:
    """Names of the columns of a data file."""
    if data.suffix == ".parquet":
        return list(pq.read_schema(data).names)
    with data.open(encoding="utf-8") as lines:
        return list(json.loads(lines.readline()))
