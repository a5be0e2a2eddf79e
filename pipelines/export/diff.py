"""What changed between two selections or mixtures: rows in and out, by source, cluster, part, length and score.

Either side is a selection of the store (NAME; of a version, of a pool too, NAME@NUMBER or KIND@NUMBER; or NAME@DIGEST)
or the folder of an export.
"""

import json
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gradsift.datastore import chats, examples, selections, versions
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Json
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.place import own_files
from gradsift.pipelines.export.reading import reading
from gradsift.pipelines.export.rows import layout
from gradsift.pipelines.export.turns import chat_of
from gradsift.pipelines.tables import Row, first_turn

SHOWN = 3
COLUMNS = ("example_id", "source", "score", "part", "cluster", "messages", "tools")
FACTS = ("source", "score", "part", "cluster")  # of an example beside its characters, in the order of `ExampleFacts`
TEXT_CHARS = 160
BINS = ("below 200", "200 to 499", "500 to 999", "1,000 to 1,999", "2,000 to 4,999", "5,000 and more")
EDGES = (200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class ExampleFacts:
    """What is known of an example on one side; None where the method or the mixture says nothing of it."""

    chars: int
    source: str | None = None
    score: float | None = None
    part: str | None = None
    cluster: int | None = None


@dataclass(frozen=True)
class Side:
    """One side: copies and facts by example, and how to read chats by their ids; `ranked` where the examples come in
    the order of a choice."""

    name: str
    digest: str
    copies: Mapping[str, int]
    facts: Mapping[str, ExampleFacts]
    chats: Callable[[Sequence[str]], Mapping[str, Messages]]
    ranked: bool = False


@dataclass(frozen=True)
class Size:
    """How much a side holds."""

    name: str
    digest: str
    examples: int
    rows: int


@dataclass(frozen=True)
class Sample:
    """An example that only one side has, with the start of its text."""

    example_id: str
    source: str | None
    score: float | None
    user: str
    assistant: str


@dataclass(frozen=True)
class Samples:
    """Some examples that only one side has, by side."""

    only_a: list[Sample]
    only_b: list[Sample]


@dataclass(frozen=True)
class Difference:
    """Two sides compared. Counts are of examples; `by` holds a table of rows for each way to group them, `score` one
    of the scores of those that left, stay and came (empty where a side has none)."""

    a: Size
    b: Size
    in_both: int
    only_a: int
    only_b: int
    other_copies: int
    by: dict[str, list[Row]]
    score: list[Row]
    examples: Samples
    same: str = ""  # where rows and order are the same: that they are, and what of what decided them differs


def diff(store: Store | None, one: str, other: str, shown: int = SHOWN) -> Difference:
    """Compare two sides: counts, tables, and up to `shown` examples that only one has. Raises InputError."""
    a, b = _side(store, one), _side(store, other)
    same = same_words(store, one, other) if a.digest == b.digest else ""
    return between(a, b, shown, same)


def between(a: Side, b: Side, shown: int = SHOWN, same: str = "") -> Difference:
    """What `diff` says of two sides."""
    left, came = sorted(set(a.copies) - set(b.copies)), sorted(set(b.copies) - set(a.copies))
    both = set(a.copies) & set(b.copies)
    return Difference(
        a=_size(a),
        b=_size(b),
        in_both=len(both),
        only_a=len(left),
        only_b=len(came),
        other_copies=sum(a.copies[i] != b.copies[i] for i in both),
        by={key: table for key in ("source", "part", "cluster", "length") if (table := _by(a, b, key))},
        score=_scores(a, b, left, came, both),
        examples=Samples(_samples(a, left, shown), _samples(b, came, shown)),
        same=same,
    )


def same_words(store: Store | None, one: str, other: str) -> str:
    """What there is to say of two sides with the same rows in the same order."""
    words = "the same rows in the same order"
    if store is None or not (versions.is_number(one) and versions.is_number(other)):
        return words
    return "; ".join([words, *versions.changed(store, versions.find(store, one), versions.find(store, other))])


def _size(side: Side) -> Size:
    return Size(side.name, side.digest, len(side.copies), sum(side.copies.values()))


def _side(store: Store | None, name: str) -> Side:
    folder = Path(name)
    if (folder / "manifest.json").is_file():
        return _exported(folder)
    if store is None:
        raise InputError(f"{name} is not the folder of an export, and there is no store to look for a selection in")
    return stored_side(store, name)


def stored_side(store: Store, name: str) -> Side:
    """A selection or version of the store as a side; no name is taken for a folder. Raises InputError."""
    if not versions.is_number(name):
        return _selected(store, selections.get(store, name))
    version = versions.find(store, name)
    if version.kind == "pool":
        return _pool(store, version)
    return replace(_selected(store, selections.of_version(store, version)), name=str(version))


def _pool(store: Store, version: versions.Version) -> Side:
    pool = examples.get_dataset(store, versions.usable(store, version))
    facts = {i: ExampleFacts(chars, source) for i, (source, chars) in examples.chars_of(store, pool).items()}
    copies = dict.fromkeys(pool.example_ids, 1)
    return Side(str(version), version.digest, copies, facts, lambda ids: examples.get_messages(store, ids))


def _selected(store: Store, chosen: Selection) -> Side:
    table = layout(store, chosen, 0).facts
    told = (table[name].to_pylist() if name in table.column_names else repeat(None) for name in FACTS)
    rows = zip(chosen.example_ids, selections.facts(store, chosen).chars, *told, strict=False)
    facts = {example: ExampleFacts(*known) for example, *known in rows}
    copies = dict(zip(chosen.example_ids, chosen.copies, strict=True))
    return Side(chosen.name, chosen.digest, copies, facts, lambda ids: examples.get_messages(store, ids), ranked=True)


def _exported(folder: Path) -> Side:
    with reading(folder):
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        files = [folder / name for name in sorted(own_files(folder)) if name.startswith("data/")]
        name, digest = str(manifest["name"]), str(manifest["selection"]["digest"])
        copies: dict[str, int] = {}
        facts: dict[str, ExampleFacts] = {}
        for row in _rows(files):
            copies[row["example_id"]] = copies.get(row["example_id"], 0) + 1
            facts[row["example_id"]] = _facts(row, chats.chars(chat_of(row)))

    def of_ids(ids: Sequence[str]) -> Mapping[str, Messages]:
        wanted = set(ids)
        with reading(folder):
            return {row["example_id"]: chat_of(row) for row in _rows(files) if row["example_id"] in wanted}

    return Side(name, digest, copies, facts, of_ids)


def _rows(files: Sequence[Path]) -> Iterator[Json]:
    """The rows of an export's files, with the columns that a comparison looks at."""
    for path in files:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
            continue
        file = pq.ParquetFile(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(4096, columns=columns):
            yield from batch.to_pylist()


def _facts(row: Row, chars: int) -> ExampleFacts:
    return ExampleFacts(chars, *(row.get(name) for name in FACTS))


def _group(facts: ExampleFacts, key: str) -> str | None:
    """The group of an example by source, part, cluster or length."""
    if key == "length":
        return BINS[bisect(EDGES, facts.chars)]
    value = getattr(facts, key)
    return None if value is None else str(value)


def _by(a: Side, b: Side, key: str) -> list[Row]:
    """A line for each group: rows on either side, the change, and examples that left and came."""
    counts: dict[str, list[int]] = {}
    for at, (side, other) in enumerate(((a, b), (b, a))):
        for example, copies in side.copies.items():
            group = _group(side.facts[example], key)
            if group is not None:
                line = counts.setdefault(group, [0, 0, 0, 0])
                line[at] += copies
                line[2 + at] += example not in other.copies
    order = BINS if key == "length" else sorted(counts, key=lambda group: (-abs(_change(counts[group])), group))
    name = "characters" if key == "length" else key
    return [
        {name: group, "a": rows_a, "b": rows_b, "change": rows_b - rows_a, "left": left, "came": came}
        for group in order
        if group in counts
        for rows_a, rows_b, left, came in [counts[group]]
    ]


def _change(line: Sequence[int]) -> int:
    return line[1] - line[0]


def _scores(a: Side, b: Side, left: Sequence[str], came: Sequence[str], both: set[str]) -> list[Row]:
    groups = (
        ("left (score in a)", a, left),
        ("stays (score in a)", a, sorted(both)),
        ("stays (score in b)", b, sorted(both)),
        ("came (score in b)", b, came),
    )
    lines: list[Row] = []
    for name, side, ids in groups:
        values = [score for i in ids if (score := side.facts[i].score) is not None]
        if values:
            low, middle, high = np.quantile(values, [0, 0.5, 1]).tolist()
            lines.append({"rows that": name, "examples": len(values), "lowest": low, "median": middle, "highest": high})
    return lines


def _samples(side: Side, ids: Sequence[str], count: int) -> list[Sample]:
    """The best-scored of them (without scores, the first ids), with the start of their text."""
    ranked = sorted(ids, key=lambda i: (-(side.facts[i].score or 0.0), i))[:count]
    chats = side.chats(ranked)
    return [
        Sample(
            example_id=i,
            source=side.facts[i].source,
            score=side.facts[i].score,
            user=first_turn(chats[i], "user", TEXT_CHARS),
            assistant=first_turn(chats[i], "assistant", TEXT_CHARS),
        )
        for i in ranked
    ]
