"""Promise 1 and 2, attacked: killed processes, lost power, failing disks, clocks that jump, many writers.

Here a few of each; `make soak` (test_soak.py) does them all.
"""

import random

import disturbances
import pytest
from interposed import CHANGES

pytestmark = pytest.mark.slow
STEPS = ("run", "select", "export", "index", "compact")  # what costs least of each kind, after the one that makes all


@pytest.fixture(scope="module")
def life(life):
    life.steps = STEPS
    return life


@pytest.mark.parametrize("step", ["export", "compact"])
def test_a_killed_command_is_finished_by_the_next(life, tally, step):
    kills = tally(f"kill -9 during {step}", promise=1)
    for number in random.Random(step).sample(life.operations(step, *CHANGES), 1):
        disturbances.kill(life, step, kills, at=number)  # which counts units that were computed again, too


def test_what_power_loss_leaves_is_a_sound_store(life, tally):
    losses = tally("power loss during index", promise=1)
    disturbances.lose_power(life, "index", losses, life.operations("index", "rename", "commit")[-1:], most=1)


@pytest.mark.parametrize(("step", "what"), [("select", "EIO"), ("export", "ENOSPC"), ("index", "EACCES")])
def test_a_failing_disk_is_one_clear_error(life, tally, step, what):
    failures = tally(f"{what} during {step}", promise=1)
    for number in random.Random(step).sample(life.operations(step), 1):
        disturbances.fail(life, step, failures, at=number, what=what)


def test_a_clock_that_jumps_changes_nothing(life, tally):
    jumps = tally("a clock that jumps by a day during compact", promise=1)
    number = len(life.operations("compact")) // 2
    disturbances.jump(life, "compact", jumps, at=number, by=disturbances.DAY)


def test_four_writers_at_once(life, tally):
    disturbances.writers(life, "select", tally("four writers at once: select", promise=1), 4)
