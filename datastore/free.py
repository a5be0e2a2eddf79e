"""How much memory there still is: of the machine, or of the control groups (containers, services) of the process.

A group has its limit less what its processes hold; pages of files that nobody used lately are given back when they are
wanted, and count as free.
"""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")  # lines `number:controllers:/path`; version 2 of control groups names no controllers
NAMES = (  # of version 2 and 1: folder, limit, what is held, and which of that are pages of files
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes() -> int:
    """What this process may still take: of the machine, or of a group that it is in where that is less; never below
    0."""
    return max(0, min([available(), *_left()]))


def available() -> int:
    """Memory of the machine that can be had without swapping; all that it has, where the system does not say."""
    lines = _text(Path("/proc/meminfo")).splitlines()
    told = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if told is None else 1024 * told


def _left() -> Iterator[int]:
    """What the limits of the process's own group and of all above it leave. In a container the path may be the host's:
    the root is then the container's own."""
    lines = [line.split(":", 2) for line in _text(OWN).splitlines()]
    own = {
        line[2].lstrip("/") for line in lines if len(line) == 3 and (line[1] == "" or "memory" in line[1].split(","))
    }
    for folder, limit, held, of_files in NAMES:
        root = GROUPS / folder
        groups = {group for path in own | {""} for group in (root / path, *(root / path).parents)}
        for group in sorted(group for group in groups if group.is_relative_to(root)):
            most = _text(group / limit)
            if most.isdigit():  # else it is `max`, or there is no such group
                counts = dict(line.split() for line in _text(group / "memory.stat").splitlines())
                yield int(most) - max(0, int(_text(group / held) or 0) - int(counts.get(of_files, 0)))


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
