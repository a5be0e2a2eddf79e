"""What a killed export has finished: files whose digests were noted when they were written.

The call that goes on uses a file only if it still has the digest that was noted; one that is cut, changed or missing is
made again. A line of the notes that is damaged itself speaks for no file.
"""

from collections.abc import Iterable
from pathlib import Path

from gradsift.datastore.files import fsync_path
from gradsift.datastore.identity import digest_file

NOTES = "SHA256SUMS"  # of one folder, as `sha256sum` writes them


def finish(folder: Path, temporary: Path, name: str) -> str:
    """Give a written file its name below a folder, its bytes being on the disk first; notes and returns its sha256. The
    caller makes the rename durable (`fsync_folder`), once for all files."""
    fsync_path(temporary)
    digest = digest_file(temporary)
    temporary.rename(folder / name)
    with (folder / NOTES).open("a", encoding="utf-8") as handle:
        handle.write(f"{digest}  {name}\n")
    return digest


def whole(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: sha256} of those of the files that are as they were noted. Cost: they are read."""
    try:
        lines = (folder / NOTES).read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return {name: noted[name] for name in names if name in noted and _is(folder / name, noted[name])}


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest
