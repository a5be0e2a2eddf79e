"""What screening reads of each chat's text, computed once and kept: MinHash signatures, and n-grams of test questions.

Workers compute these shard by shard of the examples, where a run has some; whatever is missing then, the reader
computes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import attributes, examples
from gradsift.datastore.chats import Messages, text
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.pipelines.model.pieces import MOST_PIECES, finish
from gradsift.pipelines.model.work import Order, Work
from gradsift.pipelines.recipe import MinHash
from gradsift.scorers import contamination, dedup
from gradsift.scorers.contamination import Index
from gradsift.scorers.ngrams import grams, word_hashes

VERSION = 1
U32 = NDArray[np.uint32]


class Reading(Protocol):
    """Values of chats: what decides them, and what computes them in any process."""

    @property
    def spec(self) -> Spec:
        """All that decides the values."""
        ...

    def compute(self, work: Work) -> attributes.Compute:
        """The function that computes them."""
        ...


@dataclass(frozen=True)
class Signatures:
    """`signature` ([P] MinHash) and `whole` (a hash of the whole text) of a chat."""

    permutations: int
    ngram: int

    @property
    def spec(self) -> Spec:
        """All that decides the values."""
        return {"kind": "minhash", "version": VERSION, "permutations": self.permutations, "ngram": self.ngram}

    def compute(self, _work: Work) -> attributes.Compute:
        """The function that computes them."""

        def signatures(chats: Sequence[Messages]) -> Mapping[str, pa.Array]:
            texts = [words(text_of(chat)) for chat in chats]
            flat = pa.array(self.sign(texts).reshape(-1), pa.uint32())
            whole = [int(grams(hashes, len(hashes))[0]) for hashes in texts]
            return {
                "signature": pa.FixedSizeListArray.from_arrays(flat, self.permutations),
                "whole": pa.array(whole, pa.uint64()),
            }

        return signatures

    def sign(self, texts: Sequence[NDArray[np.uint64]]) -> U32:
        """[N, P] signatures of texts given as word hashes."""
        return dedup.signatures((grams(hashes, self.ngram) for hashes in texts), self.permutations)


def signatures_of(settings: MinHash) -> Signatures:
    """The signatures that a recipe's section asks for."""
    return Signatures(settings.permutations, settings.ngram)


@dataclass(frozen=True)
class Leaks:
    """`ngrams` of a chat: numbers of the n-grams of the references' user turns that its own user turns have."""

    ngram: int
    references: tuple[int, ...]  # datasets
    turns: str  # the fingerprint of their user turns

    @property
    def spec(self) -> Spec:
        """All that decides the values."""
        return {"kind": "leaks", "version": VERSION, "ngram": self.ngram, "turns": self.turns}

    def compute(self, work: Work) -> attributes.Compute:
        """The function that computes them."""
        known = work.kept.get(self)
        if known is None:
            chats = reference_chats(work, [examples.get_dataset(work.store, number) for number in self.references])
            known = work.kept[self] = index(turns_of(chats), self.ngram)

        def leaks(chats: Sequence[Messages]) -> Mapping[str, pa.Array]:
            hits = [contamination.hits(known, word_hashes("\n".join(questions(chat)))) for chat in chats]
            return {"ngrams": pa.array(hits, pa.list_(pa.int32()))}

        return leaks


def index(turns: Sequence[str], ngram: int) -> Index:
    """The n-grams of turns."""
    return contamination.index([word_hashes(turn) for turn in turns], ngram)


def leaks_of(ngram: int, references: Sequence[Dataset], chats: Mapping[str, Messages]) -> Leaks:
    """What to look for in chats; `chats` are those of the references."""
    return Leaks(ngram, tuple(dataset.dataset_id for dataset in references), fingerprint(turns_of(chats)))


def reference_chats(work: Work, references: Sequence[Dataset]) -> dict[str, Messages]:
    """The chats of the datasets that leaks are looked for of."""
    return examples.get_messages(work.store, sorted({i for dataset in references for i in dataset.example_ids}))


def turns_of(chats: Mapping[str, Messages]) -> list[str]:
    """User turns of chats, in the order of their ids."""
    return [asked for i in sorted(chats) for asked in questions(chats[i])]


def questions(chat: Messages) -> list[str]:
    """The user turns of a chat."""
    return [turn["content"] for turn in chat if turn["role"] == "user"]


def text_of(messages: Messages) -> str:
    """What duplicates and leaks are looked for in: all turns but the system's, one a line."""
    return text(turn for turn in messages if turn["role"] != "system")


def words(text: str) -> NDArray[np.uint64]:
    """Hashes of a text's words and signs."""
    return word_hashes(text, signs=True)


def read(work: Work, reading: Reading, pool: Dataset, label: str) -> Iterator[pa.Table]:
    """Tables of `example_id` and the values of the pool's members, shard by shard; what is missing is computed."""
    if work.spread is not None:
        _have_made(work, reading, pool, label)

    def report(done: int, total: int) -> None:
        if work.spread is None:
            work.progress(label, done, total)

    yield from attributes.attribute(work.store, reading.spec, pool.dataset_id, reading.compute(work), report)


@dataclass(frozen=True)
class ReadingPiece:
    """Shards of examples whose values are to be computed."""

    name: str
    order: Order
    reading: Reading
    shards: tuple[int, ...]
    rows: int
    alone = False

    def run(self, work: Work) -> None:
        """Compute and commit what is missing of them."""
        compute = self.reading.compute(work)
        for shard in self.shards:
            attributes.make(work.store, self.reading.spec, shard, compute)


def _have_made(work: Work, reading: Reading, pool: Dataset, label: str) -> None:
    order = work.order(model=False)
    first = attributes.missing(work.store, reading.spec, pool.dataset_id)
    total, made = sum(first.values()), 0

    def left() -> list[ReadingPiece]:
        missing = attributes.missing(work.store, reading.spec, pool.dataset_id)
        shards, size = list(missing), max(1, -(-len(missing) // MOST_PIECES))
        groups = [tuple(shards[start : start + size]) for start in range(0, len(shards), size)]
        return [
            ReadingPiece(f"{label} {number}/{len(groups)}", order, reading, group, sum(missing[s] for s in group))
            for number, group in enumerate(groups, 1)
        ]

    def done(piece: ReadingPiece) -> None:
        nonlocal made
        made = min(total, made + piece.rows)
        work.progress(label, made, total)

    finish(work, left, done)
