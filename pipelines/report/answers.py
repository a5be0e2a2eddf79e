"""What a run found, in sentences that need no statistics: one for each target and for each set that was chosen."""

from collections.abc import Mapping, Sequence

from gradsift.datastore.compared import Versus
from gradsift.datastore.runs import ArmRow, MixtureReport, RunResult, SelectionReport
from gradsift.pipelines.methods.registry import Needs, methods
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.report.arms import BETTER
from gradsift.pipelines.report.effects import Gain, gain, loss_words, percent_words
from gradsift.pipelines.report.parts import Answer
from gradsift.pipelines.report.worth import pays_words
from gradsift.scorers.verdicts import MIN_ROWS

LEAST_ROWS = f"at least {MIN_ROWS} are needed"
WORSE = ("worse", "this set worse")
GRADIENTS: Needs = frozenset({"gradients", "plain"})  # rows that only a pass with gradients gives
ALIKE = {  # random rows that share something with those chosen: what may explain the gain as well
    "random_tokens": "the number of tokens",
    "random_lengths": "the length of the rows",
    "random_balanced": "equal shares of sources",
    "human": "hand-made shares of sources",
}
HEADLINES = {
    "better": "Better than random",
    "worse": "Worse than random",
    "this set better": "This set: better than random",
    "this set worse": "This set: worse than random",
    "no evidence": "No evidence",
    "one seed": "One seed: no verdict",
    "too few rows": "Too few test rows: no verdict",
    "diverged": "Diverged: no verdict",
}


def answers(result: RunResult) -> list[Answer]:
    """An answer for each of what was chosen and each target that it was measured on; where nothing was, what to know
    of each selection and mixture."""
    found = [
        _answer(arm, {other.arm: other for other in result.arms if other.target == arm.target}, result)
        for arm in result.arms
        if arm.arm in OURS
    ]
    return found or [_not_validated(made) for made in result.made]


def cheaper_unbeaten(arm: ArmRow, result: RunResult) -> list[str]:
    """Methods that need no gradients, and than which this arm, which is better than random, is not shown to be."""
    if not _costs_rows(arm, result):
        return []
    return [
        name
        for name in _unbeaten(arm)
        if name in methods() and name not in ALIKE and not methods()[name].needs & GRADIENTS
    ]


def unexplained(arm: ArmRow) -> list[str]:
    """Arms of random rows like those chosen, than which this arm, which is better than random, is not shown to be."""
    return [name for name in _unbeaten(arm) if name in ALIKE]


def _unbeaten(arm: ArmRow) -> list[str]:
    if "random" not in arm.versus or arm.versus["random"].verdict not in BETTER:
        return []
    return [name for name, other in arm.versus.items() if name != "random" and other.verdict not in BETTER]


def _costs_rows(arm: ArmRow, result: RunResult) -> bool:
    """Whether the set was chosen by a method that looks at gradient rows; so, too, where that is not known."""
    mine = [made for made in result.selections if arm.arm == "mixture" or made.target == arm.target]
    return not mine or any(made.method not in methods() or methods()[made.method].needs & GRADIENTS for made in mine)


def _not_validated(made: SelectionReport | MixtureReport) -> Answer:
    rows = made.rows if isinstance(made, MixtureReport) else made.examples
    what = "The mixture" if isinstance(made, MixtureReport) else f"For *{made.target}*"
    took = f"{what} took {rows:,} rows." if isinstance(made, MixtureReport) else f"{what} {rows:,} rows were chosen."
    text = f"{took} Whether training on them helps was not measured: this run validated nothing."
    return Answer("" if isinstance(made, MixtureReport) else made.target, made.name, "Not measured", text)


def _answer(arm: ArmRow, arms: Mapping[str, ArmRow], result: RunResult) -> Answer:
    mine, versus, random = _set_words(arm), arm.versus.get("random"), arms.get("random")
    if versus is None or random is None:
        return Answer(arm.target, arm.arm, "No verdict", _uncompared(arm, mine, random), "none")
    found = gain(versus, random)
    text = _sentence(arm, mine, versus, random, found)
    if answered := _answered(arm, random):
        text += f" {answered}"
    cheaper = cheaper_unbeaten(arm, result)
    if cheaper:
        text += (
            f" It is not shown to be better than {_losses_of(cheaper, arms)}, which {_need(cheaper)} no gradient rows."
        )
    if pays := pays_words(arm):
        text += f" By its cost it {pays}."
    if alike := unexplained(arm):
        what = _joined([f"{ALIKE[name]} ({name}{_loss_of(arms.get(name))})" for name in alike])
        text += f" Whether more than {what} makes the difference is not shown."
    effect = found.word if found and versus.verdict in (*BETTER, *WORSE) else ""
    kind = versus.verdict.replace(" ", "-")
    percent = None if found is None else (found.percent, found.low, found.high)
    return Answer(arm.target, arm.arm, HEADLINES[versus.verdict], text, kind, effect, percent)


