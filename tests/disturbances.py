"""What is done to a step of a store's life (tests/world.py), and what counts as coming through it.

Each takes a `Life`, a step, and a tally (tests/reliability.py). Afterwards the same command is said again until it ends;
then `verify` is clean, nothing is left over, and all is as in the life that nobody disturbed.
"""

import time

import powerloss
from world import begin, damaged, do

DAY = 86_400.0
EXPECTED = (0, 2, 4, 5, 6, 7)  # exit codes that docs/reference.md lists, but the one for what nobody foresaw


def kill(life, step, tally, *, at=0, half=False, after=0.0):
    """`kill -9` at an operation (in the middle of it, with `half`), or `after` seconds."""
    life.restore(step)
    if at:
        first = do(life.forks, life.folder, step, at=at, what="half" if half else "kill")
    else:
        started = begin(life.forks, life.folder, step)
        time.sleep(after)
        first = life.forks.stop(started)
    _finish(life, step, tally, f"{step}: killed at {at or after}{' half' * half}", first.units)


def fail(life, step, tally, *, at, what):
    """An operation fails once, as `what` says: ENOSPC, EIO, EACCES."""
    life.restore(step)
    first = do(life.forks, life.folder, step, at=at, what=what)
    case = f"{step}: {what} at {at}, {' '.join(first.seen[at - 1]) if len(first.seen) >= at else 'never'}"
    assert first.code in EXPECTED, f"{case}: exit code {first.code}\n{first.err}"
    assert "Traceback" not in first.err, f"{case}\n{first.err}"
    assert first.code == 0 or "error: " in first.err, case
    _finish(life, step, tally, case, first.units, reported=first.code != 0)


def jump(life, step, tally, *, at, by):
    """The clock jumps by some seconds at an operation, and is right again for the command after it."""
    life.restore(step)
    first = do(life.forks, life.folder, step, at=at, what="clock", jump=by)
    assert first.code == 0, f"{step}: clock {by:+.0f} s at {at}: {first.err}"
    _finish(life, step, tally, f"{step}: clock {by:+.0f} s at {at}", 0)


def lose_power(life, step, tally, at, most=None):
    """The power is lost before each of these operations: what was not synced is gone, all of it or one
    thing alone; with `most` only so many of the latter."""
    life.restore(step)
    first = do(life.forks, life.folder, step, keep=at)
    assert first.code == 0, first.err
    for moment in powerloss.moments(first.folder):
        losses = moment.losses()
        cases = [("all", losses, False), ("all, zeros", losses, True)] if losses else [("nothing", [], False)]
        cases += [(f"alone {sorted(one)}", [one], False) for one in losses[:most]] if len(losses) > 1 else []
        for name, lost, zeros in cases:
            life.clear()
            moment.build(life.folder, lost, zeros=zeros)
            case = f"{step}: power lost before {moment.name}, {name}"
            if found := damaged(life.folder):
                tally.lost(f"{case}: {found}")
            else:
                _finish(life, step, tally, case, 0)


def writers(life, step, tally, count):
    """So many processes do the step at once."""
    life.restore(step)
    ended = [life.forks.wait(one) for one in [begin(life.forks, life.folder, step) for _ in range(count)]]
    case = f"{step}: {count} at once"
    assert {one.code for one in ended} <= {0, 5}, f"{case}: {[one.err for one in ended]}"
    _finish(life, step, tally, case, sum(one.units for one in ended))


def _finish(life, step, tally, case, units, *, reported=False):
    again = do(life.forks, life.folder, step)
    if again.code != 0:
        tally.lost(f"{case}: the next one ends with {again.code}: {again.err}")
    elif found := life.differs(step, units + again.units):
        tally.lost(f"{case}: {found}")
    elif reported:
        tally.reported()
    else:
        tally.harmless()
