"""Stage: write a selection as a directory that `datasets.load_dataset`, and so TRL, reads as it is.

    <name>/README.md               dataset card (its YAML tells `load_dataset` where the data is)
    <name>/data/train-*.parquet    messages, example_id, source, licence, rank, score, weight; where a method prunes
                                   tokens also input_ids and labels (−100 where a token has no loss)
    <name>/manifest.json           recipe, digests, counts, seed, sha256 of every file
    <name>/recipe.yaml             the recipe as it was run

The directory appears by one rename: a reader sees all of it or nothing. Exporting the same selection again
leaves it as it is.
"""

import json
import os
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from datastore import examples, selections
from datastore.errors import CorruptionError, InputError
from datastore.examples import MESSAGES_TYPE
from datastore.files import disk_errors, fsync_folder
from datastore.identity import digest_file
from datastore.selections import Selection
from datastore.store import Store
from pipelines.encode import encode
from pipelines.model import open_model
from pipelines.recipe import parse_recipe
from pipelines.version import VERSION

IGNORED = -100  # the label that losses skip, as torch and transformers have it
DATA_FILE = "data/train-00000-of-00001.parquet"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def export(store: Store, selection: Selection, recipe: dict[str, Any], folder: Path) -> Path:
    """Write the selection to `folder` and return it. Replaces an older export there; refuses anything else.

    Raises InputError for a folder that is not an export, StoreFullError when the disk is full.
    """
    old = _manifest(folder)
    if old is not None and old["selection"]["digest"] == selection.digest and not damaged(folder):
        return folder
    temporary = folder.parent / f".tmp-{secrets.token_hex(8)}"
    with disk_errors(temporary / "x"):
        try:
            (temporary / "data").mkdir(parents=True)
            _write(store, selection, recipe, temporary)
            _swap(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def _manifest(folder: Path) -> dict[str, Any] | None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        if found["gradsift_export"] == 1:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not one of ours
    raise InputError(f"{folder} exists and is not a gradsift export; choose another folder or remove it")


def damaged(folder: Path) -> list[str]:
    """Files of an export that differ from its manifest, or are missing."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return [
        name
        for name, sha in manifest["files"].items()
        if not (folder / name).is_file() or digest_file(folder / name) != sha
    ]


def _write(store: Store, selection: Selection, recipe: dict[str, Any], folder: Path) -> None:
    origin = examples.sources_of(store, selection.example_ids)
    chats = examples.get_messages(store, selection.example_ids)
    ids = [i for i in selection.example_ids if i in chats]
    if len(ids) != len(selection.example_ids):
        raise CorruptionError("some selected examples are no longer in the store; select again")
    table = pa.table(
        {
            "messages": pa.array([chats[i] for i in ids], MESSAGES_TYPE),
            "example_id": pa.array(ids, pa.string()),
            "source": pa.array([origin[i][0] for i in ids], pa.string()),
            "licence": pa.array([origin[i][1] for i in ids], pa.string()),
            "rank": pa.array(range(len(ids)), pa.int64()),
            "score": pa.array(selection.scores, pa.float64()),
            "weight": pa.array([1.0] * len(ids), pa.float64()),
        }
    )
    if masks := selections.masks(store, selection):
        table = _with_labels(table, masks, recipe)
    pq.write_table(table, folder / DATA_FILE, compression="zstd", write_page_checksum=True)
    sources = Counter(origin[i][0] for i in ids)
    licences = Counter(origin[i][1] or "unknown" for i in ids)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")
    (folder / "README.md").write_text(_card(selection, sources, licences), "utf-8")
    names = (DATA_FILE, "README.md", "recipe.yaml")
    manifest = {
        "gradsift_export": 1,
        "gradsift": VERSION,
        "name": selection.name,
        "selection": {
            "digest": selection.digest,
            "method": selection.method,
            "target": selection.target,
            "examples": len(ids),
        },
        "seed": recipe.get("seed"),
        "sources": dict(sources.most_common()),
        "licences": dict(licences.most_common()),
        "weight_rule": "each example once, weight 1",
        "pruned_examples": len(masks),
        "recipe": recipe,
        "files": {name: digest_file(folder / name) for name in names},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, "utf-8")
    for name in (*names, "manifest.json"):
        with (folder / name).open("rb") as handle:
            os.fsync(handle.fileno())
    fsync_folder(folder / "data")
    fsync_folder(folder)


def _with_labels(table: pa.Table, masks: dict[str, list[bool]], recipe: dict[str, Any]) -> pa.Table:
    """Add input_ids and labels, as the recipe's tokenizer and length make them; pruned tokens have label −100."""
    settings = parse_recipe(recipe, "the recipe of this selection")
    tokenizer = open_model(settings.model).tokenizer
    ids, labels = [], []
    for name, chat in zip(table["example_id"].to_pylist(), table["messages"].to_pylist(), strict=True):
        row = encode(tokenizer, chat, settings.encoding.max_length)
        row = row if name not in masks else row.masked(masks[name])
        ids.append(row.input_ids)
        labels.append([t if on else IGNORED for t, on in zip(row.input_ids, row.labelled, strict=True)])
    columns = table.append_column("input_ids", pa.array(ids, pa.list_(pa.int32())))
    return columns.append_column("labels", pa.array(labels, pa.list_(pa.int32())))


def _card(selection: Selection, sources: Counter[str], licences: Counter[str]) -> str:
    count = len(selection.example_ids)
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "size_categories": [next((name for limit, name in SIZES if count < limit), "n>1M")],
        "tags": ["gradsift", "sft"],
    }
    lines = [f"| {_cell(name)} | {n} |" for name, n in sources.most_common()]
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {selection.name}\n\n"
        f"{count} chats chosen by `{selection.method}` for the target `{selection.target}`. Made by gradsift "
        f"{VERSION}; `manifest.json` holds digests and lineage, `recipe.yaml` the settings.\n\n"
        "| source | examples |\n|---|---|\n" + "\n".join(lines) + "\n\n"
        "Licences of the sources: " + "; ".join(f"{_cell(n)} ({c})" for n, c in licences.most_common()) + ".\n"
    )


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|").replace("<", "&lt;")


def _swap(temporary: Path, folder: Path) -> None:
    old = folder.parent / f".old-{secrets.token_hex(8)}"
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
