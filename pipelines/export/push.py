"""Stage: put an export on the Hugging Face Hub, as a data set that `load_dataset("owner/name")` reads.

    1. the hub's files are listed; a repository that holds anything but an export of gradsift is refused
    2. data files that the hub does not have are uploaded, which shows nobody anything yet
    3. one commit adds what is new or other, and removes what an older export wrote and this one does not
    4. the hub's files are listed again and compared with the export's

Readers see the old export or the new one, never a part. What was uploaded before a break is not sent again. Nothing
goes there but files that exports write, by the names that they have, whatever else lies in the folder or its manifest
names. Who may push is decided by the hub's token, which huggingface_hub takes from HF_TOKEN or `hf auth login`; nothing
here reads it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from gradsift.datastore.errors import BusyError, CorruptionError, GradsiftError, InputError, UnavailableError
from gradsift.datastore.identity import digest_file
from gradsift.datastore.runs import Json
from gradsift.pipelines.bars import no_bars
from gradsift.pipelines.export.place import TEXTS, own_files
from gradsift.pipelines.export.whole import MANIFEST, damaged
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.tables import printable
from gradsift.pipelines.version import VERSION

DATA = re.compile(r"data/train-\d{5}-of-\d{5}\.(parquet|jsonl)")
NEW = frozenset({".gitattributes", ".gitignore", "README.md", "LICENSE"})  # what the hub puts into a new repository
KIND = {"repo_type": "dataset"}
TOKEN = "Set HF_TOKEN, or run `hf auth login`, with a token that may write to {owner}"  # noqa: S105 - no token
TOLD_TO_WAIT = (408, 429)


@dataclass(frozen=True)
class Destination:
    """Where to push: `owner/name`, a branch (None: the main one), and whether only its owner is to see it. A dry run
    asks the hub what it has and sends nothing."""

    repo: str
    revision: str | None = None
    private: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class Pushed:
    """What a push came to: `sent` files were new or other, `removed` ones were of an older export, `unchanged` many
    were there already. `commit` is None for a dry run; where nothing changed, it is the one that was there."""

    repo: str
    url: str
    revision: str
    private: bool
    commit: str | None
    sent: list[str]
    removed: list[str]
    unchanged: int
    bytes: int  # of what was sent


@dataclass(frozen=True)
class _Hub:
    """A repository as it is: its newest commit and {path: file as the hub lists it}; `commit` is None before the first.
    `new_branch`: the one that is asked for is not there yet, and this is the main one, as which it begins."""

    there: bool
    private: bool
    commit: str | None
    files: Mapping[str, Any]
    new_branch: bool = False


def destination(
    repo: str | None, *, revision: str | None = None, private: bool = True, dry_run: bool = False
) -> Destination | None:
    """Where to push, before anything is written; None where nothing is to be pushed. Raises InputError for a name that
    the hub does not take, for options of a push without one, and where the hub may not be asked."""
    if repo is None:
        if revision is not None or dry_run or not private:
            raise InputError("`--revision`, `--no-private` and `--dry-run` are about `--push owner/name`; give it, too")
        return None
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"--push {repo}: {error}") from None
    if "/" not in repo:
        raise InputError(f"--push {repo}: say whose it is, as in `--push owner/{repo}`")
    if is_offline_mode():
        raise InputError("HF_HUB_OFFLINE is set, and --push asks the hub: unset it, or leave --push out")
    return Destination(repo, revision, private, dry_run)


def push(folder: Path, to: Destination, progress: Progress = quiet) -> Pushed:
    """Put the export of a folder on the hub.

    Cost: every file is read for its digest, those that the hub does not have once more. Raises InputError for a
    repository that holds something else, that others could see though `private` was asked for, or that the token may
    not write to; BusyError where somebody else committed meanwhile, UnavailableError where the hub does not answer. In
    all cases the export stays, the hub shows the old one or this one, and the same call does the rest.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="gradsift", library_version=VERSION)
    files = _files(folder)
    manifest: Json = json.loads((folder / "manifest.json").read_text("utf-8"))
    where = _shown(api.endpoint)
    with _explained(folder, to, where), no_bars():
        hub = _look(api, to)
        if not hub.there and not to.dry_run:
            api.create_repo(to.repo, private=to.private, exist_ok=True, **KIND)
            hub = _look(api, to)
        _refuse_others(api, to, hub, manifest["name"])
        sent = [name for name in files if not _same(hub.files.get(name), folder / name, files[name])]
        removed = sorted(name for name in hub.files if _is_written(name) and name not in files)
        commit = hub.commit
        if not to.dry_run and (sent or removed):
            if to.revision:
                api.create_branch(to.repo, branch=to.revision, exist_ok=True, **KIND)
            adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in sent]
            branch = {"revision": to.revision} if to.revision else {}
            data = [add for add in adds if DATA.fullmatch(add.path_in_repo)]
            for number, add in enumerate(data, 1):
                api.preupload_lfs_files(to.repo, [add], **KIND, **branch, free_memory=False)
                progress("push: uploading data files", number, len(data))
            made = api.create_commit(
                to.repo,
                [*adds, *(CommitOperationDelete(path_in_repo=name) for name in removed)],
                commit_message=f"Export {manifest['name']} {manifest['digest'][:12]}",
                commit_description=f"Written by gradsift {VERSION}; manifest.json says from what.",
                parent_commit=hub.commit,
                **KIND,
                **branch,
            )
            commit = made.oid
            _check(api, to, commit, folder, files)
    return Pushed(
        repo=to.repo,
        url=f"{where}/datasets/{to.repo}",
        revision=to.revision or "main",
        private=hub.private,
        commit=None if to.dry_run else commit,
        sent=sent,
        removed=removed,
        unchanged=len(files) - len(sent),
        bytes=sum((folder / name).stat().st_size for name in sent),
    )


