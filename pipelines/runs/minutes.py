"""From what is to be done and how fast it goes to minutes, stage by stage. Arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradsift.pipelines.runs.probe import Speeds

UNIT_SECONDS = 0.03  # to commit a unit of rows
VALUE_SECONDS = 3e-9  # to score one value of a row against a target
LAST_SECONDS = 1.0  # to write the export and the report


@dataclass(frozen=True)
class Rows:
    """Gradient rows to compute in one pass: how many, and the lengths of a sample of them; a pass that is of no rows
    costs nothing."""

    count: int
    lengths: Sequence[int] = ()


@dataclass(frozen=True)
class Due:
    """What a run has to do. `passes` are those of all checkpoints; `tests` is the rows that each validation run
    measures, with the lengths of a sample; `values` the numbers that its methods score."""

    start: float = 0.0  # seconds before the first stage
    reading: float = 0.0  # seconds of reading and screening
    encode: float = 0.0  # seconds to render and tokenise a row
    warmup_rows: int = 0  # rows that the steps see that are left
    passes: Sequence[Rows] = ()
    unit_rows: int = 256
    values: float = 0.0
    arms: int = 0  # runs that are not recorded
    arm_rows: int = 0  # rows that their steps see
    tests: Rows = field(default_factory=lambda: Rows(0))
    in_pool: int = 0  # rows that validation encodes


def minutes(due: Due, speeds: Speeds) -> dict[str, float]:
    """Minutes of each stage that has something to do."""
    seconds = {"start": due.start, "read and screen": due.reading}
    first = speeds.first_load  # whoever loads a model first
    if due.warmup_rows:
        seconds["warmup"] = first + due.warmup_rows * speeds.warmup_row
        first = speeds.load
    passes = [one for one in due.passes if one.count]
    if passes:
        seconds["gradients"] = first - speeds.load + sum(_pass(one, due, speeds) for one in passes)
        first = speeds.load
    seconds["choose and export"] = LAST_SECONDS + due.values * VALUE_SECONDS
    if due.arms:
        measuring = due.tests.count * speeds.forward.mean(due.tests.lengths) + speeds.answers
        each = speeds.arm.load + speeds.arm.start + measuring
        once = max(0.0, first - speeds.load) + speeds.arm.first - speeds.arm.start
        encoding = due.encode * (due.in_pool + due.tests.count)
        seconds["validate"] = once + encoding + due.arms * each + due.arm_rows * speeds.arm.row
    return {stage: value / 60 for stage, value in seconds.items()}


def _pass(rows: Rows, due: Due, speeds: Speeds) -> float:
    """Seconds of one pass: loading, encoding twice (to plan, and to compute), the rows, and their units."""
    units = -(-rows.count // due.unit_rows)
    return speeds.load + rows.count * (2 * due.encode + speeds.gradient.mean(rows.lengths)) + units * UNIT_SECONDS
