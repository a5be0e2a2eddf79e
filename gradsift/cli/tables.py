"""How results of runs look on a terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.cli import show
from gradsift.datastore.compared import Versus
from gradsift.datastore.runs import ArmRow, MixtureReport, RunResult, SelectionReport, SpaceRows, VersionReport
from gradsift.pipelines.memory import in_words
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.report.cascade import cascade_words
from gradsift.pipelines.report.drift import drift_words
from gradsift.pipelines.report.funnel import as_rows, by_source, funnel
from gradsift.pipelines.select.told import told
from gradsift.pipelines.tables import Row

if TYPE_CHECKING:
    from gradsift.datastore.compact import Compacted
    from gradsift.datastore.prune import Pruned
    from gradsift.datastore.versions import Entry
    from gradsift.pipelines.demo.demo import PlantedTruth
    from gradsift.pipelines.export.diff import Difference
    from gradsift.pipelines.runs.dryrun import Plan
    from gradsift.pipelines.runs.price import Price
    from gradsift.pipelines.runs.repair import Mend
    from gradsift.pipelines.select.overlap import Overlap

MANY_SMALL = 200  # files that compaction would merge, from which it is worth a word
SELECTION = ("name", "examples", "source_precision", "source_share_of_pool", "by_source")


def show_plan(plan: "Plan") -> None:
    """What a run would do."""
    left_out = [(f"left out: {why.replace('_', ' ')}", f"{count:,}") for why, count in plan.left_out.items()]
    facts = [
        ("rows of the pool", f"{plan.pool_rows:,}"),
        *left_out,
        ("rows that are quarantined", f"{plan.pool_quarantined:,}"),
    ]
    if plan.mean_tokens:
        facts += [
            ("rows with a label", f"{plan.usable_share:.1%}"),
            ("tokens of a row, mean", f"{plan.mean_tokens:,.0f}"),
        ]
    if plan.tokens_per_second:
        facts += [("tokens per second", f"{plan.tokens_per_second:,.0f}")]
    if plan.checkpoints:
        facts += [
            ("checkpoints", _of_which_kept(plan.checkpoints, plan.checkpoints_kept)),
            ("gradient rows to compute", f"{plan.rows_to_compute:,}"),
            ("gradient rows kept", f"{plan.rows_kept:,}"),
        ]
    if plan.arms:
        facts += [("validation runs", _of_which_kept(plan.arms, plan.arms_kept))]
    facts += [("disk needed", in_words(plan.bytes_needed)), ("disk free", in_words(plan.bytes_free))]
    show.table("Would run", [{"what": what, "estimate": value} for what, value in facts])
    times = [(stage, show.duration(60 * minutes)) for stage, minutes in plan.minutes.items()]
    times += [("in all", f"about {show.duration(60 * sum(plan.minutes.values()))}")] if plan.minutes else []
    show.table("Time", [{"stage": stage, "takes": takes} for stage, takes in times])
    if plan.prices:
        show.table("Price of choosing, and of training", [_price(one) for one in plan.prices])
    show.table("Memory", [{"of": k, "holds": in_words(v)} for k, v in plan.memory.items()])
    for warning in plan.warnings:
        show.line(f"Warning: {warning}")
    for note in plan.notes:
        show.line(f"Note: {note}")


def _price(one: "Price") -> Row:
    takes = "not measured" if one.minutes is None else show.duration(60 * one.minutes)
    return {"of": one.what, "FLOPs": f"{one.flops:.1e}", "takes": takes, "epochs over the pool": f"{one.epochs:.2g}"}


def _of_which_kept(count: int, kept: int) -> str:
    return f"{count:,}, {kept:,} of them kept" if kept else f"{count:,}"


def show_mended(done: "Sequence[Mend]", *, plan: bool) -> None:
    """What is damaged and would be done, or was done, about it."""
    title = "Damaged files, and what would be done" if plan and done else "Damaged files" if plan else "Repaired"
    if done and all(one.state == "noted" for one in done):
        title = "No damage, but others changed"
    show.table(
        title,
        [
            {
                "kind": one.kind,
                "file": _short(one),
                "problem": _problem(one),
                "would do" if plan else "done": one.done,
                "rows": one.rows,
                "lost": one.lost,
            }
            for one in done
        ],
    )
    for one in done:
        if one.falls:
            show.line(f"With {one.kind} {_short(one)}: {', '.join(one.falls)}.")


def _short(one: "Mend") -> str:
    """A file's name, to tell it from others; reports are known by theirs, exports by where they are."""
    if one.kind == "export":
        return one.file
    name = one.file.rpartition("/")[2]
    return name if one.kind == "report" else name[:8]