def _is_written(name: str) -> bool:
    return name == "manifest.json" or name in TEXTS or DATA.fullmatch(name) is not None


def _files(folder: Path) -> dict[str, str]:
    """{name: sha256} of an export's own files. Raises CorruptionError where one is not as it was written."""
    if other := damaged(folder):
        changed = folder / next(iter(other))
        raise CorruptionError(f"{changed} changed since it was exported; nothing was pushed. Export it again")
    said = json.loads((folder / MANIFEST).read_text("utf-8"))["files"] | {MANIFEST: digest_file(folder / MANIFEST)}
    return {name: said[name] for name in sorted(own_files(folder)) if _is_written(name)}


def _look(api: Any, to: Destination) -> _Hub:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = api.repo_info(to.repo, **KIND)
    except RepositoryNotFoundError:
        return _Hub(there=False, private=to.private, commit=None, files={})
    commit, new_branch = info.sha, to.revision is not None
    if to.revision:
        with suppress(RevisionNotFoundError):  # it begins as the main branch is
            commit, new_branch = api.repo_info(to.repo, revision=to.revision, **KIND).sha, False
    listed = api.list_repo_tree(to.repo, recursive=True, revision=commit, **KIND) if commit else ()
    files = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    return _Hub(there=True, private=bool(info.private), commit=commit, files=files, new_branch=new_branch)


def _refuse_others(api: Any, to: Destination, hub: _Hub, name: str) -> None:
    """Raise InputError for a repository that is not for an export of the selection or mixture of this name."""
    if not hub.there:
        return
    if to.private and not hub.private:
        raise InputError(
            f"{to.repo} is public on the hub: everybody would see these rows. Say --no-private where that is meant, or "
            "make it private in its settings there"
        )
    if "manifest.json" in hub.files:
        with TemporaryDirectory() as scratch:
            path = api.hf_hub_download(to.repo, "manifest.json", revision=hub.commit, local_dir=scratch, **KIND)
            try:
                theirs = json.loads(Path(path).read_text("utf-8"))
                ours = isinstance(theirs, dict) and "gradsift_export" in theirs
            except (ValueError, TypeError):
                ours = False
        if ours and theirs.get("name") != name and not hub.new_branch:
            raise InputError(
                f"{to.repo} ({to.revision or 'main'}) holds an export of {theirs.get('name')!r}, which {name!r} would "
                "replace; push to another name, or to a branch of its own (--revision), or delete that data set first"
            )
    else:
        ours = not set(hub.files) - NEW
    if not ours:
        raise InputError(f"{to.repo} holds something else than an export of gradsift; push to another name")


def _same(listed: Any, path: Path, digest: str) -> bool:
    """Whether the hub has a file as it is here: large ones are listed by sha256, others by the digest of git."""
    if listed is None or listed.size != path.stat().st_size:
        return False
    if listed.lfs is not None:
        return bool(listed.lfs.sha256 == digest)
    content = path.read_bytes()
    of_git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(listed.blob_id == of_git.hexdigest())


def _check(api: Any, to: Destination, commit: str, folder: Path, files: Mapping[str, str]) -> None:
    """Raise InputError unless a commit holds the export: a .gitignore there leaves files out without a word."""
    listed = {entry.path: entry for entry in api.list_repo_tree(to.repo, recursive=True, revision=commit, **KIND)}
    missing = [name for name in files if not _same(listed.get(name), folder / name, files[name])]
    if missing:
        raise InputError(
            f"{to.repo} does not have {missing[0]} as it was pushed (commit {commit[:12]}): see whether a .gitignore "
            "there leaves it out, remove that line, and push again"
        )


@contextmanager
def _explained(folder: Path, to: Destination, endpoint: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as an error that says what became of the export and what to do."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except GradsiftError as error:
        raise type(error)(f"{error}. The export is in {folder}") from error.__cause__
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        raise _as_ours(error, folder, to, endpoint) from error


def _as_ours(error: Exception, folder: Path, to: Destination, endpoint: str) -> GradsiftError:
    status, said = _answer(error)
    stays = f"The export is in {folder}"
    again = f"{stays}; run the same command again"
    if status in (401, 403):
        owner = to.repo.partition("/")[0]
        return InputError(f"{endpoint} lets nobody write to {to.repo} with this token, or without one ({said}). "
                          f"{TOKEN.format(owner=owner)}. {again}")  # fmt: skip
    if status in (409, 412):
        return BusyError(f"somebody else changed {to.repo} meanwhile ({said}). {again}")
    if status is not None and 400 <= status < 500 and status not in TOLD_TO_WAIT:
        return InputError(f"{endpoint} refuses {to.repo}: {said}. {stays}")
    return UnavailableError(f"{endpoint} fails ({said}). {again}: what arrived is not sent twice")


def _answer(error: BaseException) -> tuple[int | None, str]:
    """(status of the hub's answer or None, its words) of an error or of what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            words = getattr(cause, "server_message", None) or str(cause).strip()
            return int(response.status_code), f"{response.status_code}, {_first_line(words)}"
        cause = cause.__cause__
    return None, _first_line(str(error.__cause__ or error)) or type(error).__name__


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0].rstrip(". ")[:200]
    return printable(line)  # it may be a server's


def _shown(endpoint: str) -> str:
    """A hub's address without a password that HF_ENDPOINT may hold."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
