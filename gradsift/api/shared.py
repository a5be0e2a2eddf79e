"""What the functions share: a store that is a folder or open, paths that are text, sections that are files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from gradsift.datastore.place import Place
    from gradsift.datastore.store import Store
    from gradsift.pipelines.recipe import Fields, Recipe

AnyPath: TypeAlias = str | Path
AnyStore: TypeAlias = "Store | str | Path"


def open_store(store: AnyPath = "store") -> "Store":
    """Open a store that is there, for several calls or for a `with` block. Close it at the end.

    Parameters
    ----------
    store
        Folder of the store.

    Returns
    -------
    Store
        What every function takes as its `store`.

    Raises
    ------
    InputError
        For a folder that is no store. None is made.

    Example
    -------
    >>> with gradsift.open_store("store") as store:
    ...     held, versions = gradsift.status(store), gradsift.log(store=store)
    """
    from gradsift.datastore.store import Store

    return Store(store, create=False)


def connect(folder: AnyPath, *, catalog_url: str, store_url: str) -> "Place":
    """Make a folder of this host for a store that hosts share: what a recipe with the same URLs does.

    Parameters
    ----------
    folder
        The folder to make: this host's reports, exports, scratch files and cache.
    catalog_url
        The store's catalog: `postgresql://host/database?schema=team`. Passwords come from PGPASSWORD or ~/.pgpass.
    store_url
        The store's files: `s3://bucket/prefix`, or `file:///shared/folder` with the same path on every host.

    Returns
    -------
    Place
        With `root`, `catalog_url` and `store_url`: what a process needs to open the store.

    Raises
    ------
    InputError
        For a URL of no known kind or with a password in it, for a folder of another store, and where there is no store
        (`run` makes one); UnavailableError where the server does not answer.

    Example
    -------
    >>> try:
    ...     gradsift.connect("mine", catalog_url="mysql://host/database", store_url="s3://bucket")
    ... except gradsift.GradsiftError as error:
    ...     print(error)
    catalog_url must begin with postgresql://, not mysql://; leave it out for a catalog in the store's folder
    """
    from gradsift.datastore.place import Place
    from gradsift.datastore.store import Store

    with Store(Place(Path(folder), catalog_url, store_url), create=False) as store:
        return store.place


@contextmanager
def opened(store: AnyStore, recipe: "Recipe | None" = None) -> "Iterator[Store]":
    """The store, closed afterwards only where it was given as a folder. One that is not there is made for a recipe."""
    from gradsift.datastore.store import Store

    place = whereabouts(store, recipe)
    if not isinstance(store, str | Path):
        yield _open(store)
        return
    with Store(place, create=recipe is not None) as there:
        yield there


def folder_of(store: AnyStore) -> Path:
    """The folder of a store."""
    return Path(store) if isinstance(store, str | Path) else _open(store).root


def whereabouts(store: AnyStore, recipe: "Recipe | None" = None) -> "Place":
    """Where a store is, or is to be made: what a recipe says, else what its folder says.

    Raises InputError where the folder is of another store.
    """
    from gradsift.datastore.place import place_of

    return place_of(folder_of(store)) if recipe is None else recipe.place(folder_of(store))


def _open(store: "Store") -> "Store":
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.store import Store

    if not isinstance(store, Store):
        raise InputError(f"`store` is {store!r}: give a folder or an open Store")
    return store


def as_path(path: AnyPath | None) -> Path | None:
    """A path that may be left out."""
    return None if path is None else Path(path)


def section_of(settings: Mapping[str, Any] | AnyPath, name: str) -> "Fields":
    """The fields of a recipe's section: a mapping or a YAML file with them, alone or under the section's name.

    Raises InputError.
    """
    from gradsift.datastore.errors import InputError

    where = f"`{name}`"
    if isinstance(settings, str | Path):
        where, settings = str(settings), _read(Path(settings))
    if not isinstance(settings, Mapping):
        raise InputError(f"{where} must hold the fields of `{name}`")
    inner = settings.get(name, settings)
    if not isinstance(inner, Mapping):
        raise InputError(f"{where}: `{name}` must be a mapping")
    return dict(inner)


def _read(path: Path) -> Any:
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.recipe.written import read_yaml

    try:
        return read_yaml(path)
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: {error}") from error
