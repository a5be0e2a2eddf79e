"""What a reader of a source should know at once: files that were not read, files and sources that gave little."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from gradsift.datastore.predicates import absent_words
from gradsift.datastore.readings import SourceReport, Unread
from gradsift.datastore.runs import DatasetReport, Ingested
from gradsift.pipelines.pool.tally import MUCH

REASONS = 3  # reasons that are named


def unread_words(unread: Unread) -> str:
    """How many files of a kind were not read, and the first of them."""
    named = ", ".join(unread.first) + (", …" if unread.files > len(unread.first) else "")
    kind = f"{unread.why} ({unread.suffix or 'no suffix'})" if unread.why == "of no known kind" else unread.why
    return f"{unread.files:,} {kind}: {named}"


def warnings(ingested: Ingested) -> list[str]:
    """Warnings of all that was read: pool, targets and tests."""
    named: Mapping[str, DatasetReport] = {
        "pool": ingested.pool,
        **{f"target {name}": one for name, one in ingested.targets.items()},
        **{f"test {name}": one for name, one in ingested.tests.items()},
    }
    return [text for what, one in named.items() for source in one.sources for text in _of_source(what, source)]


def _of_source(what: str, source: SourceReport) -> list[str]:
    told = []
    refused = sum(source.refused.values())
    if refused > MUCH * source.rows:
        told.append(
            f"{what}: {refused:,} of {source.rows:,} rows of {source.place} were refused: "
            f"{_reasons(source.refused, source.first)}. `gradsift quarantine` lists them."
        )
    told += [
        f"{what}: {sum(poor.refused.values()):,} of {poor.rows:,} rows of {poor.file} were refused: "
        f"{_reasons(poor.refused, {})}. `gradsift quarantine --file {PurePath(poor.file).name}` lists them."
        for poor in source.poor
    ]
    for name, absent in source.absent.items():
        told.append(f"{what}: `{name}` of {source.place}: {absent_words(absent, source.columns)}")
    if source.barren:
        named = _some(source.barren_files, source.barren)
        told.append(f"{what}: {_files(source.barren)} of {source.place} gave no usable row: {named}")
    if source.unread:
        listed = "; ".join(map(unread_words, source.unread))
        count = sum(one.files for one in source.unread)
        told.append(f"{what}: {_files(count)} in {source.place} not read: {listed}")
    return told


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _reasons(refused: Mapping[str, int], first: Mapping[str, str]) -> str:
    told = [
        f"{rows:,} {reason}" + (f" (first: {first[reason]})" if reason in first else "")
        for reason, rows in list(refused.items())[:REASONS]
    ]
    more = len(refused) - REASONS
    return ", ".join(told) + (f", {_other(more)}" if more > 0 else "")


def _other(reasons: int) -> str:
    return "1 other reason" if reasons == 1 else f"{reasons} other reasons"


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", …" if count > len(names) else "")
