"""Reports on disk: `reports/NAME.html` is that of the newest run of a name, `reports/NAME.runN.html` that of run N.

Both are written when a run ends, each with its JSON; older ones stay as they were. Names of recipes have no full stop,
so no name is taken for another's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradsift.datastore import inside, runs
from gradsift.datastore.errors import CorruptionError, GradsiftError, InputError
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store
from gradsift.pipelines.report.answers import answers
from gradsift.pipelines.report.facts import date_of

REPORTS = "reports"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # as `Recipe.name`
KEPT = re.compile(r"(?P<name>[^.]+)\.run(?P<run>\d+)\.html")


@dataclass(frozen=True)
class Kept:
    """A finished run and its report. `path` is '' where the page is not there (`gradsift report --run` makes it)."""

    run: int
    date: str
    name: str
    headline: str
    path: str


def newest_page(store: Store, name: str) -> Path:
    """Where the report of the newest run of a name is. Raises CorruptionError for a name that no recipe has."""
    return _page(store, name, f"{name}.html")


def page_of(store: Store, run: Run) -> Path:
    """Where the report of a run is kept. Raises as `newest_page`."""
    return _page(store, run.name, f"{run.name}.run{run.run_id}.html")


def _page(store: Store, name: str, file: str) -> Path:
    if not NAME.fullmatch(name):
        raise CorruptionError(f"the catalog of {store.root} has a run {name!r}, which is no name of a recipe")
    return store.root / REPORTS / file


def is_kept(store: Store, page: Path) -> bool:
    """Whether a page is one of the store's own folder for them."""
    return page.absolute().parent == (store.root / REPORTS).absolute()


def kept_pages(store: Store) -> Iterator[tuple[Path, Run]]:
    """Kept pages of which something is there, and their runs, in the order of their names."""
    folder = store.root / REPORTS
    found = folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()
    pages = {path.with_suffix(".html") for path in found if path.suffix in (".html", ".json") and path.is_file()}
    of_number = {run.run_id: run for run in runs.finished(store)}
    for page in sorted(pages):
        match = KEPT.fullmatch(page.name)
        run = of_number.get(int(match["run"])) if match else None
        if match and run is not None and run.name == match["name"]:
            yield page, run


def read_page(store: Store, run: Run) -> str:
    """The kept page of a run, as it stands in the store's own folder: no link is followed, and nothing but a regular
    file is read. Raises InputError where there is none."""
    lacking = InputError(
        f"run {run.run_id} has no report in {store.root}; `gradsift report --run {run.run_id}` makes it"
    )
    kept = _kept(store, run)
    if kept is None:
        raise lacking
    try:
        return inside.read_text(store.root, f"{REPORTS}/{kept.name}")
    except (OSError, UnicodeDecodeError, CorruptionError) as error:
        raise lacking from error


def listed(store: Store) -> list[Kept]:
    """Finished runs with what they found, the newest first."""
    return [_entry(store, run) for run in runs.finished(store)]


def _entry(store: Store, run: Run) -> Kept:
    path = _kept(store, run)
    return Kept(run.run_id, date_of(run), run.name, _headline(run), "" if path is None else str(path))


def _kept(store: Store, run: Run) -> Path | None:
    """The page of a run, or of its name where it is the newest of it; None where there is none."""
    try:
        own, newest = page_of(store, run), newest_page(store, run.name)
        inside.require(store.root, own.parent)
    except CorruptionError:  # forged
        return None
    is_newest = all(one.run_id == run.run_id for one in runs.newest_of_each(store) if one.name == run.name)
    return own if own.is_file() else newest if is_newest and newest.is_file() else None


def _headline(run: Run) -> str:
    try:
        found = answers(run.result)
    except GradsiftError:
        return "of an older version"
    said = [f"{one.target or one.arm}: {one.headline}" + (f" ({one.effect})" if one.effect else "") for one in found]
    return "; ".join(said) or "nothing chosen"
