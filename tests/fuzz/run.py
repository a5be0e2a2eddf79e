"""Run targets: `PYTHONPATH=.:tests python -m fuzz.run --runs 1000 [--seed N] [--findings FOLDER] [--record FILE] [TARGET …]`.

Prints a line for each target; `--replay FILE` runs one file that a finding was kept in, by the target that its name begins with.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from fuzz import targets  # noqa: F401 - registers them
from fuzz.drive import TARGETS, explore


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="all, if none is named")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600.0, help="for a target, at most: then the next one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--replay", type=Path)
    asked = parser.parse_args()
    if asked.replay:
        name = asked.replay.name.rpartition("-")[0]
        TARGETS[name].run(asked.replay.read_bytes())
        return
    for name in asked.targets or list(TARGETS):
        _run(name, asked)


def _run(name: str, asked: argparse.Namespace) -> None:
    began = time.monotonic()
    runs, found = explore(TARGETS[name], asked.seed, asked.runs, asked.seconds, asked.findings)
    seconds = round(time.monotonic() - began, 1)
    sys.stdout.write(f"{name:16} {runs:>9,} inputs {seconds:>8} s {json.dumps(found) if found else ''}\n")
    sys.stdout.flush()
    if asked.record:
        before = json.loads(asked.record.read_text()) if asked.record.exists() else {}
        record = before | {name: {"seed": asked.seed, "inputs": runs, "findings": found}}
        asked.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
