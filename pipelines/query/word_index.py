"""The words of a pool's texts as sparse rows, in a file that this host keeps (`datastore/kept.py`).

    w(d, t) = idf(t) · f / (f + k1·(1 − b + b·|d|/mean|d|))        BM25(q, d) = Σ_{t∈q} w(d, t)

with f the count of word t in text d (`scorers/lexical.py`). A row holds the w of one text, words in alphabetical order;
rows are in the order of their examples' ids. The file is Arrow: `example_id`, `words` (a list of word and weight, words
as numbers of a dictionary that all rows share) and `length` (‖w(d)‖); its metadata has the number of rows with each
word, and the mean length of a text.

Built in two passes, the texts once: counts go to a scratch file without a name, then weights are computed from there.
Memory: the vocabulary, some numbers for each row, and a block; of a reader, what it looks at of the map.
Legend: N rows, V words of the vocabulary, n entries.
"""

import json
import tempfile
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import chats, examples, files, kept
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress, quiet
from gradsift.scorers.lexical import idf, saturated, words_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

KIND = "words1"  # and the version of the file
KIND_OF_ALL = "allwords1"  # of what was read for a pool, screened out or not
BLOCK_ENTRIES = 1 << 20
PAIR = pa.struct([("word", pa.dictionary(pa.int32(), pa.string())), ("weight", pa.float32())])
SCHEMA = pa.schema([("example_id", pa.string()), ("words", pa.list_(PAIR)), ("length", pa.float64())])


@dataclass(frozen=True)
class Part:
    """Rows of one record batch: views of the mapped file."""

    words: I32  # [n]
    weights: F32  # [n]
    ends: I64  # [rows + 1] of the rows' entries, from 0

    def products(self, wide: F64) -> F64:
        """[rows] sums of products with a question [V], in the order of words. By operations that check their bounds:
        the file may be a stranger's."""
        hit = np.flatnonzero((wide != 0)[self.words])
        of_row = np.searchsorted(self.ends, hit, side="right") - 1
        products = wide[self.words[hit]] * self.weights[hit]
        return np.asarray(np.bincount(of_row, products, len(self.ends) - 1), np.float64)


@dataclass(frozen=True)
class WordIndex:
    """An opened index. Numbers of rows are places in `ids`, which are sorted."""

    ids: pa.ChunkedArray  # [N] strings
    vocabulary: pa.Array  # [V] strings, sorted
    rows_with: I32  # [V]
    mean: float  # words of a text
    lengths: F64  # [N] of the rows
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> I64:
        """[parts + 1] number of the first row of each; the last is N."""
        return np.cumsum([0, *(len(part.ends) - 1 for part in self.parts)])

    def numbers(self, ids: Sequence[str]) -> I64:
        """Sorted numbers of those of the ids that have a row."""
        found = pc.index_in(pa.array(sorted(set(ids)), pa.string()), value_set=self.ids)
        return np.sort(found.drop_null().to_numpy(zero_copy_only=False).astype(np.int64))

    def products(self, question: F32) -> F64:
        """[N] sums of products of each row with a question [V], in float64. Cost O(n)."""
        wide = question.astype(np.float64)
        return np.concatenate([part.products(wide) for part in self.parts])

    def cosines(self, question: F32) -> F64:
        """[N] cosines of rows with a question [V] of length 1; 0 for a text without a word."""
        some = self.lengths > 0
        return np.divide(self.products(question), self.lengths, out=np.zeros(len(self)), where=some)

    def names(self, numbers: I64) -> list[str]:
        """Ids of rows."""
        found: list[str] = self.ids.take(pa.array(numbers)).to_pylist()
        return found

    def some(self, numbers: I64) -> Part:
        """Copies of rows, in their order."""
        words, weights = [], []
        for number in numbers.tolist():
            k = int(np.searchsorted(self.starts, number, side="right")) - 1
            part, row = self.parts[k], number - int(self.starts[k])
            span = slice(int(part.ends[row]), int(part.ends[row + 1]))
            words.append(part.words[span])
            weights.append(part.weights[span])
        ends = np.cumsum([0, *map(len, words)])
        return Part(
            np.concatenate([np.zeros(0, np.int32), *words]), np.concatenate([np.zeros(0, np.float32), *weights]), ends
        )

    def counts(self, text: str) -> tuple[I64, I64, I64]:
        """Of a text: [m] numbers of its words that the vocabulary has, sorted; [m] how often it has each; and how often
        it has each word that the vocabulary lacks."""
        counted = Counter(words_of(text.encode("utf-8", "replace").decode()))  # half of a pair that a shell passed on
        numbers = np.array([self._number(word) for word in counted], np.int64)
        often = np.fromiter(counted.values(), np.int64, len(counted))
        order = np.argsort(numbers, kind="stable")
        unknown = int((numbers < 0).sum())
        return numbers[order[unknown:]], often[order[unknown:]], often[order[:unknown]]

    def _number(self, word: str) -> int:
        """The number of a word; −1 where the vocabulary lacks it."""
        number = bisect_left(self.vocabulary, word, key=str)
        known = number < len(self.vocabulary) and str(self.vocabulary[number]) == word
        return number if known else -1

    def row(self, text: str) -> tuple[I64, F32, float]:
        """Of a text: [m] numbers of its words, [m] the weights that it would have in a row, and the length of that
        row, which words count for that the vocabulary lacks: a text of such words alone is like none."""
        numbers, often, unknown = self.counts(text)
        total = float(often.sum() + unknown.sum())
        weights = _weights(len(self), self.rows_with[numbers], often, total, self.mean)
        others = _weights(len(self), np.zeros(len(unknown), np.int64), unknown, total, self.mean)
        squares = np.square(np.concatenate([weights, others]).astype(np.float64))
        return numbers, weights, float(np.sqrt(squares.sum()))


