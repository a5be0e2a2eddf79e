"""Rows of exports on disk: which export an example is in and where, and which example a row of one is."""

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.reading import ODD, reading
from gradsift.pipelines.export.whole import manifest_at
from gradsift.pipelines.runs.copies import folders

SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class InExport:
    """A row of an export that is an example: the export's folder and name, the file below it, the row from 1."""

    folder: str
    name: str
    file: str
    row: int


def exports_with(store: Store, example: str, digests: Set[str]) -> list[InExport]:
    """Rows of the exports on disk that are an example, of those whose selection has one of the digests. An export that
    cannot be read is left out (`gradsift verify` looks after files). Cost: the ids of these exports are read."""
    found = []
    for folder in folders(store):
        try:
            manifest = manifest_at(folder) or {}
            if manifest.get("selection", {}).get("digest") in digests:
                found += [
                    InExport(str(folder), str(manifest["name"]), str(file.relative_to(folder)), number)
                    for file in files_of(folder)
                    for number, name in enumerate(_ids(file), 1)
                    if name == example
                ]
        except (GradsiftError, *ODD):
            continue
    return found


def folder_of(path: Path) -> Path | None:
    """The folder of the export that a path is of: itself, or that of a file of its rows; None for none."""
    if path.is_dir() and (path / "manifest.json").is_file():
        return path
    if path.is_file() and path.suffix in SUFFIXES and (path.parent.parent / "manifest.json").is_file():
        return path.parent.parent
    return None


def id_of_row(path: Path, row: int) -> str:
    """The example that a row of an export is, counted from 1 over its files in order, or in the file that is named.

    Raises InputError for a row that is not there, and for what is no export.
    """
    folder = folder_of(path)
    if folder is None or manifest_at(folder) is None:
        raise InputError(f"{path} is no export of gradsift and no file of one")
    rows = (name for file in ([path] if path.is_file() else files_of(folder)) for name in _ids(file))
    with reading(path):
        found = next(islice(rows, row - 1, None), None) if row > 0 else None
    if found is None:
        raise InputError(f"{path} has no row {row}; rows are counted from 1")
    return found


def files_of(folder: Path) -> list[Path]:
    """Files of an export's rows, in order."""
    return sorted(file for file in (folder / "data").iterdir() if file.suffix in SUFFIXES)


def _ids(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        with pa.OSFile(str(file)) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(columns=["example_id"]):
                yield from batch["example_id"].to_pylist()
    else:
        with file.open("rb") as lines:
            yield from (str(json.loads(line)["example_id"]) for line in lines if line.strip())
