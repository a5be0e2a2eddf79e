"""Targets: exports on disk, files that come with a question, and what a host keeps of a pool."""

import io
import json
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fuzz import places
from fuzz.drive import target

from gradsift.datastore import kept, runs, selections
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.identity import digest_bytes
from gradsift.pipelines.export.diff import diff
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.place import others
from gradsift.pipelines.export.whole import damaged, manifest_at
from gradsift.pipelines.query.exported import id_of_row
from gradsift.pipelines.query.questions import of_vectors
from gradsift.pipelines.query.word_index import open_index
from gradsift.pipelines.recipe import Export
from gradsift.pipelines.runs.outside import holding


@cache
def _export(kind: str) -> Path:
    store = places.old_store()
    chosen = next(one for one in selections.newest(store) if one.method != "mixture")
    options = Export.model_validate({"labels": False, "format": kind})
    return export(store, chosen, runs.recipe_of(store, chosen), store.root / "exports" / kind, options)


def _data(kind: str) -> Path:
    (path,) = sorted((_export(kind) / "data").iterdir())
    return path


def _with(kind: str, name: str, data: bytes) -> Path:
    """A copy of an export in which a file holds something else."""
    folder = places.folder() / "export"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_export(kind), folder)
    (folder / name).write_bytes(data)
    return folder


def _look(folder: Path) -> None:
    store = places.old_store()
    for call in (
        lambda: manifest_at(folder) and damaged(folder),
        lambda: others(folder),
        lambda: id_of_row(folder, 2),
        lambda: diff(None, str(folder), str(folder)),
        lambda: holding(store, ["0" * 32]),
    ):
        try:
            call()
        except GradsiftError:  # each is a command of its own
            continue


@target(
    "manifest",
    lambda: [(_export("jsonl") / "manifest.json").read_bytes()],
    "files",
    "selection",
    "digest",
    "lineage",
    "../",
    "null",
)
def manifest(data: bytes) -> None:
    """manifest.json of an export."""
    _look(_with("jsonl", "manifest.json", data))


@target("export-rows", lambda: [_data("jsonl").read_bytes()], "example_id", "messages", "null")
def export_rows(data: bytes) -> None:
    """Rows of an export, as JSON lines."""
    _look(_with("jsonl", f"data/{_data('jsonl').name}", data))


@target("export-table", lambda: [_data("parquet").read_bytes()], "PAR1", "example_id")
def export_table(data: bytes) -> None:
    """Rows of an export, as Parquet."""
    _look(_with("parquet", f"data/{_data('parquet').name}", data))


def _vectors() -> list[bytes]:
    made = []
    for array in (np.ones((2, 4), np.float32), np.arange(4), np.array(["a"])):
        sink = io.BytesIO()
        np.save(sink, array)
        made.append(sink.getvalue())
    return made


@target("vectors", _vectors, "NUMPY", "descr", "shape", "fortran_order", "'<f4'", "|O", "V8")
def vectors(data: bytes) -> None:
    """Vectors of a question, as numpy.save writes them."""
    of_vectors(SimpleNamespace(unit=lambda rows: rows), places.file("vectors.npy", data))


@cache
def _words() -> bytes:
    store = places.old_store()
    open_index(store, _pool())
    (path,) = (store.root / kept.FOLDER).glob("words1-*")
    return path.read_bytes()


def _pool() -> int:
    (row,) = places.old_store().catalog.rows("SELECT min(dataset_id) AS n FROM dataset WHERE role='pool'")
    return int(row["n"])


@target("words", lambda: [_words()], "ARROW1", "gradsift.rows_with", "gradsift.mean", "example_id")
def words(data: bytes) -> None:
    """A forged index of words, which came with a store."""
    store = places.old_store()
    shutil.rmtree(store.root / kept.FOLDER)
    name = f"words1-{kept.key_of(store, _pool())}-{digest_bytes(data)}"
    (store.root / kept.FOLDER).mkdir()
    (store.root / kept.FOLDER / name).write_bytes(data)
    open_index(store, _pool()).row("what is a word")


@target(
    "drawn", lambda: [json.dumps({"name": "x", "ids": ["0" * 32], "view": "source=a"}).encode()], "ids", "name", "view"
)
def drawn(data: bytes) -> None:
    """What the map sends to be saved."""
    from fuzz.texts import client

    got = client().post("/map/selection", content=data, headers={"content-type": "application/json"})
    assert got.status_code < 500, got.text
