"""Is this installation, and this store, in order?"""

import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.files import file_system_type, on_network
from gradsift.datastore.maintenance import reach
from gradsift.datastore.overview import committed_bytes
from gradsift.datastore.place import is_store
from gradsift.datastore.store import Store

PACKAGES = ("torch", "transformers", "peft", "datasets", "pyarrow", "prefect", "fastapi", "cyclopts")
LOW_BYTES = 2 << 30
NEEDED = "Prefect needs fastapi>=0.139,<0.151"


@dataclass(frozen=True)
class Check:
    """What was looked at, and how it is."""

    check: str
    state: Literal["ok", "warn", "bad"]
    detail: str


def checks(store: Path) -> list[Check]:
    """All checks of the installation and of the store, if there is one."""
    done = [_check("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    done += [_package(name) for name in PACKAGES]
    done += [_fastapi(), _accelerator()]
    done.append(_methods())
    folder = store if store.exists() else store.resolve().parent
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    done.append(_check("free disk", free > LOW_BYTES, f"{free / 2**30:.1f} GiB", failing="warn"))
    kind = file_system_type(folder)
    network = on_network(folder)
    detail = f"{kind or 'unknown'}{' (network: the catalog uses no WAL here, one writer at a time)' if network else ''}"
    done.append(_check("file system", not network, detail, failing="warn"))
    done.append(_store(store))
    return done


def _check(check: str, good: bool, detail: str, failing: Literal["warn", "bad"] = "bad") -> Check:
    return Check(check, "ok" if good else failing, detail)


def _package(name: str) -> Check:
    try:
        return _check(name, True, version(name))
    except PackageNotFoundError:
        return _check(name, False, f"missing: pip install {name}")


def _fastapi() -> Check:
    try:
        installed = version("fastapi")
    except PackageNotFoundError:
        return _check("prefect with fastapi", False, "fastapi is missing")
    series = tuple(int(part) for part in installed.split(".")[:2])
    good = (0, 139) <= series < (0, 151)
    return _check("prefect with fastapi", good, installed if good else f"{installed}: {NEEDED}")


def _accelerator() -> Check:
    try:
        import torch
    except ImportError as error:
        return _check("accelerator", False, f"torch cannot be imported: {error}")
    if torch.cuda.is_available():
        return _check("accelerator", True, torch.cuda.get_device_name())
    return _check("accelerator", True, f"none; {torch.get_num_threads()} CPU threads")


def _methods() -> Check:
    from gradsift.pipelines.methods.registry import installed, methods

    try:
        return _check("methods", True, f"{len(methods())}; of other packages: {', '.join(installed()) or 'none'}")
    except GradsiftError as error:
        return _check("methods", False, str(error))


def _store(store: Path) -> Check:
    if not is_store(store):
        return _check("store", True, f"none at {store} yet")
    try:
        with Store(store, create=False) as opened:
            mebibytes = committed_bytes(opened) / 2**20
            reach(opened)
    except GradsiftError as error:
        return _check("store", False, str(error))
    return _check("store", True, f"{store}: {mebibytes:.1f} MiB committed; `gradsift verify` checks it")
