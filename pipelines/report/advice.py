"""What to do next, as it follows from what a run found: short sentences with a command or a field."""

from gradsift.datastore.runs import ArmRow, RunResult
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.report.answers import WORSE, cheaper_unbeaten, unexplained
from gradsift.pipelines.report.arms import BETTER
from gradsift.pipelines.report.drift import ADVICE

SEEDS = 5  # what docs/validation.md asks for
UNUSABLE = 0.05  # share of the pool's rows from which it is worth a word


def advice(result: RunResult) -> list[str]:
    """Next steps, each once, the most important first."""
    ours = [arm for arm in result.arms if arm.arm in OURS]
    steps = [step for arm in ours for step in _of_arm(arm, result)]
    if not ours and result.made:
        steps.append(
            "Measure whether it helps: with `test` rows of the targets, put seeds and arms under `validate` (the page "
            "on validation has an example) and run `gradsift validate`."
        )
    if result.drift is not None and result.drift.advised:
        steps.append(ADVICE)
    return list(dict.fromkeys([*steps, *_unusable(result)]))


def _of_arm(arm: ArmRow, result: RunResult) -> list[str]:
    versus = arm.versus.get("random")
    if versus is None:
        lost = "Lower `validate.lr`, and validate again: every training of an arm diverged."
        return [lost] if arm.diverged else ["Compare with random rows: `arms: [random, random_tokens]` of `validate`."]
    if versus.verdict in BETTER:
        cheaper = cheaper_unbeaten(arm, result)
        good = [name for name in cheaper if _beats_random(name, arm.target, result)]
        if good:
            return [
                f"Use {' or '.join(good)} for {arm.target}: better than random, too, cheaper, and not shown to be "
                "worse than what was chosen."
            ]
        names = _names(arm, result)
        steps = [f"Train on what was chosen: `gradsift export {name} FOLDER` writes it." for name in names]
        if unsettled := [*cheaper, *unexplained(arm)]:
            steps.append(
                f"To learn whether it is better than {', '.join(unsettled)}: validate with more seeds "
                f"({max(SEEDS, 2 * versus.seeds)} instead of {versus.seeds})."
            )
        if versus.claim == "this set":
            steps.append(
                "To learn whether the method would do so again: add the arm `redrawn`, and seeds up to five or more."
            )
        return steps
    if versus.verdict in WORSE:
        return [
            f"Do not train on what was chosen for {arm.target}. See whether its `val` rows are like its `test` rows, "
            "and try another method (`gradsift methods` lists them) or a larger budget."
        ]
    if versus.verdict == "diverged":
        return ["Lower `validate.lr`, and validate again: an arm that diverged is never called better."]
    if versus.verdict == "too few rows":
        return [
            f"Give {arm.target} more `test` rows (48 or more see much more than 10), or raise `validate.test_rows`."
        ]
    return _more(arm, versus.seeds, versus.verdict)


def _beats_random(name: str, target: str, result: RunResult) -> bool:
    versus = [arm.versus.get("random") for arm in result.arms if (arm.arm, arm.target) == (name, target)]
    return any(one is not None and one.verdict in BETTER for one in versus)


def _more(arm: ArmRow, seeds: int, verdict: str) -> list[str]:
    wanted = max(SEEDS, 2 * seeds)
    text = f"Validate {arm.target} with more seeds ({wanted} instead of {seeds}: `seeds` of `validate`)"
    if verdict == "one seed":
        return [f"{text}."]
    return [f"{text} and more `test` rows, choose a larger budget, or try another method (`gradsift methods`)."]


def _names(arm: ArmRow, result: RunResult) -> list[str]:
    if arm.arm == "mixture":
        return [made.name for made in result.mixtures]
    return [made.name for made in result.selections if made.target == arm.target]


def _unusable(result: RunResult) -> list[str]:
    if not result.pool_rows:
        return []
    statuses = result.pool_rows[-1].statuses
    rows, without = sum(statuses.values()), statuses.get("no_labels", 0)
    if not rows or without / rows < UNUSABLE:
        return []
    return [
        f"Raise `encoding.max_length`: {without:,} of {rows:,} rows of the pool have no label within it, and cannot be "
        "chosen."
    ]
