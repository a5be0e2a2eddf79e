"""Stage: sources → examples in the store, bad rows in quarantine, and a version of each dataset."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from gradsift.datastore import examples, quarantine
from gradsift.datastore.chats import weight
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Dataset, Example, Provenance
from gradsift.datastore.origins import Read, drop_stale
from gradsift.datastore.predicates import absent_words
from gradsift.datastore.runs import DatasetReport
from gradsift.datastore.store import Store
from gradsift.pipelines.pool.places import namer
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.pool.tally import GOOD, Tally, went
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Source

BATCH_ROWS = 5_000
BATCH_CHARS = 64 << 20  # of rows that are held, and become one shard; a row has at most as many (`sources`)


def ingest(
    store: Store,
    role: str,
    name: str,
    sources: Iterable[Source],
    seed: int = 0,
    progress: Progress = quiet,
    recipe: str = "",
) -> tuple[Dataset, DatasetReport]:
    """Read all sources into the store and define the dataset of their distinct examples; `recipe` names whose it is.

    Re-reading the same sources adds nothing. A chat that several sources have belongs to the one whose name comes first
    in the alphabet (with its licence), and likewise for subtasks, in whatever order they are read.
    What was deleted stays out, is counted, and comes back when its tombstone is taken away (`gradsift revive`).
    Raises InputError for a source without a single usable row: a mixture would silently do without it.
    """
    members: dict[str, tuple[str, str, str]] = {}  # source, licence, subtask
    sources = list(sources)
    places = Read()
    tallies = [Tally(places=places, unkept=_named(source)) for source in sources]
    read = new = duplicates = 0
    kept, gone = Counter[str](), Counter[str]()  # good rows by source, and those of them that were deleted before
    reading = quarantine.begin(store, recipe, role, name)
    stream = (row for source, tally in zip(sources, tallies, strict=True) for row in read_source(source, seed, tally))
    for batch in _batches(stream):
        good = [row for row in batch if isinstance(row, Example)]
        if bad := [row for row in batch if isinstance(row, BadRow)]:
            quarantine.put(store, reading, bad)
        read += len(batch)
        added = examples.add(store, good)
        new += added.new
        kept.update(example.source for example in good)
        gone.update(example.source for example in good if example.example_id in added.deleted)
        good = [example for example in good if example.example_id not in added.deleted]
        for example in good:
            facts = (example.source, example.licence or "", example.subtask)
            known = members.get(example.example_id)
            duplicates += known is not None
            members[example.example_id] = facts if known is None else min(known, facts)
        progress(f"read {role} {name}", read, None)
    progress(f"read {role} {name}", read, read)
    quarantine.end(store, reading, {file for tally in tallies for file in tally.files})
    for source, tally in zip(sources, tallies, strict=True):
        _refuse_empty(source, tally, f"{role} {name!r}")
    covered = namer((source.path, source.hub) for source in sources)
    drop_stale(store, places, lambda file: covered(file) is not None)
    if not members:
        raise InputError(
            f"every row of {role} {name!r} was deleted before ({gone.total():,} rows): name other sources, or take "
            "tombstones away with `gradsift revive`"
        )
    if role == "pool":
        of_members = {i: Provenance(source, licence or None) for i, (source, licence, _) in members.items()}
        examples.assign_sources(store, of_members)
    dataset = examples.define_dataset(store, role, name, {i: subtask for i, (_, _, subtask) in members.items()})
    by_source = Counter(source for source, _, _ in members.values())
    every = _outcomes(went(tallies), kept, gone, by_source)
    refused = sum((tally.reasons for tally in tallies), Counter())
    del refused[GOOD]
    return dataset, DatasetReport(
        examples=len(members),
        digest=dataset.digest,
        rows_read=every["read"].total(),
        new=new,
        duplicates=duplicates,
        quarantined=dict(refused.most_common()),
        by_source=dict(by_source.most_common()),
        deleted=gone.total(),
        not_drawn=every["not drawn"].total(),
        filtered=every["filtered"].total(),
        went={outcome: dict(counts.most_common()) for outcome, counts in every.items()},
        sources=[tally.report(source.path or source.hub or "") for source, tally in zip(sources, tallies, strict=True)],
    )


def _outcomes(
    counted: Mapping[str, Counter[str]], kept: Counter[str], gone: Counter[str], members: Counter[str]
) -> dict[str, Counter[str]]:
    """{outcome: rows by source} of all rows. An example counts once, for the source that it belongs to: each other row
    that has it is a duplicate."""
    every = {name: counted.get(name, Counter()) for name in ("read", "quarantined", "filtered")}
    good = every["read"] - every["quarantined"] - every["filtered"]
    return {**every, "not drawn": good - kept, "deleted": gone, "duplicates": kept - gone - members}


def _named(source: Source) -> set[str]:
    return set(source.keep) if isinstance(source.keep, list) else set()


def _refuse_empty(source: Source, tally: Tally, dataset: str) -> None:
    outcomes = tally.reasons
    if outcomes[GOOD] and outcomes[GOOD] == tally.went.get("filtered", Counter()).total():
        why = f": {absent_words(tally.unmet, tally.known)}" if tally.unmet else ""
        raise InputError(
            f"`where` of {source.path or source.hub} leaves out every usable row ({outcomes[GOOD]:,}) of "
            f"{dataset}{why}. Correct it, or take the source out of the recipe."
        )
    if not outcomes[GOOD]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in outcomes.most_common() if reason) or "no rows at all"
        raise InputError(
            f"{source.path or source.hub} gives no usable example to {dataset} ({reasons}). Correct it (`gradsift "
            "quarantine` lists its rows) or take it out of the recipe."
        )


def _batches(stream: Iterator[Example | BadRow]) -> Iterator[list[Example | BadRow]]:
    """Rows in parts of `BATCH_ROWS`, or of fewer that have `BATCH_CHARS` together."""
    batch: list[Example | BadRow] = []
    held = 0
    for row in stream:
        size = weight(row.messages) + weight(row.extra) if isinstance(row, Example) else 0
        if batch and (len(batch) == BATCH_ROWS or held + size > BATCH_CHARS):
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += size
    if batch:
        yield batch
