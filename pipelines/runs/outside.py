"""What a deletion does about files outside of the catalog: exports on disk, what killed exports left, reports.

The store's own folders `exports` and `reports` are the tool's, where they are no links. Elsewhere it touches nothing
but exports that it wrote, and what a killed writer of one of these left beside it, and that only where the user said so
in this call (`--exports`): where exports went is in the catalog, which may be forged. What cannot be read, or written
again, is named: nothing here stops a deletion.

Cost: the ids of each export are read.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from gradsift.datastore import inside, leases, outputs, runs, selections
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.datastore.traces import exported_nowhere, exported_to, reported_to
from gradsift.pipelines.export.export import NoTokenizerError, export
from gradsift.pipelines.export.place import OLD, others, remove, settle
from gradsift.pipelines.export.whole import made_of, manifest_at, was_export
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Export
from gradsift.pipelines.runs.copies import CHECKOUT, REPLACED, STAGING, folders, is_in, is_mine, is_plain

DATA = ("*.parquet", "*.jsonl")
LATER = "`gradsift delete --exports` sees to it, where that is yours"


@dataclass(frozen=True)
class Exported:
    """An export on disk that holds deleted examples. `state`: `holds them`, `rewritten`, `removed` (in the store, where
    nothing stands for what it was), both with what is left there of others, or why it still holds them; `rows` is 0
    where they cannot be read."""

    folder: str
    rows: int
    state: str = "holds them"


def holding(store: Store, ids: Sequence[str]) -> list[Exported]:
    """Exports on disk that hold any of the examples: those of runs, wherever, and all below the store's `exports`."""
    wanted = set(ids)
    return [held for folder in folders(store) if (held := _held(folder, wanted)) is not None]


def _held(folder: Path, wanted: set[str]) -> Exported | None:
    """What an export has of the examples; None for none, and for a folder that is no export."""
    if not (folder / "manifest.json").is_file() and not any(_data_files(folder)):
        return None
    try:
        rows = _rows_of(folder, wanted)
    except (OSError, ValueError, KeyError, TypeError) as error:  # of pyarrow, too
        return Exported(str(folder), 0, f"may hold them, for it cannot be read: {_short(error)}")
    return Exported(str(folder), rows) if rows else None


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _rows_of(folder: Path, wanted: set[str]) -> int:
    """Rows of an export that are of the examples."""
    import pyarrow.dataset as ds  # a second, with pandas: what refuses an argument does not wait for it

    files = sorted((folder / "data").glob("*.parquet"))
    of_tables = (
        name
        for batch in (
            ds.dataset([str(file) for file in files], format="parquet").scanner(columns=["example_id"]).to_batches()
            if files
            else ()
        )
        for name in batch["example_id"].to_pylist()
    )
    return sum(name in wanted for name in chain(of_tables, _ids_in_lines(folder)))


def _ids_in_lines(folder: Path) -> Iterator[str]:
    """Ids in JSON lines. Read one by one: Arrow's reader wants objects of all lines to have the same types, and calls
    of tools have not."""
    for path in sorted((folder / "data").glob("*.jsonl")):
        with path.open("rb") as lines:
            yield from (json.loads(line)["example_id"] for line in lines if line.strip())


def _data_files(folder: Path) -> Iterator[Path]:
    for pattern in DATA:
        yield from (folder / "data").glob(pattern)


def rewritten(store: Store, held: Exported, progress: Progress, *, elsewhere: bool) -> Exported:
    """Write an export anew from what is left of its selection. In the store, one of a version that is void, or of which
    nothing is left, is removed; elsewhere its owner sees to it. One that cannot be written now, or is `elsewhere` where
    that was not asked for, stays and says why."""
    folder = Path(held.folder)
    if not elsewhere and not is_in(store, folder):
        return replace(held, state=f"still holds them, outside of the store: {LATER}")
    try:
        chosen = _left_of(store, folder)
    except InputError as error:
        if is_mine(store, folder) and was_export(folder):
            return replace(held, state="removed" if remove(folder) else f"removed{_left_there(folder)}")
        return replace(held, state=f"still holds them, remove it: {error}" if held.rows else held.state)
    try:
        _export(store, chosen, folder, progress)
    except (GradsiftError, OSError, ValueError) as error:
        with suppress(GradsiftError, OSError):
            settle(store, folder)  # it may have failed when the new one was there and the old one beside it
        return replace(held, state=f"still holds them: {error}; then `gradsift delete --exports`")
    return replace(held, state=f"rewritten{_left_there(folder)}")


def _export(store: Store, chosen: Selection, folder: Path, progress: Progress) -> None:
    """By the recipe; where labels are the tool's own choice and the model is out of reach, without them."""
    recipes = runs.recipe_of(store, chosen)
    options = Export.model_validate(recipes.resolved.get("export", {}))
    try:
        export(store, chosen, recipes, folder, options, progress)
    except NoTokenizerError:
        if options.labels != "auto":
            raise
        export(store, chosen, recipes, folder, options.model_copy(update={"labels": False}), progress)


