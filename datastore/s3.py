"""A bucket of an S3 server: its URL, its client, and what its errors mean.

`boto3` does the work (the extra `s3`): it signs, retries, splits large objects into parts and takes the parts away when
one fails. Why it and not another: docs/adr/0023-object-stores.md.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gradsift.datastore.errors import InputError, UnavailableError

# A server that is gone, or takes a request and never answers it, is an error after about a minute:
CONNECT_SECONDS, SILENT_SECONDS, ATTEMPTS = 5, 15, 4
PART_BYTES = 64 << 20  # of a large object: what one request carries, and what is sent again when it fails
OPTIONS = ("endpoint_override", "region", "scheme")
REFUSED = (  # HEAD has no text, and its status is the code
    "AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "400", "401", "403",
)  # fmt: skip
MISSING = ("404", "NoSuchKey", "NoSuchUpload")
CREDENTIALS = (
    "They are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the profile AWS_PROFILE, or from the "
    "machine's role"
)


class MissingError(FileNotFoundError):
    """The bucket is there, and has no such key."""


@dataclass(frozen=True)
class Bucket:
    """Where objects are: `s3://bucket/prefix`, and the server, when it is not Amazon's."""

    name: str
    prefix: str  # without slashes at its ends; may be empty
    endpoint: str | None  # https://host:port
    region: str | None

    def key(self, name: str) -> str:
        """The key of a name."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"s3://{self.key_prefix()} at {self.endpoint or 'Amazon S3'}"

    def key_prefix(self) -> str:
        """Bucket and prefix."""
        return f"{self.name}/{self.prefix}".rstrip("/")


def parse_url(url: str) -> Bucket:
    """Read `s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=…`. Raises InputError; a URL that holds a
    secret is refused and not shown."""
    form = "write s3://BUCKET/PREFIX, with ?endpoint_override=HOST:PORT&scheme=http&region=REGION where they are needed"
    try:
        parts = urlsplit(url)
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        names = {name.lower() for name in given}
    except ValueError:
        raise InputError(f"store_url is no URL; {form}") from None
    if "@" in parts.netloc or any("key" in name or "token" in name or "secret" in name for name in names):
        raise InputError(
            f"store_url holds credentials, and it is kept in files and logs: take them out. {CREDENTIALS}."
        )
    if parts.scheme != "s3" or not parts.netloc or ":" in parts.netloc or parts.fragment:
        raise InputError(f"store_url is {url!r}; {form}. Other clouds are reached where they speak S3")
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise InputError(f"store_url has {unknown[0]!r}, and takes {', '.join(OPTIONS)}")
    option = {name: values[-1] for name, values in given.items()}
    scheme = option.get("scheme", "https")
    if scheme not in ("http", "https"):
        raise InputError(f"store_url has scheme={scheme}; it is http or https")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InputError(f"store_url is {url!r}, and its prefix has an empty part or dots; {form}")
    override = option.get("endpoint_override")
    if override is not None and not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", override):
        raise InputError(
            f"store_url has endpoint_override={override!r}; it is HOST:PORT, and scheme=http stands beside it"
        )
    return Bucket(parts.netloc, prefix, f"{scheme}://{override}" if override else None, option.get("region") or None)


def make_client(bucket: Bucket) -> Any:
    """A client of a bucket; no request is made. Costs about 0.1 s. Raises InputError without `boto3`, and for a profile
    or an endpoint that cannot be used."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise InputError("store_url s3://… needs boto3: pip install 'gradsift[s3]'") from None
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=32,
        s3={"addressing_style": "path" if bucket.endpoint else "auto"},
    )
    try:
        session = boto3.session.Session()  # one of its own: the library's default is not safe for threads
        region = bucket.region or session.region_name or "us-east-1"
        return session.client("s3", endpoint_url=bucket.endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"{bucket} cannot be used: {error}") from error


def transfer_config() -> Any:
    """How objects go up and down: a few parts at a time."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4, num_download_attempts=3
    )


@contextmanager
def errors(client: Any, bucket: Bucket) -> Iterator[None]:
    """Turn errors of `boto3` into MissingError, InputError (bucket, credentials) and UnavailableError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError

    try:
        yield
    except (
        Boto3Error,
        BotoCoreError,
        ClientError,
        RetriesExceededError,
        S3DownloadFailedError,
        S3ValidationError,
    ) as error:
        raise _meaning(client, bucket, error) from error


def _meaning(client: Any, bucket: Bucket, error: BaseException) -> Exception:
    """What an error, or the one beneath it, says to the user."""
    from botocore import exceptions as boto

    cause: BaseException = getattr(error, "last_exception", error)
    while not isinstance(cause, (boto.ClientError, boto.BotoCoreError)) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)):
        return InputError(f"there are no credentials for {bucket}. {CREDENTIALS}.")
    code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, boto.ClientError) else ""
    if code in REFUSED:
        return InputError(
            f"{bucket} refuses the request ({code}). {CREDENTIALS}; they must be allowed to read, write, list and "
            "delete there, and its region must be right."
        )
    if isinstance(cause, boto.ParamValidationError) or code == "InvalidBucketName":
        return InputError(f"{bucket} cannot be a place of files: {cause}")
    if code == "NoSuchBucket" or (code == "404" and not _has_bucket(client, bucket)):
        return InputError(
            f"there is no bucket {bucket.name!r} at {bucket.endpoint or 'Amazon S3'}; make it, or correct store_url"
        )
    if code in MISSING:
        return MissingError()
    return UnavailableError(
        f"{bucket} did not do what it was asked ({cause}). Nothing committed is lost: run the same command again when "
        "the server answers; it resumes."
    )


def _has_bucket(client: Any, bucket: Bucket) -> bool:
    """HEAD answers 404 for a key and for a bucket that is missing."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.head_bucket(Bucket=bucket.name)
    except ClientError as error:
        return str(error.response["Error"]["Code"]) != "404"
    except BotoCoreError:
        return True
    return True
