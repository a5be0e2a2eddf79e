"""Running targets: what of an input is a finding, and how many inputs are run, in a process that may die.

A target takes bytes and may raise GradsiftError. A finding is anything else: another exception, more than two seconds of
processor time, more than 500 MB of memory, a process that dies or does not come back.
"""

import hashlib
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from mmap import mmap
from pathlib import Path
from random import Random
from tempfile import TemporaryFile

from fuzz.mutate import mutated
from running import start

from gradsift.datastore.errors import GradsiftError

MOST_SECONDS = 2.0
MOST_BYTES = 500 << 20
SPARE = 2 << 30  # address space beyond what a process has when it begins: what wants more gets a MemoryError
HANGS = 30.0  # seconds of processor time for one input, or twenty times as many of waiting: then its process is ended
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FINDINGS = HERE / "findings"
FOUND = "fuzz finds: "


@dataclass(frozen=True)
class Target:
    """A reader: what is done with bytes, valid inputs to begin with, and words of its language."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()


TARGETS: dict[str, Target] = {}


def target(name: str, seeds: Callable[[], list[bytes]], *words: str) -> Callable[[Callable], Callable]:
    """Register a function as a target."""

    def register(run):
        TARGETS[name] = Target(name, run, cache(seeds), tuple(word.encode() for word in words))
        return run

    return register


def input_of(one: Target, seed: int, number: int) -> bytes:
    """The input of this number; the first ones are the seeds themselves."""
    seeds = one.seeds()
    if number < len(seeds):
        return seeds[number]
    return mutated(seeds, one.words, Random(f"{one.name}/{seed}/{number}"))


def finding(one: Target, data: bytes) -> str | None:
    """What is wrong with how a target takes an input, in a few words that are the same for the same fault; "" where it
    refuses it with an error of ours, None where it takes it."""
    before, began = _peak(reset=True), time.process_time()
    found = _raised(one, data)
    seconds, grown = time.process_time() - began, _peak() - before
    if not found and seconds > MOST_SECONDS:
        found = "takes more than two seconds"
    if not found and grown > MOST_BYTES:
        found = "takes more than 500 MB"
    return found


def _raised(one: Target, data: bytes) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.run(data)
    except GradsiftError as error:
        beneath: BaseException | None = error
        while beneath is not None:
            if isinstance(beneath, MemoryError):
                return f"asks for more than {SPARE >> 30} GB: {_place(beneath)}"
            beneath = beneath.__cause__ or beneath.__context__
        return ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - panics of Rust are no Exception
        return f"{type(error).__name__} {_place(error)}"
    return None


def _place(error: BaseException) -> str:
    """Where an error came from: the innermost function of ours, and what it called where that is another's."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and not Path(f.filename).is_relative_to(HERE)]
    last = frames[-1]
    names = [f"in {Path(f.filename).stem}.{f.name}" for f in ours[-1:]]
    return " ".join([*names, *([f"by {Path(last.filename).stem}.{last.name}"] if last not in ours else [])])


def _peak(*, reset: bool = False) -> int:
    """The largest resident size of this process since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def saved(one: Target, data: bytes, folder: Path) -> Path:
    """Keep an input as a file that `replay` finds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{one.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def explore(one: Target, seed: int, runs: int, seconds: float, folder: Path) -> tuple[int, dict[str, int]]:
    """Run so many inputs, or those that seconds allow, in a process of their own, begun anew where it dies. Returns how
    many there were and {finding: how often}, and keeps the first input of each in `folder`."""
    counts: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    place, done, ends = folder / f".{one.name}-{seed}", 0, time.monotonic() + seconds
    while done < runs:
        place.write_bytes(done.to_bytes(8, "little"))
        left = ends - time.monotonic()
        with TemporaryFile("w+") as said:
            child = start("-m", "fuzz.drive", one.run.__module__, one.name, seed, done, runs, left, folder, place, cwd=HERE.parent,
                          stdout=said, stderr=None, variables={"PYTHONPATH": f"{ROOT}:{HERE.parent}"})  # fmt: skip
            done = _watch(child, place)
            said.seek(0)
            counts.update(
                line.removeprefix(FOUND).rstrip() for line in said if line.startswith(FOUND)
            )  # libraries print, too
        if child.returncode == 0:
            break
        why = "hangs" if child.returncode == -signal.SIGKILL else f"ends the process ({child.returncode})"
        counts[why] += 1
        saved(one, input_of(one, seed, done), folder)
        done += 1
    place.unlink()
    return done, dict(counts)


def _watch(child, place: Path) -> int:
    """Wait for a process, and end it where it does nothing any more; returns the number of the input it was at."""
    at, since, used = -1, time.monotonic(), 0.0
    while child.poll() is None:
        time.sleep(0.2)
        now = int.from_bytes(place.read_bytes(), "little")
        if now != at:
            at, since, used = now, time.monotonic(), _processor_seconds(child.pid)
        elif time.monotonic() - since > 20 * HANGS or _processor_seconds(child.pid) - used > HANGS:
            child.kill()
    return int.from_bytes(place.read_bytes(), "little")


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(module: str, name: str, seed: str, first: str, last: str, seconds: str, folder: str, place: str) -> None:
    import_module(module)  # registers its targets
    one, known, ends = TARGETS[name], set[str](), time.monotonic() + float(seconds)
    _raised(one, one.seeds()[0])  # what it imports is no memory of an input
    limit = _address_space() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with Path(place).open("r+b") as handle, mmap(handle.fileno(), 8) as at:
        for number in range(int(first), int(last)):
            at[:8] = number.to_bytes(8, "little")
            if time.monotonic() > ends:
                return
            data = input_of(one, int(seed), number)
            found = finding(one, data)
            if found:
                sys.stdout.write(f"\n{FOUND}{found}\n")
                sys.stdout.flush()
                if found not in known:
                    known.add(found)
                    saved(one, data, Path(folder))
        at[:8] = int(last).to_bytes(8, "little")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    from fuzz import drive  # the module that targets register in, which this one, run as a program, is not

    drive._child(*sys.argv[1:])
