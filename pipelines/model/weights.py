"""Which files a model's weights are, as transformers finds them in a folder, and their digest.

`config.json` may name a file (`transformers_weights`); else `model.safetensors`, else the files that
`model.safetensors.index.json` names, wherever they lie. All weights that are loaded are digested, and no others: an
index that points elsewhere is another model, a file that no index names is none. (`generation_config.json` is not:
which tokens end an answer decides no row and no loss.)
"""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_file, fingerprint

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path, gguf_file: str | None = None) -> list[Path]:
    """The files that hold the weights of the model in a folder, the index first where there is one.

    Raises InputError when there is none, when one is missing, and for the folder of an adapter.
    """
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise InputError(f"{folder} has no {gguf_file}")
        return [folder / gguf_file]
    refuse_adapter(folder)
    named = _read(folder / "config.json").get("transformers_weights") if (folder / "config.json").is_file() else None
    if not named:
        named = ONE_FILE if (folder / ONE_FILE).is_file() else INDEX
    first = folder / str(named)
    if not _is_file(first) or ".safetensors" not in first.name:
        pickled = any(folder.glob("*.bin"))
        raise InputError(
            f"{folder} has no {ONE_FILE} nor {INDEX}. "
            + (
                "Pickled weights (.bin) are never loaded; convert them with "
                "`save_pretrained(..., safe_serialization=True)`."
                if pickled
                else "Download the model's weights, too, or give the folder that holds them."
            )
        )
    if not first.name.endswith(".index.json"):
        _check_header(first)
        return [first]
    weight_map = _read(first).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise InputError(f"{first} has no `weight_map`, which says what is in which file")
    parts = _existing(folder, [folder / str(name) for name in sorted(set(weight_map.values()))], first.name)
    for part in parts:
        _check_header(part)
    return [first, *parts]


def outside_embeddings(folder: Path, gguf_file: str | None = None) -> int:
    """N, the weights that a token is multiplied with, from the shapes in the files; 0 for a GGUF model."""
    total = 0
    for path in (file for file in weight_files(folder, gguf_file) if file.suffix == ".safetensors"):
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if "embed" not in name and "lm_head" not in name and "wte" not in name:
                    total += prod(file.get_slice(name).get_shape())
    return total


def refuse_adapter(folder: Path) -> None:
    """Raise InputError for the folder of an adapter."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter (adapter_config.json), whose base model lies elsewhere. Merge it "
            "(`merge_and_unload`, `save_pretrained`) and give that folder."
        )


def _check_header(file: Path) -> None:
    """Raise InputError for a file that is no safetensors file, or not all of one. Cost: its header is read."""
    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        what = "is a pointer of Git LFS, not the weights" if _is_pointer(file) else f"cannot be read ({error})"
        raise InputError(f"{file} {what}; download it again (`git lfs pull`, or `hf download NAME`)") from error


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(40).startswith(b"version https://git-lfs")


def model_digest(folder: Path, gguf_file: str | None = None) -> str:
    """Fingerprint of a model: its configuration and its weights. Cost: one reading of all files."""
    config = [folder / "config.json"] if (folder / "config.json").is_file() else []
    return fingerprint([digest_file(file) for file in (*config, *weight_files(folder, gguf_file))])


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return document if isinstance(document, dict) else {}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that none can have
        return False


def _existing(folder: Path, files: list[Path], where: str) -> list[Path]:
    missing = [file for file in files if not _is_file(file)]
    if missing:
        raise InputError(
            f"{folder} is not complete: {where} names {os.path.relpath(missing[0], folder)}, which is not there"
            + (f" ({len(missing)} of {len(files)} files are missing)." if len(files) > 1 else ".")
        )
    return files
