"""What the report shows, section by section, from what a run made and the store."""

from collections.abc import Sequence
from dataclasses import asdict

from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import PoolReport, Run, RunResult
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.report.arms import arm_sections
from gradsift.pipelines.report.cascade import cascade_parts
from gradsift.pipelines.report.chosen import chosen_of, chosen_parts, sample_parts
from gradsift.pipelines.report.cost import Cost, costs
from gradsift.pipelines.report.drift import drift_parts
from gradsift.pipelines.report.funnel import funnel_parts
from gradsift.pipelines.report.parts import Part, Section
from gradsift.pipelines.report.portfolio import portfolio_section
from gradsift.pipelines.report.versions import version_parts
from gradsift.pipelines.report.worth import rows_of

HOW_IT_PAYS = (
    "Gain over random in nats per token, divided by all FLOPs spent for it: a target's part of selecting, and one "
    "training. A selection pays where it costs less than the training on more random rows that would gain as much, if "
    "they went on as they began; they slow down, so it may pay earlier. Arms that are not told apart from random have "
    "no line."
)
SELECTING = ("warm-up", "gradient rows")  # costs that serve every target


def sections(store: Store, recipe: Recipe, run: Run) -> list[Section]:
    """All sections that have something to show."""
    result = run.result
    chosen = chosen_of(store, result)
    every = [
        *arm_sections(result.arms, recipe.validate_.lrs if recipe.validate_ else []),
        portfolio_section(result.selections),
        Section("What was chosen", [*cascade_parts(result.cascade), *chosen_parts(store, result, chosen)]),
        Section("What stayed out", [*funnel_parts(result), *_left_out(result.ingest.pool), *_of_the_model(result)]),
        Section("Rows in and out", [part for one in chosen.all for part in sample_parts(store, result, one)]),
        Section("Since the last version", version_parts(store, run)),
        Section("Drift", drift_parts(result.drift)),
        Section(
            "Cost",
            _costs(store, recipe, result),
            "FLOPs are estimates: 2·N a token and forward pass, N weights "
            "outside the embedding. Seconds are of this call; work that had been done before took none.",
        ),
        Section("Lineage", [_digests(run, chosen.all)]),
    ]
    return [section for section in every if section.parts]


def _left_out(pool: PoolReport) -> list[Part]:
    parts = []
    if pool.left_out:
        rows = [
            {
                "reason": left_out.reason,
                "examples": left_out.examples,
                "sources": ", ".join(f"{source} {examples}" for source, examples in left_out.by_source.items()),
            }
            for left_out in pool.left_out
        ]
        note = "The command gradsift marks shows each beside its twin."
        parts.append(Part("Near-duplicates and leaks", rows, note=note))
    if pool.quarantined:
        rows = [{"reason": reason, "rows": count} for reason, count in pool.quarantined.items()]
        note = "The command gradsift quarantine shows each with its file and line."
        parts.append(Part("Rows that could not be used", rows, note=note))
    return parts


def _of_the_model(result: RunResult) -> list[Part]:
    return [Part("Weights of the model", [{"note": note} for note in result.notes])] if result.notes else []


def _costs(store: Store, recipe: Recipe, result: RunResult) -> list[Part]:
    parts = []
    lines = _lines(store, recipe, result)
    if lines:
        parts.append(Part("FLOPs", [asdict(line) for line in lines]))
    if gained := rows_of(result):
        parts.append(Part("Gain for its cost", gained, note=HOW_IT_PAYS))
    targets = {row.dataset for row in result.rows if row.role == "target"}
    selecting = [line.flops for line in lines if line.what in SELECTING]
    if selecting and targets:
        shared = [{"targets": k, "FLOPs of selecting for each": sum(selecting) / k} for k in (1, 2, 5, 10)]
        parts.append(Part("One pass serves many targets", shared))
    if result.stages:
        parts.append(
            Part("Seconds by stage", [{"seconds": stage.seconds, "stage": stage.stage} for stage in result.stages])
        )
    return parts


def _lines(store: Store, recipe: Recipe, result: RunResult) -> list[Cost]:
    if recipe.lm is None or not (result.rows or result.arms):
        return []
    try:
        return costs(store, recipe, result)
    except InputError:
        return []  # the model has moved; the rest of the report does not need it


def _digests(run: Run, made: Sequence[Selection]) -> Part:
    ingest = run.result.ingest
    rows = [{"what": "pool", "name": run.name, "digest": ingest.pool.digest}]
    rows += [{"what": "target", "name": name, "digest": target.digest} for name, target in ingest.targets.items()]
    rows += [{"what": "test", "name": name, "digest": test.digest} for name, test in ingest.tests.items()]
    rows += [{"what": chosen.method, "name": chosen.name, "digest": chosen.digest} for chosen in made]
    return Part("Digests", rows)
