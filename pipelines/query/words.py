"""Words as a space: BM25's weights of a text's words, compared by cosine.

    w(d, t) = idf(t) · f / (f + k1·(1 − b + b·|d|/mean|d|))        similarity(d, q) = w(d)·w(q) / (‖w(d)‖·‖w(q)‖)

Departure: BM25 scores a text d for a query q by Σ_{t∈q} w(d, t), each word of q as often as it stands there. That is
not bounded, and a long text that repeats the words of q scores higher than q itself does; so "like this row" would not
begin with the row. Here a question is weighted as a text of the pool is: the cosine is 1 for a row's own text and for
texts with the same words as often, and never above; 0 without a common word. `scores` are the classical ones. Words
that no text of the pool has count for the length of a question; questions are averaged and subtracted like all others.

Of the pool's members alone: idf and the mean length are theirs, whatever filters leave. Rows lie in an index that this
host keeps (`word_index.py`). Legend: Q questions, N rows, V words of the vocabulary, k neighbours.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from gradsift.datastore import examples, kept
from gradsift.datastore.chats import Messages, text
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import last_run
from gradsift.datastore.search import SAMPLE, Typical, usual
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.query.spaces import Found, Kind, Near
from gradsift.pipelines.query.stored import chats_of, unit
from gradsift.pipelines.query.word_index import F32, F64, I64, KIND, KIND_OF_ALL, WordIndex, open_index

MOST_NUMBERS = 1 << 28  # of questions, 4 bytes each
_one = Lock()  # two requests at once build one index
_opened: "WeakKeyDictionary[Store, dict[str, tuple[str, WordIndex]]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Words:
    """The words of the last run's pool."""

    store: Store
    index: WordIndex
    name: Kind = "bm25"
    rows: str = "cosine of BM25 weights"
    needs_answers: bool = False
    checkpoint: None = None

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that are stored, in their order: each has a text."""
        stored = examples.known_ids(self.store, ids)
        return [i for i in ids if i in stored]

    def of_ids(self, ids: Sequence[str]) -> F32:
        """[Q, V] rows of stored examples, of the pool or not."""
        return self.of_chats(chats_of(self.store, ids))

    def of_chats(self, chats: Sequence[Messages]) -> F32:
        """[Q, V] rows of chats, of length 1 with the words that the pool lacks. Raises InputError for one without a
        word, and for more chats than MOST_NUMBERS allows."""
        if len(chats) > (most := max(1, MOST_NUMBERS // len(self.index.vocabulary))):
            raise InputError(f"with a vocabulary of {len(self.index.vocabulary):,} words, ask {most:,} chats at a time")
        questions = np.zeros((len(chats), len(self.index.vocabulary)), np.float32)
        for number, chat in enumerate(chats):
            words, weights, length = self.index.row(text(chat))
            if not length:
                raise InputError(f"chat {number + 1} of the questions has no word to search with")
            questions[number, words] = weights / length
        return questions

    def unit(self, questions: F32) -> F32:
        """[Q, V] questions of length 1."""
        return unit(questions)

    def near(self, questions: F32, k: int, *, ids: Sequence[str] | None = None, opposed: bool = False) -> Found:
        """The k members of the pool (of these ids, if any) with the highest cosine to each of [Q, V] questions, or the
        lowest: then many have 0. Cost O(entries of the index) for each question; memory a number for each row."""
        if questions.ndim != 2 or questions.shape[1] != len(self.index.vocabulary):
            raise InputError(
                f"questions of shape {questions.shape} do not fit a vocabulary of {len(self.index.vocabulary)} words"
            )
        some = None if ids is None else self.index.numbers(ids)
        found = [_best(self.index.cosines(question), some, k, opposed) for question in questions]
        names = [self.index.names(numbers) for numbers, _ in found]
        return Found(
            [[Near(*pair) for pair in zip(of, values.tolist(), strict=True)]
             for of, (_, values) in zip(names, found, strict=True)]
        )  # fmt: skip

    def scores(self, text: str, ids: Sequence[str]) -> list[float]:
        """Classical BM25 scores of those members of the pool for a text, as `bm25s` has them; 0 for any other id."""
        words, often, _ = self.index.counts(text)
        question = np.zeros(len(self.index.vocabulary))
        question[words] = often
        numbers = self.index.numbers(ids)
        scores = self.index.some(numbers).products(question)
        of = dict(zip(self.index.names(numbers), scores.tolist(), strict=True))
        return [of.get(i, 0.0) for i in ids]

    def typical(self, questions: F32, without: Sequence[Collection[str]]) -> list[Typical | None]:
        """Cosines of each of [Q, V] questions with random rows, but for the examples in its `without`."""
        numbers = np.arange(min(SAMPLE, len(self.index)))  # by id, which are digests and so random
        some, lengths = self.index.some(numbers), np.maximum(self.index.lengths[numbers], np.finfo(np.float64).tiny)
        cosines = np.stack([some.products(question.astype(np.float64)) / lengths for question in questions])
        return usual(cosines, self.index.names(numbers), without)


def open_words(store: Store, *, everything: bool = False, progress: Progress = quiet) -> Words:
    """The words of the last run's pool, or, with `everything`, of all that it read for the pool, what screening left
    out as well; the index is built where this host has none of these members. Raises InputError for a pool without a
    word, and for a run of an older version, BusyError where examples were deleted meanwhile."""
    pool = last_run(store).result.ingest.pool
    if pool.used_dataset_id is None:
        raise InputError("the store's last run is of an older version; run its recipe again")
    number, kind = pool.used_dataset_id, KIND
    if everything and pool.left < pool.examples:
        name = examples.get_dataset(store, number).name
        number, kind = examples.find_dataset(store, "pool", name, pool.digest).dataset_id, KIND_OF_ALL
    key = kept.key_of(store, number)
    with _one:
        opened = _opened.setdefault(store, {})
        if kind not in opened or opened[kind][0] != key:
            opened[kind] = key, open_index(store, number, progress, kind)
        return Words(store, opened[kind][1])


def _best(values: F64, some: I64 | None, k: int, opposed: bool) -> tuple[I64, F64]:
    """Numbers and values of the k highest (or lowest) of the values, of some of them if given; equal ones by number,
    which is the order of ids."""
    numbers = np.arange(len(values)) if some is None else some
    of = -values[numbers] if opposed else values[numbers]
    if k < len(of):
        kth = np.partition(of, len(of) - k)[len(of) - k]
        above, equal = np.flatnonzero(of > kth), np.flatnonzero(of == kth)
        chosen = np.concatenate([above, equal[: k - len(above)]])
        numbers, of = numbers[chosen], of[chosen]
    order = np.lexsort((numbers, -of))
    return numbers[order], (-of if opposed else of)[order]
