"""Arms × targets: what each arm gained over random on each target, first of all where there are several targets."""

from collections.abc import Sequence

from gradsift.datastore.runs import ArmRow
from gradsift.pipelines.report.answers import WORSE
from gradsift.pipelines.report.arms import BETTER
from gradsift.pipelines.report.effects import gain
from gradsift.pipelines.report.parts import Gained, Line, Matrix

NOTE = (
    "By how many percent each arm's test loss is lower than that of random rows (below 0: higher). Bold: the best of "
    "its target. In brackets and grey: not told apart from random, so it may be chance."
)


def matrix(arms: Sequence[ArmRow]) -> Matrix | None:
    """The matrix; None with less than two targets, or where no arm of random rows was trained."""
    targets = list(dict.fromkeys(arm.target for arm in arms))
    at = {(arm.arm, arm.target): arm for arm in arms}
    names = [name for name in dict.fromkeys(arm.arm for arm in arms) if name != "random"]
    if len(targets) < 2 or not names or not any(arm.arm == "random" for arm in arms):
        return None
    cells = {(name, target): _gained(at, name, target) for name in names for target in targets}
    best = {target: _best([cells[name, target].percent for name in names]) for target in targets}
    lines = [Line(name, [_marked(cells[name, target], best[target]) for target in targets]) for name in names]
    return Matrix(targets, lines, NOTE)


def _gained(at: dict[tuple[str, str], ArmRow], name: str, target: str) -> Gained:
    """By the comparison with random where there is one; `base` is compared with ours alone, so its cell tells nothing
    apart."""
    arm, random = at.get((name, target)), at.get(("random", target))
    versus = arm.versus.get("random") if arm else None
    if versus is not None:
        found = gain(versus, random)
        return Gained(None if found is None else found.percent, versus.verdict in (*BETTER, *WORSE))
    if arm is None or random is None or arm.test_loss_mean is None or not random.test_loss_mean:
        return Gained(None)
    return Gained(100 * (random.test_loss_mean - arm.test_loss_mean) / random.test_loss_mean)


def _best(percents: Sequence[float | None]) -> float | None:
    known = [percent for percent in percents if percent is not None]
    return max(known) if known and max(known) > 0 else None


def _marked(cell: Gained, best: float | None) -> Gained:
    return Gained(cell.percent, cell.told, cell.percent is not None and cell.percent == best)