def _losses_of(names: Sequence[str], arms: Mapping[str, ArmRow]) -> str:
    return _joined([f"{name} ({loss[2:]})" if (loss := _loss_of(arms.get(name))) else name for name in names])


def _loss_of(arm: ArmRow | None) -> str:
    return "" if arm is None or arm.test_loss_mean is None else f", loss {arm.test_loss_mean:.2f}"


def _need(names: Sequence[str]) -> str:
    return "needs" if len(names) == 1 else "need"


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _set_words(arm: ArmRow) -> str:
    return f"the {arm.examples:,} chosen rows" if arm.arm == "selected" else f"the mixture of {arm.examples:,} rows"


def _uncompared(arm: ArmRow, mine: str, random: ArmRow | None) -> str:
    helps = "helps" if arm.arm == "mixture" else "help"
    start = f"This run cannot say whether {mine} {helps} with *{arm.target}*"
    if arm.diverged and not arm.seeds:
        return f"{start}: its training diverged with every seed."
    if random is not None and random.diverged and not random.seeds:
        return f"{start}: training on random rows diverged with every seed."
    return f"{start}: no random rows were trained on to compare with (`arms: [random]`)."


def _sentence(arm: ArmRow, mine: str, versus: Versus, random: ArmRow, found: Gain | None) -> str:
    target, others = f"*{arm.target}*", f"{random.examples:,} random rows"
    seeds = f"{versus.seeds} seed{'s' if versus.seeds > 1 else ''}"
    losses = ""
    if arm.test_loss_mean is not None and random.test_loss_mean is not None:
        losses = "loss {} instead of {}".format(*loss_words(arm.test_loss_mean, random.test_loss_mean))
    if versus.verdict in (*BETTER, *WORSE):
        up = versus.verdict in BETTER
        by, between = ("", "") if found is None else percent_words(found if up else found.turned)
        how = f"{by} {'better' if up else 'worse'}".strip()
        inside = "; ".join(filter(None, [losses, between, seeds]))
        text = f"Training on {mine} makes the model {how} at {target} than {others} would ({inside})."
        if versus.claim == "this set":
            text += " That is about this very set: whether another set of the same method would do so is not shown."
        return text
    by, between = ("", "") if found is None else percent_words(found)
    figures = ", ".join(filter(None, [by, between]))
    gave = f" ({'; '.join(filter(None, [losses, by, seeds]))})"
    make = "makes" if arm.arm == "mixture" else "make"
    match versus.verdict:
        case "one seed":
            return (
                f"One seed cannot tell whether {mine} {make} the model better at {target} than {others} would{gave}: "
                "another seed may say otherwise."
            )
        case "too few rows":
            return (
                f"{versus.rows} test rows cannot tell whether {mine} {make} the model better at {target} than {others} "
                f"would{gave}: {LEAST_ROWS}."
            )
        case "diverged":
            lost = [
                f"{one.diverged} of {one.diverged + len(one.seeds)} trainings on {name}"
                for one, name in ((arm, mine), (random, "random rows"))
                if one.diverged
            ]
            which = " and ".join(lost) or "a training"
            return (
                f"This run cannot say whether {mine} {make} the model better at {target} than {others} would: {which} "
                "diverged, and what is left is no fair comparison."
            )
    detail = "; ".join(filter(None, [losses, seeds]))
    most = f" If there is one, it is {found.most} at most." if found and found.most and found.most != "large" else ""
    shown = f"the difference ({figures}; {detail})" if figures else f"the difference ({detail})"
    return (
        f"This run does not show that {mine} {make} the model better at {target} than {others} would: {shown} may be "
        f"chance.{most}"
    )


def _answered(arm: ArmRow, random: ArmRow) -> str:
    """The metric of answers, in points; '' for a target without one."""
    if arm.metric == "loss" or arm.score_mean is None or random.score_mean is None:
        return ""
    points = 100 * (arm.score_mean - random.score_mean)
    sign = "+" if points >= 0 else "−"
    shares = f"{100 * arm.score_mean:.0f} % instead of {100 * random.score_mean:.0f} %"
    return f"By its answers ({arm.metric}): {shares}, {sign}{abs(points):.0f} points; the verdict is about the loss."
