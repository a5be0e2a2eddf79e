"""Where the parts of a store are: a folder of this host, and perhaps a catalog and files that hosts share.

A store is a folder. What a host needs for itself lies in it: reports, exports, scratch files, a cache. Its catalog and
its files lie in it, too, unless `place.json` in it says where else:

    {"catalog_url": "postgresql://host/database?schema=team", "store_url": "s3://bucket/prefix"}

`catalog_url` may be null: the folder then has the catalog (SQLite), and no other host can open the store. Other hosts
work on the same store with a folder of their own that says the same. Nothing secret is kept: a URL with a password or a
key is refused; libpq and the object store's library read theirs from the environment.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gradsift.datastore import files, inside, objects
from gradsift.datastore.backend import Backend
from gradsift.datastore.engine import Engine
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_text
from gradsift.datastore.local import LocalFiles
from gradsift.datastore.sqlite import SqliteEngine

PLACE_NAME = "place.json"
CHECKED = "checked.txt"  # quick digests of files that were found whole
CATALOG_NAME = "catalog.sqlite"
WORKER_FOLDER = "GRADSIFT_WORKER_FOLDER"
CATALOG_SCHEMES = ("postgresql", "postgres")
SECRET = ("password", "sslpassword", "access_key", "secret_key", "session_token", "account_key", "sas_token")
AGAIN = "Make it again: `gradsift connect FOLDER --catalog-url … --store-url …`"


@dataclass(frozen=True)
class Place:
    """What a process on any host needs to open a store. Pickles."""

    root: Path  # this host's folder
    catalog_url: str | None = None  # None: the catalog is in the folder
    store_url: str | None = None  # None: the files are in the folder

    @property
    def is_shared(self) -> bool:
        """Whether other hosts can open the catalog, each from a folder of its own."""
        return self.catalog_url is not None

    def on_worker(self) -> "Place":
        """The place as a worker has it: each store in a folder of its own, below the one that GRADSIFT_WORKER_FOLDER
        names in its environment, if any."""
        folder = os.environ.get(WORKER_FOLDER)
        if not folder or not self.is_shared:
            return self
        return replace(self, root=Path(folder) / digest_text(f"{self.catalog_url} {self.store_url}")[:16])


def place_of(root: Path) -> Place:
    """What a folder says of its store: the folder itself where it says nothing. Raises InputError for a place.json that
    cannot be used."""
    path = root / PLACE_NAME
    try:
        data = json.loads(inside.read_text(root, PLACE_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return Place(root)
    except (OSError, RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. {AGAIN}") from error
    if not isinstance(data, dict) or not data.keys() <= {"catalog_url", "store_url"}:
        raise InputError(f"{path} must hold `catalog_url` and `store_url` alone. {AGAIN}")
    place = Place(root, data.get("catalog_url"), data.get("store_url"))
    check_urls(place.catalog_url, place.store_url, f"{path}: ")
    return place


def check_urls(catalog_url: object, store_url: object, where: str = "") -> None:
    """Raise InputError for a URL of no known kind, and for one that holds something secret."""
    if catalog_url is not None:
        parts = _split(catalog_url, f"{where}catalog_url", "PGPASSWORD or ~/.pgpass")
        if parts.scheme not in CATALOG_SCHEMES:
            raise InputError(
                f"{where}catalog_url must begin with postgresql://, not {parts.scheme}://; leave it out for a catalog "
                "in the store's folder"
            )
        if store_url is None:
            raise InputError(
                f"{where}catalog_url needs store_url, so that other hosts find the files, too: s3://bucket/prefix, or "
                "file:///shared/folder where they share a file system"
            )
    if store_url is not None:
        parts = _split(store_url, f"{where}store_url", "the environment or a profile of the object store's client")
        if parts.username is not None:
            raise InputError(f"{where}store_url must not name a user: the environment or a profile does")
        if parts.scheme != "file":
            objects.check_url(store_url)


def _split(url: object, what: str, instead: str) -> SplitResult:
    if not isinstance(url, str) or "://" not in url:
        raise InputError(f"{what} must be a URL, such as s3://bucket/prefix or postgresql://host/database")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{what} is no URL: {error}") from None
    if parts.password is not None or any(name in SECRET for name, _ in parse_qsl(parts.query)):
        raise InputError(
            f"{what} holds something secret and would be written down with every run: give it by {instead}"
        )
    return parts


def settled(place: Place) -> Place:
    """The place of a store that is to be opened: what is asked for, or what its folder says where nothing is. Writes
    nothing.

    Raises InputError where the folder says otherwise, or has a catalog of its own.
    """
    known = place_of(place.root)
    if place.catalog_url is None and place.store_url is None:
        return known
    check_urls(place.catalog_url, place.store_url)
    if not is_store(place.root):
        return place
    for name in ("catalog_url", "store_url"):
        asked, there = getattr(place, name), getattr(known, name)
        if asked is not None and asked != there:
            has = f"whose {name} is {there}" if there else f"that has no {name}"
            raise InputError(
                f"{place.root} is the folder of a store {has}; asked for is {asked}. Give another folder with --store"
            )
    return known


def keep(place: Place) -> None:
    """Write down in its folder where a store is, unless that is the folder itself or is written down."""
    path = place.root / PLACE_NAME
    if (place.catalog_url is None and place.store_url is None) or path.exists():
        return
    text = json.dumps({name: url for name, url in asdict(place).items() if name != "root"}, indent=2)
    temporary = place.root / f".{PLACE_NAME}-{secrets.token_hex(8)}"
    with files.disk_errors(path):
        files.make_folder(place.root)
        temporary.write_text(text + "\n", "utf-8")
        files.fsync_path(temporary)
        temporary.rename(path)
        files.fsync_folder(place.root)


def agree(catalog: Engine, place: Place) -> bool:
    """Have the catalog know where its files are, when it is not known yet; returns whether it was not.

    Raises InputError where it knows of another place: rows would be taken for lost whose files are there.
    """
    known = catalog.one("SELECT store_url FROM place")
    if known is None and place.store_url is not None:
        with catalog.write() as db:
            known = db.one("SELECT store_url FROM place")
            if known is None:
                db.execute("INSERT INTO place VALUES (?, ?)", (place.store_url, secrets.token_hex(16)))
                return True
    if known is not None and _where(known["store_url"]) != _where(place.store_url or ""):
        raise InputError(
            f"the files of this catalog are in {known['store_url']}, not in {place.store_url or 'the folder'}: give "
            "that as store_url"
        )
    return False


def part(catalog: Engine) -> None:
    """Have the catalog know of no place again, after `agree` told it of one that belongs to another."""
    with catalog.write() as db:
        db.execute("DELETE FROM place")


def _where(url: str) -> tuple[str, str, str]:
    """What must be the same for all hosts; an endpoint or a region behind `?` may differ."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path.strip("/")


def is_store(root: Path) -> bool:
    """Whether a folder is that of a store."""
    return (root / CATALOG_NAME).exists() or (root / PLACE_NAME).exists()


def open_catalog(place: Place, *, create: bool) -> Engine:
    """The catalog, migrated. Raises InputError where there is none and `create` is False."""
    if place.catalog_url is None:
        return SqliteEngine(place.root / CATALOG_NAME, create=create)
    from gradsift.datastore.postgres import PostgresEngine  # a driver that not everybody has

    return PostgresEngine(place.catalog_url, create=create)


def folders(place: Place) -> list[Path]:
    """Folders of this host whose files are the store's."""
    parts = urlsplit(place.store_url or "")
    return [place.root, *([Path(unquote(parts.path))] if parts.scheme == "file" else [])]


def open_files(place: Place) -> Backend:
    """Where the files are."""
    if place.store_url is None:
        return LocalFiles(place.root, place.root / CHECKED)
    parts = urlsplit(place.store_url)
    if parts.scheme == "file":
        return LocalFiles(Path(unquote(parts.path)))
    return objects.ObjectFiles(place.store_url, place.root / "cache")