def _problem(one: "Mend") -> str:
    """What is wrong with a file, without its name."""
    problem = one.problem.removeprefix(f"{one.file} ")
    if sizes := re.fullmatch(r"has (\d+) bytes, not (\d+)", problem):
        there, meant = map(int, sizes.groups())
        return f"{'cut' if there < meant else 'longer'}: {there:,} of {meant:,} bytes"
    for long, short in (("file is missing", "missing"), ("(changed bytes)", "changed bytes")):
        if problem.endswith(long):
            return short
    return problem


def show_result(result: RunResult) -> None:
    """What a run made."""
    for text in result.finished:
        show.line(text)
    show.table("Stages", [asdict(stage) for stage in result.stages])
    pool = result.ingest.pool
    rows = [{"source": name, "examples": count} for name, count in pool.by_source.items()]
    show.table(f"Pool: {pool.examples} examples, {pool.duplicates} duplicates", rows)
    if pool.left_out:
        show.table(f"Screening leaves {pool.used} of them", [asdict(entry) for entry in pool.left_out])
    if deleted := sum(of.deleted for of in (pool, *result.ingest.targets.values(), *result.ingest.tests.values())):
        words = (
            "1 row was deleted before and stays" if deleted == 1 else f"{deleted:,} rows were deleted before and stay"
        )
        show.line(f"{words} out; `gradsift revive` lets what was deleted in again")
    show.table("Quarantined rows", [{"reason": reason, "rows": n} for reason, n in pool.quarantined.items()])
    show_funnel(result)
    if result.selections:
        show.table("Selections", [asdict(made) for made in result.selections], (*SELECTION, "export"))
        show_portfolios(result.selections)
    for made in result.mixtures:
        show_mixture(made)
    if result.arms:
        show_arms(result.arms)
    for note in result.notes:
        show.line(f"Note: {note}")
    if result.rows:
        show.line(rows_words(result.rows))
    if result.cascade:
        show.line(f"Cascade: {cascade_words(result.cascade)}")
    if result.drift and (words := drift_words(result.drift)):
        show.line(f"Checkpoints: {words}")
    if result.versions:
        show.line(f"Versions: {', '.join(map(version_words, result.versions))}")
    show.line(f"Report: {result.report}")


def show_portfolios(selections: Sequence[SelectionReport]) -> None:
    """A line for each selection whose method was chosen."""
    for made in selections:
        if made.portfolio is not None:
            show.line(f"auto for {made.target}: {told(made.portfolio)}")


def show_funnel(result: RunResult) -> None:
    """Where each row of the pool went, in all and by source, and what to look at."""
    counted = funnel(result)
    show.table("Where the rows went", as_rows(counted))
    if sum(line.rows for line in counted.out) and len(counted.read_by_source) > 1:
        show.table("By source", by_source(counted))
    for text in warnings(result.ingest):
        show.line(f"Warning: {text}")


def rows_words(rows: Sequence[SpaceRows]) -> str:
    """How many gradient rows of pool and targets a run computed, at all checkpoints, and how many there were. Rows of
    the plain gradient come beside those of the pool: only a pass of their own is counted."""
    computed = sum(row.computed for row in rows)
    kept = sum(max(0, row.statuses.get("ok", 0) - row.computed) for row in rows if row.role != "plain")
    return f"Gradient rows: {computed:,} computed, {kept:,} kept"


def version_words(version: VersionReport) -> str:
    """A version against the one before it, in a few words."""
    if not version.new:
        return f"{version.version} as before"
    if version.came is None or version.left is None:
        return f"{version.version} {'first' if version.number == 1 else 'new'}, {version.rows:,} rows"
    why = f" ({version.why})" if version.why else ""
    return f"{version.version} {version.came:,} in, {version.left:,} out{why}"


def show_log(entries: "Sequence[Entry]", root: Path) -> None:
    """What each run has, the newest first; exports below `root` by their names there."""
    rows = [
        {
            "version": entry.report.version,
            "ended (UTC)": datetime.fromtimestamp(entry.ended, UTC).strftime("%Y-%m-%d %H:%M"),
            "run": f"{entry.run_id} {entry.run}",
            "rows": entry.report.rows,
            "in": entry.report.came,
            "out": entry.report.left,
            "note": _log_note(entry, root),
        }
        for entry in entries
    ]
    show.table("Versions", rows)


