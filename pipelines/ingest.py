"""Stage: sources → examples in the store, bad rows in quarantine, and a version of each dataset."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from datastore import examples
from datastore.errors import InputError
from datastore.examples import BadRow, Dataset, Example
from datastore.store import Store
from pipelines.progress import Progress, quiet
from pipelines.recipe import Source
from pipelines.sources import read_source

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
    Raises InputError when not one row is usable.
    """
    report = IngestReport()
    members: dict[str, tuple[str, str, str]] = {}  # source, licence, subtask
    stream = (row for source in sources for row in read_source(source, seed))
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
    report.known = len(members) - report.new
    if not members:
        reasons = ", ".join(f"{n} {r}" for r, n in report.quarantined.items()) or "no rows at all"
        raise InputError(f"{role} {name!r} has no usable example ({reasons}); see `gradsift status`")
    report.by_source.update(source for source, _, _ in members.values())
    if role == "pool":
        examples.assign_sources(store, {i: (source, licence or None) for i, (source, licence, _) in members.items()})
    return examples.define_dataset(store, role, name, {i: subtask for i, (_, _, subtask) in members.items()}), report


def _batches(stream: Iterator[Example | BadRow], size: int) -> Iterator[list[Example | BadRow]]:
    while batch := list(islice(stream, size)):
        yield batch
