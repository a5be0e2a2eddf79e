"""The long form of test_crash.py, for `make soak`: every step of a store's life, on every kind of place.

GRADSIFT_SOAK_SHARE makes so large a part of the attacks (0.1), or so many times as many (3), drawn by GRADSIFT_SOAK_SEED.
"""

import os
import random
import secrets
import signal
import time

import disturbances
import pytest
import s3
import world
from interposed import CHANGES

pytestmark = [pytest.mark.soak, pytest.mark.slow]
SHARE = float(os.environ.get("GRADSIFT_SOAK_SHARE", "1"))
SEED = os.environ.get("GRADSIFT_SOAK_SEED", "0")
AT_OPERATIONS, AT_TIMES, LIVES = 10, 5, 4  # kills of a step; lives on each kind of shared places, a kill in each step
ERRORS = ("ENOSPC", "EIO", "EACCES")
EVERY_STEP = pytest.mark.parametrize("step", world.STEPS)


def some(step, choices, most=None):
    """A share of the choices, but at least one."""
    count = max(1, round(SHARE * (len(choices) if most is None else most)))
    return sorted(random.Random(f"{SEED} {step}").sample(list(choices), min(count, len(choices))))


@EVERY_STEP
def test_kills_at_operations(life, tally, step):
    kills = tally(f"kill -9 at an operation of {step}", promise=1)
    for number in some(step, life.operations(step, *CHANGES), AT_OPERATIONS):
        kind = life.ended[step].seen[number - 1][0]
        disturbances.kill(life, step, kills, at=number, half=kind == "write")  # which counts units, too
    if step in ("run", "grow") and not kills.bad:
        again = tally(f"units of work that a killed {step} has to do again: one at most", promise=2)
        again.harmless(kills.counts["harmless"])


@EVERY_STEP
def test_kills_at_any_time(life, tally, step):
    kills = tally(f"kill -9 at any time of {step}", promise=1)
    life.restore(step)
    for share in some(step, [k / 97 for k in range(97)], AT_TIMES):
        disturbances.kill(life, step, kills, after=share * life.seconds[step])


@EVERY_STEP
def test_power_loss(life, tally, step):
    losses = tally(f"power loss during {step}", promise=1)
    numbers = life.operations(step, "rename", "commit", "unlink", "rmdir")
    disturbances.lose_power(life, step, losses, some(step, numbers, 12), most=6)


@EVERY_STEP
def test_every_file_operation_fails_once(life, tally, step):
    failures = tally(f"ENOSPC, EIO or EACCES during {step}", promise=1)
    for number in some(step, life.operations(step)):
        disturbances.fail(life, step, failures, at=number, what=ERRORS[number % len(ERRORS)])


@EVERY_STEP
@pytest.mark.parametrize("days", [-1, 1])
def test_clocks_that_jump(life, tally, step, days):
    jumps = tally(f"a clock that jumps by a day during {step}", promise=1)
    numbers = life.operations(step)
    for number in (1, *some(step, numbers, 2)):
        disturbances.jump(life, step, jumps, at=number, by=days * disturbances.DAY)


@pytest.mark.parametrize("step", ["run", "select", "mix", "export", "index", "compact", "delete"])
def test_four_writers_at_once(life, tally, step):
    disturbances.writers(life, step, tally(f"four writers at once: {step}", promise=1), 4)


@pytest.mark.parametrize("files", ["a folder", "a bucket"])
def test_lives_on_postgresql(request, forks, life, data_dir, model_dir, postgres, tmp_path, tally, files):
    kills = tally(f"kill -9 with a catalog on PostgreSQL, files in {files}", promise=1)
    for number in range(max(1, round(SHARE * LIVES))):
        place = (
            (tmp_path / f"files{number}").as_uri() if files == "a folder" else request.getfixturevalue("bucket").url()
        )
        if files == "a bucket":
            place = place.replace("team/store", f"life/{number}")
        catalog = postgres.url(f"t_{secrets.token_hex(8)}")
        folder = world.make(tmp_path / f"world{number}", data_dir, model_dir, catalog_url=catalog, store_url=place)
        drawn = random.Random(f"{SEED} {files} {number}")
        for step in world.STEPS:
            killed_once(forks, folder, life, step, kills, drawn)


def killed_once(forks, folder, life, step, kills, drawn):
    """A step is killed at an operation or at a time, and done."""
    life.operations(step)  # it has been done undisturbed, on SQLite
    if drawn.random() < 0.5:
        first = world.do(forks, folder, step, variables=s3.CREDENTIALS, at=drawn.randint(1, 40), what="kill",
                         kinds=["failpoint", "request", "rename"])  # fmt: skip
    else:
        started = world.begin(forks, folder, step, variables=s3.CREDENTIALS)
        time.sleep(drawn.random() * life.seconds[step])
        first = forks.stop(started)
    again = world.do(forks, folder, step, variables=s3.CREDENTIALS)
    assert again.code == 0, f"{step} of {folder}: {again.err}"
    expected = {
        name: value for name, value in life.after[step].items() if name != "exports"
    }  # whose recipe has other URLs
    found = [one for one in world.differences(folder, expected) if one != "exports differ"]
    if world.data(folder) != {name: sha for name, sha in life.after[step]["exports"].items() if "/data/" in name}:
        found.append("data of exports differ")
    if found:
        kills.lost(f"{step}: {found}")
    elif first.code == -signal.SIGKILL:
        kills.harmless()
