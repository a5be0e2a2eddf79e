"""Files as objects of a bucket: there is no rename, and none is needed.

A write is: copy on this host → sha256 → put under a key that nobody else has → size asked for. An object appears at
once and whole, or not at all; the catalog row that follows makes it part of the store. Nothing is ever overwritten, and
whether a file exists is asked of the catalog, never of a listing. `gradsift gc` collects what writers left that died:
objects without a row, and parts of large ones. Readers get the copy on this host (`datastore/cache.py`).
"""

import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gradsift.datastore import files, s3
from gradsift.datastore.backend import ADVICE, Backend, Fill, Listed, StoredFile
from gradsift.datastore.cache import Cache
from gradsift.datastore.errors import CorruptionError, GradsiftError, InputError, UnavailableError
from gradsift.datastore.identity import digest_file

if TYPE_CHECKING:
    import pyarrow as pa

FETCHES = 2  # of an object whose bytes do not match: an answer may be cut on the way, and nothing says so
UPLOAD = "?upload="  # in the name under which an unfinished upload is listed and deleted


def check_url(url: object) -> None:
    """Raises InputError for a URL that cannot be the place of a store's files, or holds a secret."""
    s3.parse_url(str(url))


class ObjectFiles(Backend):
    """The objects below a prefix of a bucket, and their copies in a folder of this host. No request is made before the
    first use. After a fork each process has its own connections."""

    def __init__(self, url: str, cache: Path) -> None:
        self.bucket = s3.parse_url(url)
        self.cache = Cache(cache)
        self._clients: dict[int, Any] = {}  # by process: connections must not be shared across a fork
        self._checked: dict[str, files.Stamp | None] = {}  # of copies that this process has read, as they were then

    def write(self, kind: str, suffix: str, fill: Fill) -> StoredFile:
        """Write a new object. The copy comes first: a `fill` that fails sends nothing, and this host need not fetch it.

        Raises StoreFullError when this host's disk is full, UnavailableError when the server does not answer: an object
        that came into being nevertheless has no catalog row, and `gradsift gc` collects it.
        """
        name = f"{kind}/{secrets.token_hex(16)}{suffix}"
        with self.cache.aside() as (path, handle):
            fill(handle)
            handle.flush()
            files.failpoint("written")
            file = StoredFile(name, path.stat().st_size, digest_file(path))
            try:
                self._put(path, file)
            except (UnavailableError, InputError):
                raise
            except BaseException:
                with suppress(GradsiftError):
                    self.delete(name)
                raise
            files.failpoint("put")
            self.cache.admit(path, file.sha256)
        return file

    def _put(self, path: Path, file: StoredFile) -> None:
        with self._requests() as client:
            client.upload_file(
                str(path), self.bucket.name, self.bucket.key(file.name), Config=s3.transfer_config(),
            )  # fmt: skip
        if not self.there(file):
            raise UnavailableError(
                f"{self.bucket} took {file.name} and does not have it whole; run the same command again"
            )

    def there(self, file: StoredFile) -> bool:
        """Whether the object is there with its size: one request, no download."""
        if not _is_name(file.name):
            return False
        try:
            with self._requests() as client:
                head = client.head_object(Bucket=self.bucket.name, Key=self.bucket.key(file.name))
        except s3.MissingError:
            return False
        return int(head["ContentLength"]) == file.bytes

    def check(self, file: StoredFile) -> None:
        """Read the object, not its copy, and compare it with its record. It takes the place of one file meanwhile."""
        with self.cache.aside() as (path, handle):
            self._fetch(file, path, handle)

    def ready(self, file: StoredFile) -> None:
        """Make sure of a copy on this host that matches its digest; this process reads it once to see that it does."""
        self._key(file.name)
        path = self.cache.path(file.sha256)
        stamp = files.stamp(path)
        try:
            if path.stat().st_size == file.bytes and (self.is_ready(file) or digest_file(path) == file.sha256):
                self.cache.touch(file.sha256)
                self._checked[file.sha256] = stamp
                return
        except FileNotFoundError:
            pass
        self.cache.drop(file.sha256)
        with self.cache.aside() as (fetched, handle):
            self._fetch(file, fetched, handle)
            stamp = files.stamp(fetched)
            self.cache.admit(fetched, file.sha256)
        self._checked[file.sha256] = stamp

    def is_ready(self, file: StoredFile) -> bool:
        """Whether this process has read the copy on this host and its inode, size and time are as they were then."""
        known = self._checked.get(file.sha256)
        return known is not None and known == files.stamp(self.cache.path(file.sha256))

    def _fetch(self, file: StoredFile, path: Path, handle: BinaryIO) -> None:
        """Write an object to a file, and once more when its bytes do not match. Raises CorruptionError then."""
        for _ in range(FETCHES):
            handle.seek(0)
            handle.truncate()
            self._get(file.name, handle)
            handle.flush()
            problem = _problem(file, path.stat().st_size, digest_file(path))
            if not problem:
                return
        raise CorruptionError(f"{problem}. {ADVICE}")

    def open(self, file: StoredFile) -> "pa.NativeFile":
        """The copy of a file, which is fetched if it has gone."""
        import pyarrow as pa

        return self._read(file, pa.OSFile)

    def map(self, file: StoredFile) -> "pa.NativeFile":
        """A memory map of the copy of a file, which is fetched if it has gone."""
        import pyarrow as pa

        return self._read(file, pa.memory_map)

    def _read(self, file: StoredFile, opener: "Callable[[str], pa.NativeFile]") -> "pa.NativeFile":
        for _ in range(FETCHES):
            self.ready(file)
            with suppress(FileNotFoundError):  # another process has just dropped the copy
                return opener(str(self.cache.path(file.sha256)))
        with self.cache.aside() as (path, handle):
            self._fetch(file, path, handle)
            return opener(str(path))

    def damaged(self, file: StoredFile) -> "pa.NativeFile":
        """The bytes of an object as they are, in a file that is gone when it is closed."""
        import pyarrow as pa

        with self.cache.aside() as (path, handle):
            self._get(file.name, handle)
            handle.flush()
            return pa.OSFile(str(path))

    def delete(self, name: str) -> None:
        """Delete an object and, in a bucket that keeps old versions, all of them; or an unfinished upload. Copies go by
        `keep`."""
        name, _, upload = name.partition(UPLOAD)
        if not _is_name(name):
            return
        where = {"Bucket": self.bucket.name, "Key": self.bucket.key(name)}
        with suppress(s3.MissingError), self._requests() as client:
            if upload:
                client.abort_multipart_upload(**where, UploadId=upload)
                return
            answer = client.delete_object(**where)
            if answer.get("DeleteMarker") or answer.get("VersionId"):
                self._delete_versions(client, where["Key"])

    def _delete_versions(self, client: Any, key: str) -> None:
        pages = client.get_paginator("list_object_versions").paginate(Bucket=self.bucket.name, Prefix=key)
        for page in pages:
            for version in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                if version["Key"] == key:
                    client.delete_object(Bucket=self.bucket.name, Key=key, VersionId=version["VersionId"])

    def list(self, kind: str) -> Iterator[Listed]:
        """Objects of a kind, by name; then unfinished uploads, with the age of their newest part."""
        bucket, prefix = self.bucket.name, self.bucket.key(f"{kind}/")
        with self._requests() as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                now = _now(page)
                for found in page.get("Contents", ()):
                    if _is_name(name := kind + "/" + found["Key"].removeprefix(prefix)):
                        yield Listed(name, found["Size"], _age(now, found["LastModified"]), finished=True)
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                now = _now(page)
                for found in page.get("Uploads", ()):
                    if _is_name(name := kind + "/" + found["Key"].removeprefix(prefix)):
                        with (
                            suppress(s3.MissingError),
                            s3.errors(client, self.bucket),
                        ):  # it may just have been finished
                            size, last = _parts(client, bucket, found)
                            yield Listed(f"{name}{UPLOAD}{found['UploadId']}", size, _age(now, last), finished=False)

    def keep(self, known: Callable[[], Collection[str]]) -> None:
        """Delete the copies on this host of all files but those with these digests."""
        self.cache.keep(known())

    def _get(self, name: str, sink: Any) -> None:
        """Write an object to a handle. Raises CorruptionError when it is missing."""
        try:
            with self._requests() as client:
                client.download_fileobj(self.bucket.name, self._key(name), sink, Config=s3.transfer_config())
        except s3.MissingError:
            raise CorruptionError(f"{name} is in the catalog but its object is missing. {ADVICE}") from None

    def _key(self, name: str) -> str:
        if not _is_name(name):
            raise CorruptionError(f"{name} leads out of the store; refusing to read it")
        return self.bucket.key(name)

    @contextmanager
    def _requests(self) -> Iterator[Any]:
        client = self._clients.get(os.getpid())
        if client is None:
            client = self._clients[os.getpid()] = s3.make_client(self.bucket)
        with s3.errors(client, self.bucket):
            yield client


def _problem(file: StoredFile, size: int, sha256: str) -> str:
    if size != file.bytes:
        return f"{file.name} has {size} bytes, not {file.bytes}"
    return "" if sha256 == file.sha256 else f"{file.name} does not match its digest (changed bytes)"


def _is_name(name: str) -> bool:
    """`kind/file`, and nothing that a server or a proxy between may read as another path."""
    kind, slash, file = name.partition("/")
    return bool(kind and slash and file) and "/" not in file and not {kind, file} & {".", ".."}


def _now(page: Any) -> datetime:
    """The server's time: it is what the ages of its objects are counted from, and clocks differ."""
    return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])


def _age(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()


def _parts(client: Any, bucket: str, upload: Any) -> tuple[int, datetime]:
    """(bytes, time of the newest part) of an unfinished upload."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    parts = [part for page in pages for part in page.get("Parts", ())]
    return sum(part["Size"] for part in parts), max([upload["Initiated"], *(part["LastModified"] for part in parts)])
