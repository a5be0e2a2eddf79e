"""Does it help: what the report shows of each target's arms."""

from collections.abc import Collection, Mapping, Sequence

from gradsift.datastore.compared import Versus
from gradsift.datastore.runs import ArmRow
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.charts import Curve
from gradsift.pipelines.report.parts import Part, Section
from gradsift.pipelines.tables import Row

BETTER = ("better", "this set better")
DRAWN = 6  # arms in a picture of curves, at most
DRAWN_FIRST = (*OURS, "random", "random_lengths", "random_tokens", "full")


def arm_sections(arms: Sequence[ArmRow], rates: Sequence[float]) -> list[Section]:
    """A section for each target; `rates` are the learning rates that each arm tried."""
    return [
        Section(f"Does it help on {target}?", _parts(target, [arm for arm in arms if arm.target == target], rates))
        for target in dict.fromkeys(arm.target for arm in arms)
    ]


def _parts(target: str, arms: Sequence[ArmRow], rates: Sequence[float]) -> list[Part]:
    harness = [{"arm": arm.arm, **arm.lm_eval} for arm in arms if arm.lm_eval]
    note = "As the harness reports them, mean over seeds."
    return [
        _losses(target, arms, rates),
        *([Part("lm-evaluation-harness", harness, note=note)] if harness else []),
        *(_differences(target, arm) for arm in arms if arm.arm in OURS and arm.versus),
        *_others(arms),
        *_curves(target, arms),
    ]


def _losses(target: str, arms: Sequence[ArmRow], rates: Sequence[float]) -> Part:
    ours = tuple(arm.arm for arm in arms if arm.arm in OURS)
    points = [
        (arm.arm, arm.test_loss_mean, *_around(arm.test_loss_mean, arm.test_loss_ci95), arm.arm in ours)
        for arm in arms
        if arm.test_loss_mean is not None
    ]
    svg = charts.intervals(f"{target}: test loss by arm", points, "test loss, nats per token (lower is better)")
    note = " ".join(["Mean over seeds with its 95 % t interval.", *_remarks(arms, rates)])
    return Part("Test loss by arm", _without_empty([_figures(arm) for arm in arms]), svg, note, ours)


