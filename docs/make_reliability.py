"""Write docs/reliability.md from benchmarks/results/reliability.json, which `make reliability` records.

python docs/make_reliability.py
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
COUNTS = ("injected", "reported", "harmless", "silent", "lost")

HEAD = """# Reliability

What the store promises, and what attacks on each promise came to. `make reliability` makes the attacks and writes these
figures, in an hour or more; a part of them is in every test run, and `make soak` makes the long ones alone.
GRADSIFT_SOAK_SHARE makes a share of the long ones. These figures were taken in parts, on a busy machine of two cores:
of "ENOSPC, EIO or EACCES during …" a fifth of all file operations, drawn by a seed, all else whole. Two attacks of an
earlier part were not harmless and are mended (a name in a forged catalog by which an export went elsewhere; an export
that was replaced while the disk failed, and kept what was deleted); their tests ran again after that.

- **injected**: kills, failed operations, flipped bytes, hostile rows and files.
- **reported**: an error or a finding of `gradsift verify` named it, before anything wrong was used, or it was refused.
- **harmless**: afterwards everything was as without it: the same digests of rows, selections and exports, nothing
  computed twice but the unit that was in work, nothing left over after `gradsift gc`.
- **silent**: something else came out and nobody said so; code ran; something was written outside of the store.
- **lost**: something committed was gone.

How power loss is modelled, and what is not: [ADR 31](adr/0031-power-loss.md). Who may be hostile, and what is not
covered: [SECURITY.md](../SECURITY.md).
"""


def page(records: Iterable[Mapping[str, Any]], promises: Mapping[int, str]) -> str:
    """The page's text."""
    records = list(records)
    total = {count: sum(record[count] for record in records) for count in COUNTS}
    parts = [
        HEAD,
        "In all: " + ", ".join(f"{total[count]:,} {count}" for count in COUNTS) + ".\n",
    ]
    for number, promise in promises.items():
        rows = [record for record in records if record["promise"] == number]
        parts.append(f"## {number}. {promise}\n")
        parts.append(
            _table(rows) if rows else f"No attack is recorded; tests named `test_promise_{number}_…` keep it.\n"
        )
    return "\n".join(parts)


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = ["| area | " + " | ".join(COUNTS) + " | test |", "|---|" + "---:|" * len(COUNTS) + "---|"]
    for row in rows:
        counts = " | ".join(f"{row[count]:,}" for count in COUNTS)
        lines.append(f"| {row['area']} | {counts} | `{row['test'].removeprefix('tests/')}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reliability import PROMISES

    PAGE.write_text(page(json.loads(RECORD.read_text("utf-8")), PROMISES), "utf-8")


if __name__ == "__main__":
    main()
