"""Stage: sources → examples in the store, bad rows in quarantine, and a version of each dataset."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Dataset, Example
from gradsift.datastore.store import Store
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Source

BATCH_ROWS = 5_000


@dataclass
class IngestReport:
    """Counts of one ingest. `rows` = good + quarantined; `duplicates` are good rows that were there before."""

    rows: int = 0
    new: int = 0
    known: int = 0
    duplicates: int = 0
    by_source: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)


def ingest(
    store: Store, role: str, name: str, sources: Iterable[Source], seed: int = 0, progress: Progress = quiet
) -> tuple[Dataset, IngestReport]:
    """Read all sources into the store and define the dataset of their distinct examples.

    Re-reading the same sources adds nothing. A chat that several sources have belongs to the one whose name comes first
    in the alphabet (with its licence), and so for subtasks, whatever order they are read in.
    Raises InputError for a source without one usable row: a mixture would silently do without it.
    """
    report = IngestReport()
    members: dict[str, tuple[str, str, str]] = {}  # source, licence, subtask
    sources = list(sources)
    counts: list[Counter[str]] = [Counter() for _ in sources]
    stream = (row for s, n in zip(sources, counts, strict=True) for row in _counted(read_source(s, seed), n))
    for batch in _batches(stream, BATCH_ROWS):
        good = [row for row in batch if isinstance(row, Example)]
        bad = [row for row in batch if isinstance(row, BadRow)]
        added = examples.add(store, good)
        if bad:
            examples.quarantine(store, bad)
        report.rows += len(batch)
        report.new += added.new
        report.quarantined.update(row.reason for row in bad)
        for example in good:
            facts = (example.source, example.licence or "", example.subtask)
            known = members.get(example.example_id)
            report.duplicates += known is not None
            members[example.example_id] = facts if known is None else min(known, facts)
        progress(f"read {role} {name}", report.rows, None)
    for source, found in zip(sources, counts, strict=True):
        _refuse_empty(source, found, f"{role} {name!r}")
    report.known = len(members) - report.new
    report.by_source.update(source for source, _, _ in members.values())
    if role == "pool":
        examples.assign_sources(store, {i: (source, licence or None) for i, (source, licence, _) in members.items()})
    return examples.define_dataset(store, role, name, {i: subtask for i, (_, _, subtask) in members.items()}), report


def _counted(rows: Iterator[Example | BadRow], found: Counter[str]) -> Iterator[Example | BadRow]:
    """The rows, counting good ones under '' and bad ones by their reason."""
    for row in rows:
        found[row.reason if isinstance(row, BadRow) else ""] += 1
        yield row


def _refuse_empty(source: Source, found: Counter[str], dataset: str) -> None:
    if not found[""]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in found.most_common() if reason) or "no rows at all"
        raise InputError(
            f"{source.path or source.hub} gives no usable example to {dataset} ({reasons}). Mend it (`gradsift status` "
            "lists quarantined rows) or take it out of the recipe."
        )


def _batches(stream: Iterator[Example | BadRow], size: int) -> Iterator[list[Example | BadRow]]:
    while batch := list(islice(stream, size)):
        yield batch
