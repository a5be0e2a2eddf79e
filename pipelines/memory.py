"""How much memory may be taken, and sizes in words: `4GiB`, `500MB`."""

import re

from gradsift.datastore.free import free_bytes

SHARE = 0.6  # of what is free, where a recipe names no `memory`
UNITS = {"": 1, "b": 1, **{f"{c}b": 1000**n for n, c in enumerate("kmgt", 1)}}
UNITS |= {f"{c}ib": 1024**n for n, c in enumerate("kmgt", 1)}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_size(given: str | int) -> int:
    """Bytes of `4GiB`, `500MB`, `1073741824`. Raises ValueError for anything else."""
    match = SIZE.fullmatch(str(given))
    if match is None or match[2].lower() not in UNITS:
        raise ValueError(f"{given!r} is no size; write 4GiB, 500MB or a number of bytes")
    size = float(match[1]) * UNITS[match[2].lower()]
    if not 1 <= size < float("inf"):
        raise ValueError("give a size above 0, and below what a machine can have")
    return int(size)


def in_words(size: float) -> str:
    """A size as a person reads it: 3.2 GiB."""
    for name, unit in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1024:,.0f} KiB"


def default_budget() -> int:
    """The share of free memory that is used where nobody names an amount."""
    return int(SHARE * free_bytes())
