"""The examples that are shipped: pools to try, found wherever the package is installed."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from gradsift.datastore.errors import InputError
from gradsift.datastore.suggest import suggestion


def examples() -> dict[str, str]:
    """{name: what its README begins with}."""
    return {name: _title(folder) for name, folder in sorted(_folders().items())}


def copy_example(name: str, to: Path) -> Path:
    """Copy an example's files into a folder, which is returned. Raises InputError for an unknown name, and for a folder
    that holds something."""
    known = _folders()
    if name not in known:
        listed = f"there are: {', '.join(known)}"
        raise InputError(f"no example {name!r}; {suggestion(name, known, listed)}")
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise InputError(f"{to} is there and not empty; name another folder")
        _copy(known[name], to)
    except OSError as error:
        raise InputError(f"cannot copy to {to}: {error.strerror}; name another folder") from error
    return to


def _folders() -> dict[str, Traversable]:
    """Those with a pool; the checkout has others beside them, which are not shipped."""
    inside = files("gradsift.examples").iterdir()
    return {one.name: one for one in inside if one.is_dir() and (one / "pool").is_dir()}


def _title(folder: Traversable) -> str:
    """The first paragraph under the heading."""
    parts = (folder / "README.md").read_text("utf-8").split("\n\n")
    return " ".join(next((part for part in parts if part and not part.startswith("#")), "").split())


def _copy(folder: Traversable, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for one in folder.iterdir():
        if one.is_dir():
            _copy(one, to / one.name)
        else:
            (to / one.name).write_bytes(one.read_bytes())
