"""Stage: sources → examples in the store, bad rows in quarantine, and a version of each dataset."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Dataset, Example, Provenance
from gradsift.datastore.runs import DatasetReport
from gradsift.datastore.store import Store
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Source

BATCH_ROWS = 5_000
GOOD = ""


def ingest(
    store: Store, role: str, name: str, sources: Iterable[Source], seed: int = 0, progress: Progress = quiet
) -> tuple[Dataset, DatasetReport]:
    """Read all sources into the store and define the dataset of their distinct examples.

    Re-reading the same sources adds nothing. A chat that several sources have belongs to the one whose name comes first
    in the alphabet (with its licence), and likewise for subtasks, in whatever order they are read.
    What was deleted stays out, is counted, and comes back when its tombstone is taken away (`gradsift revive`).
    Raises InputError for a source without a single usable row: a mixture would silently do without it.
    """
    members: dict[str, tuple[str, str, str]] = {}  # source, licence, subtask
    sources = list(sources)
    counts: list[Counter[str]] = [Counter() for _ in sources]
    read = new = duplicates = deleted = 0
    stream = (
        row
        for source, outcomes in zip(sources, counts, strict=True)
        for row in _counted(read_source(source, seed), outcomes)
    )
    for batch in _batches(stream, BATCH_ROWS):
        good = [row for row in batch if isinstance(row, Example)]
        if bad := [row for row in batch if isinstance(row, BadRow)]:
            examples.quarantine(store, bad)
        read += len(batch)
        added = examples.add(store, good)
        new += added.new
        deleted += sum(example.example_id in added.deleted for example in good)
        good = [example for example in good if example.example_id not in added.deleted]
        for example in good:
            facts = (example.source, example.licence or "", example.subtask)
            known = members.get(example.example_id)
            duplicates += known is not None
            members[example.example_id] = facts if known is None else min(known, facts)
        progress(f"read {role} {name}", read, None)
    for source, outcomes in zip(sources, counts, strict=True):
        _refuse_empty(source, outcomes, f"{role} {name!r}")
    if not members:
        raise InputError(
            f"every row of {role} {name!r} was deleted before ({deleted:,} rows): name other sources, or take "
            "tombstones away with `gradsift revive`"
        )
    if role == "pool":
        of_members = {i: Provenance(source, licence or None) for i, (source, licence, _) in members.items()}
        examples.assign_sources(store, of_members)
    dataset = examples.define_dataset(store, role, name, {i: subtask for i, (_, _, subtask) in members.items()})
    by_source = Counter(source for source, _, _ in members.values())
    refused = sum(counts, Counter())
    del refused[GOOD]
    return dataset, DatasetReport(
        examples=len(members),
        digest=dataset.digest,
        rows_read=read,
        new=new,
        duplicates=duplicates,
        quarantined=dict(refused.most_common()),
        by_source=dict(by_source.most_common()),
        deleted=deleted,
    )


def _counted(rows: Iterator[Example | BadRow], outcomes: Counter[str]) -> Iterator[Example | BadRow]:
    """The rows, counting good ones under `GOOD` and bad ones by their reason."""
    for row in rows:
        outcomes[row.reason if isinstance(row, BadRow) else GOOD] += 1
        yield row


def _refuse_empty(source: Source, outcomes: Counter[str], dataset: str) -> None:
    if not outcomes[GOOD]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in outcomes.most_common() if reason) or "no rows at all"
        raise InputError(
            f"{source.path or source.hub} gives no usable example to {dataset} ({reasons}). Correct it (`gradsift "
            "status` lists quarantined rows) or take it out of the recipe."
        )


def _batches(stream: Iterator[Example | BadRow], size: int) -> Iterator[list[Example | BadRow]]:
    while batch := list(islice(stream, size)):
        yield batch
