"""Whose files lie at a place outside a store's folder: of one catalog, which alone may delete any there.

`gradsift gc` deletes what its catalog does not know. Another catalog at the same place (a schema misspelt), or a
place.json that came with a store and names a folder of somebody's, must not make that of all that lies there. So the
place has a file whose name ends with the catalog's own number: it is made when a host opens the store for the first
time at URLs that its user gave, and looked for before anything is written or deleted.
"""

from typing import BinaryIO

from gradsift.datastore.backend import Backend
from gradsift.datastore.engine import Engine
from gradsift.datastore.errors import InputError

KIND = "owner"


def look(backend: Backend) -> None:
    """Raise what the place raises when it cannot be reached, is not there or may not be read. One listing."""
    _owners(backend)


def claim(catalog: Engine, backend: Backend, url: str) -> None:
    """Make the files at a URL those of this catalog: one listing, or two. Raises InputError where they are not."""
    own = _number(catalog)
    found = _owners(backend)
    made = None
    if not found:
        made = backend.write(KIND, f".{own}", _say)
        found = _owners(backend)  # another catalog may have been as fast: then neither has it
    if found != {own}:
        if made:
            backend.delete(made.name)
        raise InputError(
            f"the files in {url} belong to another catalog. Give the right catalog_url (is its schema misspelt?), or "
            "another store_url; where that catalog is gone, so that nothing refers to them, delete them first"
        )


def require(catalog: Engine, backend: Backend, url: str) -> None:
    """Raise InputError unless the files at a URL are this catalog's alone. One listing."""
    if _owners(backend) != {_number(catalog)}:
        raise InputError(
            f"the files in {url} are not known to be of this store's catalog: none is written or deleted. If they are, "
            "make the folder again: `gradsift connect FOLDER --catalog-url … --store-url …`"
        )


def _say(handle: BinaryIO) -> None:
    handle.write(b"Files of a gradsift store.\n")


def _number(catalog: Engine) -> str:
    row = catalog.one("SELECT owner FROM place")
    return "" if row is None else str(row["owner"])


def _owners(backend: Backend) -> set[str]:
    return {file.name.rpartition(".")[2] for file in backend.list(KIND) if file.finished}
