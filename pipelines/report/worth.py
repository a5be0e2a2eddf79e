"""What each arm gained for what it cost, and from where on choosing pays: the arithmetic is `scorers/worth.py`'s.

Nothing is said of an arm that is not told apart from random (or is worse), nor of one whose cost is not known: a
sentence encoder's pass, a training that a method does to score or to weigh sources, Q-Tuning's passes in training.
After a cascade no number of targets is told from which on an arm pays: its rows are those that these targets asked for.
"""

from dataclasses import replace

from gradsift.datastore.arms import Worth
from gradsift.datastore.runs import ArmRow, RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.registry import ROWS, Needs, methods
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.recipe.validate import REDRAWN
from gradsift.pipelines.report.arms import BETTER
from gradsift.pipelines.report.cost import selecting, training_flops, weights_outside_embeddings
from gradsift.pipelines.tables import Row
from gradsift.pipelines.validate.arms import BASE, QTUNING
from gradsift.scorers.worth import Spent, pays, per_flop

UNKNOWN: Needs = frozenset({"encoder", "training"})  # FLOPs that are not counted
PETA = 1e15


def with_worth(store: Store, recipe: Recipe, result: RunResult) -> RunResult:
    """The result, its arms with what they gained for their cost. Reads the length of every row of the run."""
    if not any(_told_better(arm) for arm in result.arms):
        return result
    weights, spent = weights_outside_embeddings(recipe), selecting(store, recipe, result)
    trials = {made.target: made.portfolio.spent for made in result.selections if made.portfolio is not None}
    count = max(1, len(spent.targets) or len({arm.target for arm in result.arms}))
    arms = []
    for arm in result.arms:
        tried = trials.get(arm.target, 0.0) if arm.arm == "selected" else 0.0
        needs = _needs(recipe, arm.arm)
        needs = needs - {"training"} if needs is not None and tried else needs  # whose FLOPs were counted
        known = bool(weights) and needs is not None and not needs & UNKNOWN and (spent.pool or not needs & ROWS)
        of_target = {other.arm: other for other in result.arms if other.target == arm.target}
        base, random = of_target.get(BASE), of_target.get("random")
        if not known or needs is None or base is None or random is None or not _told_better(arm):
            arms.append(arm)
            continue
        rows = bool(needs & ROWS)
        cost = Spent(
            spent.shared(weights) if rows else 0.0,
            tried + (spent.own(weights, arm.target) if rows else 0.0),
            training_flops(recipe, weights, arm.tokens or 0),
            training_flops(recipe, weights, random.tokens or 0),
            count,
        )
        worth = _worth(base, random, arm, cost)
        if worth is not None and rows and result.cascade is not None:
            worth = replace(worth, targets=None)
        arms.append(replace(arm, worth=worth))
    return replace(result, arms=arms)


def _told_better(arm: ArmRow) -> bool:
    return "random" in arm.versus and arm.versus["random"].verdict in BETTER


def _needs(recipe: Recipe, arm: str) -> Needs | None:
    """What was looked at to choose an arm's rows; None where its cost is more than choosing and training."""
    if arm == QTUNING:
        return None
    if arm in ("selected", REDRAWN):
        return recipe.selecting.needs if recipe.selecting is not None else None
    if arm == "mixture":
        return None if recipe.weighed_by_trainings else recipe.mix_needs
    return methods()[arm].needs if arm in methods() else frozenset()


def _worth(base: ArmRow, random: ArmRow, arm: ArmRow, cost: Spent) -> Worth | None:
    losses = (base.test_loss_mean, random.test_loss_mean, arm.test_loss_mean)
    if losses[0] is None or losses[1] is None or losses[2] is None or not cost.training or not cost.at_random:
        return None
    gain = losses[1] - losses[2]
    found = pays(losses[0], losses[1], losses[2], cost)
    return Worth(cost.selecting, cost.training, gain, per_flop(gain, cost), found.targets, found.times)


def rows_of(result: RunResult) -> list[Row]:
    """A line for each arm that is told to be better than random: its gain, what was spent for it, and whether it
    pays."""
    return [
        {
            "target": arm.target,
            "arm": arm.arm,
            "gain, nats": arm.worth.gain,
            "FLOPs of selecting": arm.worth.selecting,
            "FLOPs of training": arm.worth.training,
            "gain per PFLOP": arm.worth.per_flop * PETA,
            "pays": pays_words(arm),
        }
        for arm in result.arms
        if arm.worth is not None
    ]


def pays_words(arm: ArmRow) -> str:
    """From where on an arm pays for itself, without its name: `pays from the 4th target on, …`; '' where nothing is
    known."""
    worth = arm.worth
    if worth is None:
        return ""
    if not worth.selecting:
        return "pays from the first target on: choosing took no pass of the model" if worth.targets else _NEVER
    if worth.times is None:
        return _NEVER
    longer = f"from a training on {_rows(arm, worth.times)} on" if worth.times > 1 else "with the training as it is"
    if worth.targets is None:
        return f"does not pay by more targets, but {longer}" if worth.times > 1 else f"pays {longer}"
    if worth.targets == 1:
        return "pays from the first target on"
    return (
        f"pays from the {_ordinal(worth.targets)} target on that the same rows serve, or for as many as here {longer}"
    )


_NEVER = "does not pay: as much more training on random rows would gain as much"


def _rows(arm: ArmRow, times: float) -> str:
    """So many times the rows of an arm's training, in two figures."""
    digits = len(str(int(times * arm.examples))) - 2
    return f"{round(times * arm.examples, -max(0, digits)):,.0f} rows such as these ({times:.2g} times as many)"


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{'th' if number % 100 in (11, 12, 13) else last}"