def _around(mean: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (mean - half, mean + half)


def _figures(arm: ArmRow) -> Row:
    return {
        "arm": arm.arm,
        "seeds": len(arm.seeds),
        "examples": arm.examples,
        "label_tokens": arm.label_tokens,
        "test_loss_mean": arm.test_loss_mean,
        "test_loss_ci95": arm.test_loss_ci95,
        "score_mean": arm.score_mean,
        "metric": arm.metric,
        "response_tokens": arm.response_tokens,
        "source_precision": arm.source_precision,
        "forgetting": arm.forgetting,
        "lr": arm.lr,
        "early_grad_norm": arm.early_grad_norm,
        "seconds": arm.seconds,
        "peak_mb": None if arm.peak_bytes is None else round(arm.peak_bytes / 2**20),
        "diverged": arm.diverged,
    }


def _without_empty(rows: Sequence[Row]) -> list[Row]:
    """The rows without columns that are empty for every arm."""
    names = [name for name in rows[0] if any(row[name] not in (None, 0, "loss") for row in rows)]
    return [{name: row[name] for name in names} for row in rows]


def _remarks(arms: Sequence[ArmRow], rates: Sequence[float]) -> list[str]:
    diverged = sum(arm.diverged for arm in arms)
    remarks = [f"{diverged} runs diverged: left out, and their arm is never called better."] if diverged else []
    if len(rates) > 1:
        remarks.append(f"Each arm is at its best of {len(rates)} learning rates, by its loss on val rows.")
        for end, word in ((max(rates), "largest"), (min(rates), "smallest")):
            names = [arm.arm for arm in arms if arm.examples and arm.lr == end]
            if names:
                remarks.append(f"For {', '.join(names)} that is the {word} tried: the best may lie beyond it.")
    return remarks


def _differences(target: str, arm: ArmRow) -> Part:
    rows = versus_rows(arm.versus)
    points = [
        (name, versus.difference, *versus.told[:2], versus.verdict in BETTER) for name, versus in arm.versus.items()
    ]
    label = "difference in test loss (left of 0: lower)"
    svg = charts.intervals(f"{target}: difference in test loss", points, label, 0.0)
    return Part(f"{arm.arm} against each other arm", rows, svg, how(arm.versus.values()))


def versus_rows(versus: Mapping[str, Versus]) -> list[Row]:
    """A line for each comparison, by the other's name, without columns that say nothing."""
    return _without_empty([{"against": name, **_found(one)} for name, one in versus.items()])


def _others(arms: Sequence[ArmRow]) -> list[Part]:
    """The arms that are there to compare with, against `random`: they are of the same family."""
    rows: list[Row] = []
    for arm in arms:
        for name, versus in arm.versus.items() if arm.arm not in OURS else ():
            low, high, p = versus.told
            figures = {"difference": versus.difference, "low": low, "high": high, "p corrected": p}
            lower_on = f"{versus.wins} of {versus.seeds}"
            rows.append({"arm": arm.arm, "against": name, **figures, "lower on": lower_on, "verdict": versus.verdict})
    return [Part("The other arms against random", _without_empty(rows))] if rows else []


def _found(versus: Versus) -> Row:
    return {
        "difference": versus.difference,
        "low": versus.low,
        "high": versus.high,
        "lower on": f"{versus.wins} of {versus.seeds}",
        "p": versus.p,
        "p corrected": versus.p_adjusted,
        "low with draw": versus.method_low,
        "high with draw": versus.method_high,
        "p corrected, with draw": versus.method_p_adjusted,
        "in units of seed noise": versus.effect,
        "verdict": versus.verdict,
    }


def how(compared: Collection[Versus], measured: str = "test row") -> str:
    """How verdicts were made, in words: of what, from how much, corrected for what."""
    one = next(iter(compared))
    if not one.rows:
        return (
            "Verdicts of an older version: p by a t-test over seeds, corrected for each arm apart, which says too "
            "much. `gradsift validate` makes them anew."
        )
    seeds, rows = (
        " or ".join(map(str, sorted(counts)))
        for counts in ({versus.seeds for versus in compared}, {versus.rows for versus in compared})
    )
    half = f", half of the level for the {one.firsts} of ours with random" if one.firsts else ""
    words = [
        f"Paired by seed ({seeds}) and {measured} ({rows}). 95 % t intervals of seeds and rows; p corrected together "
        f"for all {one.comparisons} comparisons of this report (Holm{half}).",
        "“this set better” is about this very set of rows; "
        "“better” is about the method: what another draw would change is counted, by how redrawn arms vary.",
    ]
    if all(versus.method_p is None for versus in compared):
        words[1:] = [
            "Verdicts are about this very set of rows: no arm here is drawn anew to say how much draws differ."
        ]
    return " ".join([*words, "Few seeds find only large differences: no evidence is not evidence of none."])


def _curves(target: str, arms: Sequence[ArmRow]) -> list[Part]:
    curves: Mapping[str, Sequence[Curve]] = {
        arm.arm: arm.curves for arm in sorted(arms, key=_drawn_first) if arm.curves
    }
    if not curves:
        return []
    drawn = {name: _by_share(curves[name]) for name in list(curves)[:DRAWN]}
    note = (
        "Each arm on an axis of its own, for losses of different data are not comparable: only the shape is. Mean of "
        "the seeds and the range between them; smoothed." + (" The table has all arms." if len(curves) > DRAWN else "")
    )
    return [
        Part(
            "Training loss",
            [{"arm": name, **charts.milestones(runs)} for name, runs in curves.items()],
            charts.panels(f"{target}: training loss", drawn, "share of the steps, %", "loss of a batch"),
            note,
        )
    ]


def _drawn_first(arm: ArmRow) -> int:
    return DRAWN_FIRST.index(arm.arm) if arm.arm in DRAWN_FIRST else len(DRAWN_FIRST)


def _by_share(runs: Sequence[Curve]) -> list[Curve]:
    """Curves over the share of a run's steps in percent, so that runs of different length fit in one picture."""
    known = [[(step, loss) for step, loss in run if step is not None] for run in runs]
    return [[(100 * step / run[-1][0], loss) for step, loss in run] for run in known if run]
