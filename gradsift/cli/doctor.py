"""Is this installation, and this store, in order?"""

import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.files import file_system_type, on_network
from gradsift.datastore.overview import committed_bytes
from gradsift.datastore.store import Store, is_store

PACKAGES = ("torch", "transformers", "peft", "datasets", "pyarrow", "prefect", "fastapi", "cyclopts")
LOW_BYTES = 2 << 30


def checks(store: Path) -> list[dict[str, Any]]:
    """Rows of {check, state, detail}; state is ok, warn or bad."""
    rows = [_row("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    rows += [_package(name) for name in PACKAGES]
    rows += [_fastapi(), _accelerator()]
    folder = store if store.exists() else store.resolve().parent
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    rows.append(_row("free disk", free > LOW_BYTES, f"{free / 2**30:.1f} GiB", bad="warn"))
    kind = file_system_type(folder)
    network = on_network(folder)
    detail = f"{kind or 'unknown'}{' (network: the catalog uses no WAL here, one writer at a time)' if network else ''}"
    rows.append(_row("file system", not network, detail, bad="warn"))
    rows.append(_store(store))
    return rows


def _row(check: str, good: bool, detail: str, bad: str = "bad") -> dict[str, Any]:
    return {"check": check, "state": "ok" if good else bad, "detail": detail}


def _package(name: str) -> dict[str, Any]:
    try:
        return _row(name, True, version(name))
    except PackageNotFoundError:
        return _row(name, False, f"missing: pip install {name}")


def _fastapi() -> dict[str, Any]:
    try:
        found = version("fastapi")
    except PackageNotFoundError:
        return _row("prefect with fastapi", False, "fastapi is missing")
    minor = tuple(int(part) for part in found.split(".")[:2])
    good = (0, 139) <= minor < (0, 151)
    return _row("prefect with fastapi", good, found if good else f"{found}: Prefect needs fastapi>=0.139,<0.151")


def _accelerator() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return _row("accelerator", False, f"torch cannot be imported: {error}")
    if torch.cuda.is_available():
        return _row("accelerator", True, torch.cuda.get_device_name())
    return _row("accelerator", True, f"none; {torch.get_num_threads()} CPU threads")


def _store(store: Path) -> dict[str, Any]:
    if not is_store(store):
        return _row("store", True, f"none at {store} yet")
    try:
        with Store(store, create=False) as opened:
            mebibytes = committed_bytes(opened) / 2**20
    except GradsiftError as error:
        return _row("store", False, str(error))
    return _row("store", True, f"{store}: {mebibytes:.1f} MiB committed; `gradsift verify` checks it")
