"""Whether an export is as it was written: its manifest names the digest of every file, and seals itself.

Anybody can tell, without the store; `gradsift verify` does so for all exports that a store knows of.
"""

import json
from pathlib import Path

from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_file, digest_text
from gradsift.datastore.runs import Json
from gradsift.pipelines.export.job import EXPORT_VERSION, PLACELESS, UNDESCRIBED, UNSEALED
from gradsift.pipelines.export.reading import ODD

MANIFEST = "manifest.json"
SEAL = "seal"  # sha256 of the rest of a manifest: its JSON in ASCII, keys sorted


def sealed(manifest: Json) -> Json:
    """A manifest with its seal."""
    return manifest | {SEAL: digest_text(json.dumps(manifest, sort_keys=True))}


def manifest_at(folder: Path) -> Json | None:
    """Manifest of the export in a folder, None where there is nothing. Raises InputError for anything else there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        manifest: Json = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["gradsift_export"] in (1, PLACELESS, UNDESCRIBED, UNSEALED, EXPORT_VERSION):
            return manifest
    except ODD:
        pass  # not an export of gradsift
    raise InputError(f"{folder} exists and is not a gradsift export; choose another folder or remove it")


def was_export(folder: Path) -> bool:
    """Whether a manifest of ours is in a folder, or the beginning of one."""
    try:
        return (folder / MANIFEST).is_file() and "gradsift_export" in (folder / MANIFEST).read_text("utf-8", "replace")
    except OSError:
        return False


def made_of(manifest: Json | None) -> tuple[str, str, str]:
    """Name, target and digest of the selection that an export is of. Raises InputError for a manifest that does not say
    so: anybody may have edited it."""
    try:
        name, of = manifest["name"], manifest["selection"]  # type: ignore[index]  # of none, too
        target, digest = of["target"], of["digest"]
    except (LookupError, TypeError):
        name = target = digest = None
    if isinstance(name, str) and isinstance(target, str) and isinstance(digest, str):
        return name, target, digest
    raise InputError("its manifest does not say what it was")


def damaged(folder: Path) -> dict[str, str]:
    """{file: `missing`, `changed` or `unreadable`} of an export's files that are not as they were written. Manifests of
    older layouts have no seal: of a change in them nobody can tell. Cost: all files are read (about 1 GB/s)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        digests = {str(name): str(sha) for name, sha in manifest["files"].items()}
        found = {} if is_sealed(manifest) and all(map(is_below, digests)) else {MANIFEST: "changed"}
    except FileNotFoundError:
        return {MANIFEST: "missing"}
    except ODD:
        return {MANIFEST: "unreadable"}
    below = {name: sha for name, sha in digests.items() if is_below(name)}
    return found | {name: what for name, sha in below.items() if (what := _problem(folder / name, sha))}


def has_its_rows(folder: Path) -> bool:
    """Whether an export's manifest and the files of its rows are as they were written, whatever became of its card and
    configs. Cost: as `damaged`."""
    return not any(name == MANIFEST or name.startswith("data/") for name in damaged(folder))


def is_below(name: str) -> bool:
    """Whether a name in a manifest, which anybody may have edited, leads to a place below the manifest's folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def is_sealed(manifest: Json) -> bool:
    """Whether a manifest is as it was written. One of an older layout has no seal, and counts as it is."""
    if SEAL not in manifest and manifest["gradsift_export"] != EXPORT_VERSION:
        return True
    return sealed({key: value for key, value in manifest.items() if key != SEAL}) == manifest


def _problem(path: Path, digest: str) -> str:
    try:
        if path.is_symlink() or not path.is_file():  # no export has links
            return "missing"
        return "" if digest_file(path) == digest else "changed"
    except OSError:
        return "unreadable"