def open_index(store: Store, dataset_id: int, progress: Progress = quiet, kind: str = KIND) -> WordIndex:
    """The index of a dataset's texts, built where this host has none: seconds for 100,000 texts (docs/search.md).
    `kind`: of which the host keeps one.

    Raises InputError for texts without a word, BusyError where examples were deleted meanwhile.
    """
    key = kept.key_of(store, dataset_id)
    source = kept.open_kept(store, kind, key)
    if source is None:
        dataset = examples.standing(store, dataset_id)
        source = kept.keep(store, kind, dataset.digest, lambda handle: _build(store, dataset, progress, handle))
    return _read(source)


def _weights(rows: int, rows_with: NDArray[Any], often: NDArray[Any], words: NDArray[Any] | float, mean: float) -> F32:
    return np.asarray(idf(rows, rows_with) * saturated(often, words, mean), np.float32)


@dataclass(frozen=True)
class _Counted:
    """Counts of all texts in a scratch file: entries of one text lie side by side, in the order of reading."""

    words: I32  # [n] numbers in the order in which words were met
    often: I32  # [n]
    first: I64  # [N] the first entry of each row
    size: I64  # [N] its entries
    length: I64  # [N] its words, each as often as it stands there
    names: list[str]  # [V] words by those numbers


def _build(store: Store, dataset: Dataset, progress: Progress, handle: BinaryIO) -> None:
    """Write the index of a dataset."""
    with (
        files.disk_errors(store.root / "scratch"),
        tempfile.TemporaryFile(dir=store.root) as words,
        tempfile.TemporaryFile(dir=store.root) as often,
    ):
        counted = _count(store, dataset, progress, words, often)
        mean = float(counted.length.mean()) if len(counted.length) else 0.0
        if not mean:
            raise InputError(f"pool {dataset.name!r} has no text with a word, so nothing can be found by words")
        _write(dataset, counted, mean, progress, handle)


def _count(store: Store, dataset: Dataset, progress: Progress, words: IO[bytes], often: IO[bytes]) -> _Counted:
    size = len(dataset.example_ids)
    first, entries, length = (np.zeros(size, np.int64) for _ in range(3))
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a word that is met first has the next number
    done = written = 0
    for places, texts in _texts(store, dataset):
        of_words, counts = array("i"), array("i")
        for place, text in zip(places, texts, strict=True):
            counted = Counter(words_of(text))
            first[place], entries[place], length[place] = written + len(counts), len(counted), counted.total()
            of_words.extend(map(numbers.__getitem__, counted))
            counts.extend(counted.values())
        words.write(of_words.tobytes())
        often.write(counts.tobytes())
        written += len(counts)
        done += len(places)
        progress("words of the pool", done, size)
    if done < size:
        raise CorruptionError(f"texts of {dataset.name!r} are missing; run `gradsift verify`")
    return _Counted(_mapped(words, written), _mapped(often, written), first, entries, length, list(numbers))


