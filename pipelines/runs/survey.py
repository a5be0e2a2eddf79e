"""What a pool, its targets and a model turn out to be, for a recipe to be proposed: values alone, no words."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow
from gradsift.datastore.readings import Unread
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.labels import check_labels
from gradsift.pipelines.model.opened import Loaded, load_config
from gradsift.pipelines.model.positions import positions
from gradsift.pipelines.model.truncate import Truncation
from gradsift.pipelines.pool.canonical import shape_of
from gradsift.pipelines.pool.sources import read_beside
from gradsift.pipelines.pool.tally import Tally
from gradsift.pipelines.recipe import Encoding, Model, Source
from gradsift.pipelines.runs.data import Data
from gradsift.pipelines.runs.look import SAMPLE

WHOLE_SHARE = 0.95  # of the pool's chats that the proposed length keeps whole
STEP = 64  # lengths are multiples of it
SOURCES = 8  # that are kept by name, the largest


@dataclass(frozen=True)
class FileSeen:
    """A file of a source: its usable rows by shape, refused ones by reason, and the place of the first of each."""

    file: str
    shapes: Mapping[str, int]
    refused: Mapping[str, int]
    first: Mapping[str, str]

    @property
    def rows(self) -> int:
        """All that were read."""
        return sum(self.shapes.values()) + sum(self.refused.values())


@dataclass(frozen=True)
class PoolSeen:
    """A pool as it is read: what its files hold, what is not read, how its usable rows name source and licence, and the
    names of their other columns."""

    files: Sequence[FileSeen]
    unread: Sequence[Unread]
    named_source: int  # usable rows that name their source themselves
    sources: Mapping[str, int]  # usable rows by source name, the largest ones
    n_sources: int
    licences: Mapping[str, int]  # usable rows by the licence that they name
    columns: Sequence[str]

    @property
    def rows(self) -> int:
        """All that were read."""
        return sum(one.rows for one in self.files)

    @property
    def usable(self) -> int:
        """Rows that become chats, duplicates included."""
        return sum(sum(one.shapes.values()) for one in self.files)


@dataclass(frozen=True)
class Length:
    """How long chats are to the model, in tokens: the 95th percentile over a sample of the pool, how many positions the
    model has (None: no limit), what follows from both, and which truncation, with what speaks for it."""

    percentile: int
    sampled: int
    positions: int | None
    max_length: int
    truncation: Truncation = "keep_first"
    lost: str = ""  # what `keep_first` would lose; nothing: ""


@dataclass(frozen=True)
class Screened:
    """The datasets as a run would have them: rows of the pool that are left, those left out by reason, and rows of each
    target's sets."""

    rows: int
    left_out: Mapping[str, int]
    targets: Mapping[str, int]
    tests: Mapping[str, int] = field(default_factory=dict)


def look_at_pool(source: Source) -> PoolSeen:
    """Read a source once, row by row. Raises InputError as reading it does, and where no row is usable."""
    tally = Tally()
    shapes: dict[str, Counter[str]] = {}
    refused: dict[str, Counter[str]] = {}
    first: dict[str, dict[str, str]] = {}
    sources: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    columns: dict[str, None] = {}
    named = 0
    for (_, _, raw), row in read_beside(source, tally):
        here = shapes.setdefault(row.file, Counter())
        if isinstance(row, BadRow):
            refused.setdefault(row.file, Counter())[row.reason] += 1
            first.setdefault(row.file, {}).setdefault(row.reason, f"line {row.line}: {row.detail}")
            continue
        here[shape_of(raw, source.mapping)] += 1
        sources[row.source] += 1
        named += bool(source.source_field and raw.get(source.source_field))
        if row.licence:
            licences[row.licence] += 1
        columns |= dict.fromkeys(row.extra)
    names = dict.fromkeys([*tally.files, *shapes])
    files = [
        FileSeen(name, dict(shapes.get(name, {})), dict(refused.get(name, {})), first.get(name, {})) for name in names
    ]
    seen = PoolSeen(
        files, tally.unread, named, dict(sources.most_common(SOURCES)), len(sources), dict(licences), list(columns)
    )
    if not seen.usable:
        raise InputError(f"no row of {source.path or source.hub} is usable: {refusals(seen)}")
    return seen


def refusals(seen: PoolSeen, most: int = 3) -> str:
    """The most frequent reasons, each with the place of its first row."""
    counts: Counter[str] = sum((Counter(one.refused) for one in seen.files), Counter())
    where = {
        reason: f"{Path(one.file).name}, {place}" for one in reversed(seen.files) for reason, place in one.first.items()
    }
    told = [f"{count:,} {reason} (first: {where[reason]})" for reason, count in counts.most_common(most)]
    return "; ".join(told) or "there are none"


def screened(data: Data) -> Screened:
    """What reading and screening left, counted."""
    material = data.material
    return Screened(
        len(material.pool.example_ids),
        data.left_out,
        {name: len(one.example_ids) for name, one in material.targets.items()},
        {name: len(one.example_ids) for name, one in material.tests.items()},
    )


def length_of(data: Data, loaded: Loaded, model: Model) -> Length:
    """The length that keeps 95 % of the pool's chats whole, at most the model's positions, and the truncation that
    keeps the targets' answers. Raises InputError where no chat of the pool, or of a target, has a label.

    Cost: one render and tokenisation for each of at most a thousand chats of the pool, and of all of the targets.
    """
    ids = data.material.pool.example_ids
    chosen = ids[:: max(1, ceil(len(ids) / SAMPLE))]
    chats = examples.get_messages(data.scratch, chosen)
    encoded = [encode(loaded.tokenizer, chats[i], sys.maxsize) for i in chosen]
    lengths = sorted(len(one.input_ids) for one in encoded if one.usable)
    if not lengths:
        counts = ", ".join(f"{n} {status}" for status, n in Counter(one.status for one in encoded).items())
        raise InputError(
            f"none of {len(chosen)} rows of the pool has a label ({counts}): look at the chat template in the model's "
            "folder"
        )
    percentile, limit = lengths[ceil(WHOLE_SHARE * len(lengths)) - 1], positions(load_config(loaded, model))
    rounded = STEP * ceil(percentile / STEP)
    most = rounded if limit is None else min(rounded, limit)
    lost = _lost(data, loaded, most)
    truncation: Truncation = "keep_answer" if lost else "keep_first"
    return Length(percentile, len(lengths), limit, most, truncation, lost)


def _lost(data: Data, loaded: Loaded, max_length: int) -> str:
    """What the targets would lose by `keep_first`, where that is more than 5 % of one's labels."""
    sets = {
        f"targets.{name}.{which}": list(examples.get_messages(data.scratch, one.example_ids).values())
        for which, of_role in (("val", data.material.targets), ("test", data.material.tests))
        for name, one in of_role.items()
    }
    try:
        notes = check_labels(loaded.tokenizer, Encoding(max_length=max_length), sets)
    except InputError as error:
        notes = [str(error)]
    if notes:  # raises for chats that have no label at any length
        check_labels(loaded.tokenizer, Encoding(max_length=max_length, truncation="keep_answer"), sets)
    return notes[0].partition(":")[0] + ":" + notes[0].partition(":")[2].split(":")[0] if notes else ""