def _left_there(folder: Path) -> str:
    """What is to be said of files in an export's folder that others wrote: a trainer's output may show what it saw."""
    names = others(folder)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", but for what is not the export's: {', '.join(names[:3])}{more}" if names else ""


def _left_of(store: Store, folder: Path) -> Selection:
    """What stands for the selection of an export. Raises InputError for none, and for a version checked out."""
    if is_mine(store, folder) and "@" in folder.name:
        raise InputError("a version that is void")
    name, target, digest = made_of(manifest_at(folder))
    left = selections.standing_for(store, name, target, digest)
    if left is None:
        raise InputError(f"no selection {name!r} in {store.root} is what is left of it")
    return left


def drop_left_behind(store: Store, *, elsewhere: bool) -> list[str]:
    """Remove what killed exports left, in the store and, if that was asked for, beside exports `elsewhere`: there only
    what the name of an export that this store wrote is part of. An export that is being written now stays; it began
    after the deletion. Returns what is to be said."""
    exports = store.place.root / "exports"
    known: dict[Path, set[str]] = {} if exports.is_symlink() else {exports: set()}
    for folder in map(Path, exported_to(store)):
        if is_plain(store, folder):
            known.setdefault(folder.parent.resolve(), set()).add(folder.name)
    said = [
        f"{folder} may hold them: an export of an older version, as seen from where its run was started"
        for folder in exported_nowhere(store)
    ]
    for parent, names in known.items():
        for path in sorted(parent.iterdir() if parent.is_dir() else ()):
            if not elsewhere and not is_in(store, path) and _is_of(path.name, names):
                said.append(f"{path} may hold them: {LATER}")
                continue
            of = path.name.removeprefix(OLD) if path.name.startswith(OLD) else ""
            if of and (is_mine(store, path) or of.removeprefix(CHECKOUT) in names):
                said += _settled(store, parent / of, path)
            elif path.is_dir() and not path.is_symlink():
                said += _drop_if_left_behind(store, path, names, inside=is_mine(store, path))
    return said


def _is_of(name: str, names: set[str]) -> bool:
    """Whether a name is that of what a killed export of one of these names left."""
    staging = STAGING.fullmatch(name)
    of = staging["name"] if staging else name.removeprefix(OLD).removeprefix(CHECKOUT)
    return bool(REPLACED.fullmatch(name)) or (of != name and of in names)


def _settled(store: Store, folder: Path, old: Path) -> list[str]:
    """Finish a swap that was killed, so that the folder is looked at as any other. What cannot be put back is named."""
    try:
        settle(store, folder)
    except GradsiftError as error:
        return [f"{old} may hold them: {error}"]
    if old.exists() and remove(old) is False:
        return [f"{old} holds files of others that were in the export {folder.name}; see what they are"]
    return []


def _drop_if_left_behind(store: Store, path: Path, names: set[str], *, inside: bool) -> list[str]:
    staging = STAGING.fullmatch(path.name)
    if staging:
        ours = inside or staging["name"] in names
        ours = ours and not leases.is_held(store, f"export {staging['key']}")
    elif REPLACED.fullmatch(path.name):
        ours = inside or (path / "manifest.json").is_file()
        if not ours:
            return [f"{path} may show them: it looks like an export that was replaced; see what it is"]
    else:
        ours = path.name.startswith(CHECKOUT) and (inside or path.name.removeprefix(CHECKOUT) in names)
    if ours:
        shutil.rmtree(path)
    return []


def write_reports(store: Store) -> list[str]:
    """Write the store's reports again, each that of its run or of the newest that wrote one of its name, or remove
    them: pages and the JSON beside them; what else lies there is not the tool's. Returns what is to be said: what was
    removed, and reports elsewhere that may show what was deleted."""
    from gradsift.pipelines.report.kept import REPORTS, kept_pages
    from gradsift.pipelines.report.report import write_report  # loads torch: seconds, before any error is said

    pages, said = reported_to(store), []
    folder = store.root / REPORTS
    of_name = {Path(page).name: run_id for page, run_id in pages.items()}
    of_name |= {page.name: run.run_id for page, run in kept_pages(store)}
    for page in _pages(folder, set(of_name)):
        try:
            write_report(store, page, runs.get(store, of_name[page.name]))
        except (GradsiftError, KeyError, ValueError) as error:
            for file in (page.with_suffix(".json"), page):
                inside.unlink(store.root, f"{REPORTS}/{file.name}")
            why = "no run wrote it" if page.name not in of_name else str(error)
            said.append(f"the report {page.name} was removed and not written again: {why}")
    others = {Path(page).resolve() for page in (*pages, *outputs.noted(store, "report"))}
    elsewhere = sorted(page for page in others if page.exists() and page.parent != folder.resolve())
    return said + [f"{page} may show them: a report outside of the store" for page in elsewhere]


def _pages(folder: Path, named: set[str]) -> list[Path]:
    """Pages of a folder, also those of which only the JSON is left, if a run wrote them."""
    paths = folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()
    found = {path for path in paths if path.suffix in (".html", ".json") and path.is_file()}
    pages = {path.with_suffix(".html") for path in found}
    return sorted(page for page in pages if page in found or page.name in named)
