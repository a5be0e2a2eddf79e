"""A folder of files: which of them are read, and which are not, and why."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from gradsift.datastore.readings import Unread

FIRST = 3  # names that are told of each kind of file


def walk(folder: Path, known: Callable[[Path], object]) -> tuple[list[Path], list[Unread]]:
    """(files to read, sorted; what is not read): files of a `known` kind that hold something. A name that begins with a
    dot is hidden. A link to a file is read, a link to a folder is not followed, so that no loop can be."""
    read: list[Path] = []
    out: dict[tuple[str, str], list[str]] = {}
    for path, why in _inside(folder):
        if not why and not known(path):
            why = "of no known kind"
        if not why:
            read.append(path)
            continue
        out.setdefault((why, "".join(path.suffixes[-2:]) if why == "of no known kind" else ""), []).append(
            path.relative_to(folder).as_posix()
        )
    unread = [
        Unread(str(folder), why, suffix, len(names), _first(names)) for (why, suffix), names in sorted(out.items())
    ]
    return sorted(read), unread


def _first(names: Sequence[str]) -> list[str]:
    return [name.encode("utf-8", "replace").decode("utf-8") for name in sorted(names)[:FIRST]]


def _inside(folder: Path) -> Iterator[tuple[Path, str]]:
    """All that is in a folder, with the reason why it is not to be read: "" for a file with something in it."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"in a folder that cannot be opened ({error.strerror})"
        return
    for path in paths:
        if path.name.startswith("."):
            yield path, "hidden"
            continue
        try:
            found = path.stat()
        except OSError as error:
            yield path, f"a link that leads nowhere ({error.strerror})" if path.is_symlink() else str(error.strerror)
            continue
        if S_ISDIR(found.st_mode):
            if path.is_symlink():
                yield path, "a link to a folder, which is not followed"
            else:
                yield from _inside(path)
        elif not S_ISREG(found.st_mode):
            yield path, "no ordinary file"
        else:
            yield path, "" if found.st_size else "empty"
