"""Files as an export names them: below the source that they were read from, alike on every machine."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path, PurePath

At = tuple[str | None, str | None]  # `path` and `hub` of a source


def namer(sources: Iterable[At]) -> Callable[[str], str | None]:
    """A function from a file, as the store has it, to its name below the source that it is of: its path below a folder,
    its own name where the source is the file, and what it is called where it is a dataset of the hub. None for a file
    of no source. Of several that a file is in, the one with the shortest name counts, in whatever order they stand."""
    known = list(sources)

    @cache
    def name(file: str) -> str | None:
        found = [below for path, hub in known if (below := _below(file, path, hub)) is not None]
        return min(found, key=lambda below: (len(below), below), default=None)

    return name


def _below(file: str, path: str | None, hub: str | None) -> str | None:
    if hub is not None:
        return file if file.startswith(f"hub:{hub}/") else None
    at = PurePath(Path(path or ""))
    if file == str(at):
        return at.name
    return PurePath(file).relative_to(at).as_posix() if at in PurePath(file).parents else None