def _texts(store: Store, dataset: Dataset) -> Iterator[tuple[list[int], list[str]]]:
    """(places among the dataset's ids, texts) of its members, as they lie in the store."""
    members = pa.array(dataset.example_ids, pa.string())
    for shard in examples.shards_of(store, dataset.example_ids):
        for table in examples.read_groups(store, shard):
            places = pc.index_in(table["example_id"], value_set=members).combine_chunks()
            some = places.is_valid()
            yield (
                places.filter(some).to_pylist(),
                [chats.text(chat) for chat in chats.of_table(table.filter(some))],
            )


def _mapped(file: IO[bytes], size: int) -> I32:
    file.flush()
    return np.memmap(file, np.int32, "r", shape=(size,)) if size else np.zeros(0, np.int32)


def _write(dataset: Dataset, counted: _Counted, mean: float, progress: Progress, handle: BinaryIO) -> None:
    rank, vocabulary = _sorted_words(counted.names)
    rows_with = np.zeros(len(rank), np.int32)
    for start in range(0, len(counted.words), BLOCK_ENTRIES):
        rows_with += np.bincount(rank[counted.words[start : start + BLOCK_ENTRIES]], minlength=len(rank)).astype(
            np.int32
        )
    schema = SCHEMA.with_metadata({"gradsift.mean": json.dumps(mean), "gradsift.rows_with": rows_with.tobytes()})
    size = len(dataset.example_ids)
    with pa.ipc.new_file(handle, schema) as writer:
        for rows in _blocks(counted.size):
            words, often, ends = _entries(counted, rows, rank)
            of_row = np.repeat(counted.length[rows], counted.size[rows])
            weights = _weights(size, rows_with[words], often, of_row, mean)
            pairs = pa.StructArray.from_arrays(
                [pa.DictionaryArray.from_arrays(pa.array(words, pa.int32()), vocabulary), pa.array(weights)],
                fields=list(PAIR),
            )
            columns = [
                pa.array(dataset.example_ids[rows.start : rows.stop], pa.string()),
                pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pairs),
                pa.array(_lengths(weights, ends)),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            progress("weights of words", rows.stop, size)


def _sorted_words(names: Sequence[str]) -> tuple[I32, pa.Array]:
    """[V] the place of each word in alphabetical order, and the words in that order."""
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return rank, pa.array([names[k] for k in order], pa.string())


def _blocks(size: I64) -> Iterator[slice]:
    """Rows in order, of about BLOCK_ENTRIES entries together."""
    ends = np.cumsum(size)
    start = 0
    while start < len(size):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_ENTRIES, side="right")))
        yield slice(start, stop)
        start = stop


def _entries(counted: _Counted, rows: slice, rank: I32) -> tuple[I32, I32, I64]:
    """Words and counts of some rows, side by side, each row's words in order; and where each row ends, from 0."""
    size = counted.size[rows]
    ends = np.concatenate([[0], np.cumsum(size)])
    places = np.repeat(counted.first[rows] - ends[:-1], size) + np.arange(ends[-1])
    words, often = rank[counted.words[places]], counted.often[places]
    order = np.lexsort((words, np.repeat(np.arange(len(size)), size)))
    return words[order], often[order], ends


def _lengths(weights: F32, ends: I64) -> F64:
    lengths = np.zeros(len(ends) - 1)
    some = np.flatnonzero(np.diff(ends))
    if len(some):
        lengths[some] = np.sqrt(np.add.reduceat(np.square(weights.astype(np.float64)), ends[some]))
    return lengths


def _read(source: pa.NativeFile) -> WordIndex:
    """An index from its file, every number of which is checked to be in its bounds first. Raises CorruptionError for a
    file that is none."""
    try:
        with source:
            file = pa.ipc.open_file(source)
            batches = [file.get_batch(k) for k in range(file.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        return _index(batches, file.schema.metadata)
    except (pa.ArrowException, AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise CorruptionError(
            f"what the folder `{kept.FOLDER}` holds is no index of words; delete it: {error}"
        ) from error


def _index(batches: Sequence[pa.RecordBatch], metadata: Mapping[bytes, bytes]) -> WordIndex:
    parts = []
    for batch in batches:
        pairs = batch["words"].values
        ends = batch["words"].offsets.to_numpy().astype(np.int64)
        parts.append(Part(pairs.field(0).indices.to_numpy(), pairs.field(1).to_numpy(), ends))
    return WordIndex(
        pa.chunked_array([batch["example_id"] for batch in batches]),
        batches[0]["words"].values.field(0).dictionary,
        np.frombuffer(metadata[b"gradsift.rows_with"], np.int32),
        json.loads(metadata[b"gradsift.mean"]),
        np.concatenate([batch["length"].to_numpy() for batch in batches]),
        tuple(parts),
    )
