"""Reading sources: files, folders and Hugging Face datasets → examples and quarantined rows, in one stream.

Memory is one batch; a broken row costs that row only. A file is read as bytes line by line, so that the
line number of a bad row is right whatever is in it.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradsift.datastore.chats import weight
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Example
from gradsift.datastore.identity import digest_text, example_id
from gradsift.pipelines.bars import no_bars_of_datasets
from gradsift.pipelines.pool.canonical import canonical_messages, used_fields
from gradsift.pipelines.pool.cells import NO_VALUE, require_whole, rows_of_batch
from gradsift.pipelines.pool.extra import other_columns
from gradsift.pipelines.pool.files import KINDS, Raw, bare_name, kind_of, rows_of
from gradsift.pipelines.pool.folder import walk
from gradsift.pipelines.pool.passing import passing
from gradsift.pipelines.pool.row_error import MAX_ROW_CHARS, TOO_DEEP, RowError
from gradsift.pipelines.pool.tally import Tally
from gradsift.pipelines.pool.warnings import unread_words
from gradsift.pipelines.recipe import Source

EXCERPT_CHARS = 120
BATCH_ROWS = 1_000  # of a dataset that are made rows at once
LICENCE_FIELDS = ("licence", "license")


def read_source(source: Source, seed: int = 0, tally: Tally | None = None) -> Iterator[Example | BadRow]:
    """All rows of a source, good and bad, in order, without those that its `where` leaves out; with `rows`, a seeded
    sample of the good ones. `tally` counts all that were read, and gets the files that were not.

    Raises InputError when the source itself is missing or of an unknown kind.
    """
    tally = Tally() if tally is None else tally
    stream = _seen(passing((_examine(raw, source) for raw in _raw_rows(source, tally)), source, tally), tally)
    if source.rows is None:
        yield from stream
        return
    yield from _sample(stream, source.rows, seed)


def read_beside(source: Source, tally: Tally) -> Iterator[tuple[Raw, Example | BadRow]]:
    """Each raw row of a source beside what becomes of it, as `read_source` has it; `tally` gets files not read."""
    for raw in _raw_rows(source, tally):
        yield raw, _examine(raw, source)


def _seen(stream: Iterator[Example | BadRow], tally: Tally) -> Iterator[Example | BadRow]:
    for row in stream:
        tally.see(row)
        yield row


def _sample(stream: Iterator[Example | BadRow], rows: int, seed: int) -> Iterator[Example | BadRow]:
    """The good rows of the `rows` chats with the smallest digests of (seed, id), in file order; bad rows all pass.

    Which chats these are does not depend on the order or the names of files, and a source that grew changes few of
    them. Holds `rows` chats; O(log rows) for each row.
    """
    kept: dict[str, list[tuple[int, Example]]] = {}
    largest: list[tuple[int, str]] = []  # a heap of (−digest, id) of those kept
    for number, row in enumerate(stream):
        if isinstance(row, BadRow):
            yield row
            continue
        chat = row.example_id
        if chat not in kept:
            entry = (-int(digest_text(f"{seed}/{chat}"), 16), chat)
            if len(kept) < rows:
                heapq.heappush(largest, entry)
            else:
                out = heapq.heappushpop(largest, entry)
                if out == entry:
                    continue
                del kept[out[1]]
            kept[chat] = []
        kept[chat].append((number, row))
    in_order = sorted((pair for pairs in kept.values() for pair in pairs), key=lambda pair: pair[0])
    yield from (example for _, example in in_order)


def _examine(raw: Raw, source: Source) -> Example | BadRow:
    path, line, row = raw
    file = _clean(path)
    name = source.name or source.hub or _file_name(file)
    try:
        if isinstance(row, RowError):
            raise row
        named = row.get(source.source_field) if isinstance(row, dict) and source.name is None else None
        name = str(named or name)
        messages = canonical_messages(row, source.shape, source.mapping)
        licence_field = None if source.licence else next((f for f in LICENCE_FIELDS if row.get(f)), None)
        used = used_fields(row, source.shape, source.mapping)
        used |= {field for field in (source.source_field if named else None, licence_field) if field}
        extra = other_columns(row, used, source)
        if (held := weight(messages) + weight(extra)) > MAX_ROW_CHARS:
            raise RowError("too_long", f"its chat and other columns have {held:,} characters (limit {MAX_ROW_CHARS:,})")
        licence = source.licence or (str(row[licence_field]) if licence_field else None)
        subtask = str((row.get(source.subtask_field) if source.subtask_field else None) or "")
        number = example_id(messages)
    except RowError as error:
        excerpt = error.args[1] if len(error.args) > 1 else _start(row)
        return BadRow(file, line, _clean(name), error.reason, _clean(error.detail), _clean(excerpt)[:EXCERPT_CHARS])
    except RecursionError:
        return BadRow(file, line, _clean(name), "bad_field", TOO_DEEP, _clean(_start(row))[:EXCERPT_CHARS])
    return Example(
        number, messages, _clean(name), file, line, _clean(licence) if licence else None, _clean(subtask), extra
    )


def _start(row: Any) -> str:
    try:
        return repr(row)
    except RecursionError:
        return ""


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


@lru_cache(maxsize=64)
def _file_name(file: str) -> str:
    """The name of a file without its kind: asked for every row."""
    return bare_name(Path(file))


def _raw_rows(source: Source, tally: Tally) -> Iterator[Raw]:
    if source.hub:
        yield from _hub_rows(source)
        return
    path = Path(source.path or "")
    if path.is_file():
        yield from rows_of(path, source.unpack_limit)
    elif path.is_dir():
        yield from _folder_rows(path, source, tally)
    else:
        raise InputError(f"there is no file or folder {path}; check the recipe's paths")


def _folder_rows(path: Path, source: Source, tally: Tally) -> Iterator[Raw]:
    if (path / "dataset_info.json").exists() and (path / "state.json").exists():
        yield from _saved_rows(path)
        return
    if (path / "dataset_dict.json").exists():
        yield from _saved_rows(path / source.split)
        return
    files, tally.unread = walk(path, kind_of)
    if not files:
        found = "; ".join(map(unread_words, tally.unread))
        raise InputError(f"{path} holds no {', '.join(KINDS)} files (also .gz, .zst){f': {found}' if found else ''}")
    for file in files:
        tally.files.setdefault(_clean(str(file)), Counter())
        yield from rows_of(file, source.unpack_limit)


def _saved_rows(path: Path) -> Iterator[Raw]:
    from datasets import load_from_disk

    try:
        rows = load_from_disk(str(path))
    except (*NO_VALUE, AttributeError) as error:  # its description may be any JSON
        raise InputError(f"{path} is not a saved dataset: {error}") from error
    yield from _arrow_rows(str(path), rows)


def _hub_rows(source: Source) -> Iterator[Raw]:
    from datasets import load_dataset

    name = source.hub or ""
    place = f"hub:{name}/{source.config or 'default'}/{source.split}"
    try:
        with no_bars_of_datasets():
            rows = load_dataset(name, source.config, split=source.split)
    except Exception as error:
        raise InputError(
            f"cannot load dataset {name!r} (split {source.split}): {error}. "
            "Check the name and the network, or give a local `path`."
        ) from error
    yield from _arrow_rows(place, rows)


def _arrow_rows(place: str, rows: Any) -> Iterator[Raw]:
    """Rows of a dataset of `datasets`, as its file has them: pictures and sounds are not decoded."""
    number = 0
    try:
        for table in rows.with_format("arrow").iter(BATCH_ROWS):
            for batch in table.to_batches():
                for column in batch.columns:
                    require_whole(column)
                for row in rows_of_batch(batch):
                    number += 1
                    yield place, number, row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {place}: {error}") from error