def _log_note(entry: "Entry", root: Path) -> str:
    report = entry.report
    first = "first" if report.number == 1 else ""
    words = [first if report.new else f"as @{report.number}", entry.why, entry.state]
    if entry.export and entry.present:
        folder = Path(entry.export).resolve()
        words.append(f"in {folder.relative_to(root) if folder.is_relative_to(root) else folder}")
    return "; ".join(word for word in words if word)


def show_pruned(pruned: "Pruned", *, dry_run: bool) -> None:
    """What a pruning drops, by kind."""
    rows = [asdict(line) for line in pruned.dropped]
    show.table("Would drop" if dry_run else "Dropped", rows)
    kept = ", ".join(pruned.kept)
    show.line(f"{pruned.bytes:,} bytes of files. Kept: {kept or 'nothing has versions'}")


def show_compacted(done: "Compacted", *, dry_run: bool) -> None:
    """What a compaction merges, by kind and feature space."""
    rows: dict[tuple[str, str], dict[str, str | int]] = {}
    for merge in done.merges:
        row = rows.setdefault(
            (merge.kind, merge.of),
            {"of": f"{merge.kind} {merge.of}".strip(), "files": 0, "into": 0, "rows": 0, "bytes": 0},
        )
        for name, more in (("files", merge.shards), ("into", 1), ("rows", merge.rows), ("bytes", merge.bytes)):
            row[name] = int(row[name]) + more
    show.table("Would merge" if dry_run else "Merged", list(rows.values()))
    show.line(f"{done.shards_before:,} files, {done.shards_after:,} after it")


def show_upkeep(root: Path) -> None:
    """A line about what a store needs, if it needs it."""
    from gradsift.datastore.compact import small_shards
    from gradsift.datastore.store import Store

    with Store(root, create=False) as store:
        small = small_shards(store)
    if small >= MANY_SMALL:
        show.line(f"{small:,} small files; `gradsift compact` makes them a few large ones.")


def show_planted(truth: "PlantedTruth") -> None:
    """How much of the demo's planted truth was found."""
    target, near, wrong = truth.target_rows, truth.near_duplicates, truth.wrong_answers
    exact, leaks, bad = truth.exact_duplicates, truth.leaks, truth.bad_rows
    lines = [
        ("rows of the target skill", target.planted, f"{target.selected} of {truth.selected} selected"),
        ("near-duplicates of them", near.planted, f"{near.selected} selected"),
        ("wrong answers", wrong.planted, f"{wrong.selected} selected"),
        ("exact duplicates", exact.planted, f"{exact.found} found and merged"),
        ("leaked test questions", leaks.planted, f"{leaks.found} found and left out"),
        ("bad rows", sum(bad.planted.values()), f"{sum(bad.quarantined.values())} quarantined"),
    ]
    show.table("Planted truth", [{"planted": what, "in pool": n, "outcome": outcome} for what, n, outcome in lines])


def show_difference(difference: "Difference") -> None:
    """How two selections or mixtures differ."""
    for letter, side in (("a", difference.a), ("b", difference.b)):
        name = f"{side.name} ({side.digest[:12]})" if "@" in side.name else f"{side.name}@{side.digest[:12]}"
        show.line(f"{letter}: {name}, {side.rows:,} rows, {side.examples:,} examples")
    show.line(
        f"{difference.in_both:,} examples in both ({difference.other_copies:,} with other copies), "
        f"{difference.only_a:,} only in a, {difference.only_b:,} only in b"
    )
    if difference.same:
        show.line(f"{difference.same[0].upper()}{difference.same[1:]}.")
    for key, lines in difference.by.items():
        show.table(f"Rows by {key}", lines)
    if difference.score:
        show.table("Scores", difference.score)
    for letter, samples, count in (
        ("a", difference.examples.only_a, difference.only_a),
        ("b", difference.examples.only_b, difference.only_b),
    ):
        if samples:
            shown = [asdict(sample) | {"example_id": sample.example_id[:8]} for sample in samples]
            columns = [name for name in shown[0] if any(row[name] is not None for row in shown)]  # a pool has no scores
            show.table(f"Only in {letter}: {len(samples)} of {count:,}", shown, columns)


def show_overlap(alike: "Overlap") -> None:
    """How alike selections are, their names as numbers so that a matrix fits into a terminal."""
    number = {row["selection"]: str(n) for n, row in enumerate(alike.rows, 1)}
    with_length = {row["selection"]: row["with length"] for row in alike.scores}
    listed = [
        {
            "#": number[row["selection"]],
            "selection": row["selection"],
            "examples": row["examples"],
            "scores with length": with_length.get(row["selection"]),
        }
        for row in alike.rows
    ]
    show.table("Selections", listed)
    chance = "" if alike.by_chance is None else f"; chance alone gives about {alike.by_chance:.3f}"
    show.table(f"Shared examples ({alike.measure}{chance})", _numbered(alike.rows, number))
    show.table("Rank correlation of scores", _numbered(alike.scores, number))


def _numbered(rows: Sequence[Row], number: Mapping[str, str]) -> list[Row]:
    """The rows with numbers for the selections' names, and two decimals."""
    return [
        {"#": number[row["selection"]]}
        | {number[key]: "" if row[key] is None else f"{row[key]:.2f}" for key in row if key in number}
        for row in rows
    ]


def show_mixture(made: MixtureReport) -> None:
    """Requested against realised, as a table."""
    rows = [
        {
            "part": line.part,
            "source": line.source,
            "asked": _percent(line.weight),
            "got": _percent(line.share),
            "requested": line.requested,
            "rows": line.rows,
            "tokens": line.tokens,
            "note": line.note,
        }
        for line in made.table
    ]
    columns = ["part", "source", "asked", "got", "requested", "rows", "tokens", "note"]
    if all(line.tokens is None for line in made.table):
        columns.remove("tokens")
    show.table(f"Mixture {made.name}: {made.realised:,} of {made.requested:,} {made.unit}", rows, columns)
    if made.version:
        show.line(f"Version: {made.version}")
    if made.export:
        show.line(f"{made.rows:,} rows in {made.export}")


def _percent(share: float | None) -> str:
    return "by rank" if share is None else f"{share:.1%}"


def show_arms(arms: Sequence[ArmRow]) -> None:
    """The table of arms, and what follows from it in words."""
    from gradsift.pipelines.recipe.validate import OURS
    from gradsift.pipelines.report.arms import how
    from gradsift.pipelines.report.worth import PETA, pays_words

    for target in dict.fromkeys(arm.target for arm in arms):
        mine = [arm for arm in arms if arm.target == target]
        rows = [_arm(arm) for arm in mine]
        columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        show.table(f"{target}: test loss by arm (mean over seeds, nats per token)", rows, columns)
        for arm in mine:
            if arm.diverged:
                show.line(f"{target}: {arm.arm} diverged on {arm.diverged} seeds; it is never called better")
            for baseline, versus in arm.versus.items():
                if arm.arm in OURS:
                    show.line(verdict_line(target, arm.arm, baseline, versus))
            if arm.worth is not None:
                nats = f"{arm.worth.per_flop * PETA:.3g} nats for each PFLOP of choosing and training"
                show.line(f"{target}: {arm.arm} gained {nats}; it {pays_words(arm)}.")
    compared = [versus for arm in arms if arm.arm in OURS for versus in arm.versus.values()]
    if compared:
        show.line(how(compared))


def _arm(arm: ArmRow) -> Row:
    precision = arm.source_precision
    return {
        "arm": arm.arm,
        "rows": arm.examples,
        "label tokens": round(arm.label_tokens),
        "test loss": arm.test_loss_mean,
        "±95%": arm.test_loss_ci95,
        "own source": None if precision is None else f"{precision:.0%}",
        arm.metric: arm.score_mean,
        "forgets": arm.forgetting,
    }


def verdict_line(target: str, arm: str, baseline: str, versus: Versus) -> str:
    """One comparison in words."""
    from gradsift.pipelines.report.report import p_value

    low, high, p_adjusted = versus.told
    interval = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    p = "" if p_adjusted is None else f", {p_value(p_adjusted)} (of {versus.comparisons})"
    return (
        f"{target}: {arm} − {baseline} = {versus.difference:+.4f}{interval}; lower on {versus.wins} of "
        f"{versus.seeds} seeds{p}: {versus.verdict}."
    )
