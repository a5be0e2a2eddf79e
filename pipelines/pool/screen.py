"""Stage: leave near-duplicates and leaked test rows out of a pool. Marks in the catalog; nothing is deleted.

In this order, each among what is left:

| reason | marked when | similarity is |
|---|---|---|
| `leak_ngrams` | its user turns cover a user turn of a target's or test's chat | share of the turn's words |
| `leak_near_duplicate` | the whole chat is a near-duplicate of such a chat | estimated Jaccard index |
| `exact` | same words and signs as another row | 1 |
| `near_duplicate` | near-duplicate of a row that stays | estimated Jaccard index |
| `semantic` | cosine above 1 − ε within a cluster | cosine |

Leaks by n-grams are looked for in what users ask, as Tülu 3 does: answers of one kind (SQL, code, proofs) share
n-grams without being leaks. Otherwise texts are all turns but the system's, which rows of a source often share. Of rows
that repeat each other, the one of the preferred source stays, then the one with the smaller id, so the order of files
does not matter. The same
pool and settings are screened once; signatures are kept in the store. Cost: about 0.2 ms a row of 200 words and core,
4·P bytes a row in memory.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import examples, marks
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec
from gradsift.datastore.marks import Mark
from gradsift.datastore.runs import Json, LeftOut
from gradsift.datastore.store import Store
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.signatures import (
    U32,
    VERSION,
    index,
    leaks_of,
    questions,
    read,
    reference_chats,
    signatures_of,
    text_of,
    turns_of,
    words,
)
from gradsift.pipelines.recipe import Decontaminate, Dedup, MinHash
from gradsift.scorers import contamination, dedup


@dataclass(frozen=True)
class Screened:
    """A pool without its marked rows, what was left out by reason, and the screening's number (0: none was asked)."""

    pool: Dataset
    left_out: list[LeftOut]
    screening: int


def screen(work: Work, pool: Dataset, references: Sequence[Dataset]) -> Screened:
    """The pool without near-duplicates and leaks. `references` are the targets' and tests' datasets.

    Raises InputError when nothing is left, or a `keep` id is not in the pool.
    """
    wanted = _references(work.recipe.decontaminate, references)
    settings = work.recipe.model_dump(mode="json", include={"dedup", "decontaminate"})
    spec = {
        "version": VERSION,
        "pool": pool.digest,
        "settings": _deciding(settings),
        "references": sorted([dataset.role, dataset.name, dataset.digest] for dataset in wanted),
    }
    return screened(work.store, pool, spec, lambda: _marks(work, pool, wanted))


def screened(
    store: Store, pool: Dataset, spec: Spec, make: Callable[[], Sequence[Mark]], lane: str = "screened"
) -> Screened:
    """The pool without the marks of the screening with this spec, which are made and recorded if that is new.

    Raises InputError when nothing is left.
    """
    marked = marks.find(store, spec)
    if marked is None:
        marked = marks.save(store, spec, make())
    return Screened(_without(store, pool, marked, lane), left_out(store, marked), marks.number(store, spec))


def _without(store: Store, pool: Dataset, marked: Sequence[Mark], lane: str) -> Dataset:
    gone = {mark.example_id for mark in marked}
    kept = [i for i in pool.example_ids if i not in gone]
    if not kept:
        raise InputError(f"screening leaves nothing of pool {pool.name!r}; loosen `dedup` or `decontaminate`")
    if len(kept) == len(pool.example_ids):
        return pool
    return examples.define_dataset(store, "pool", pool.name, dict.fromkeys(kept, ""), lane)


def left_out(store: Store, marked: Sequence[Mark]) -> list[LeftOut]:
    """What marks leave out: one entry for each reason, with its sources."""
    sources = examples.sources_of(store, [mark.example_id for mark in marked])
    entries = []
    for reason in sorted({mark.reason for mark in marked}):
        by_source = Counter(sources[mark.example_id].source for mark in marked if mark.reason == reason)
        entries.append(LeftOut(reason, by_source.total(), dict(by_source.most_common())))
    return entries


def _deciding(settings: Json) -> Json:
    """Settings without paths and without what runs later."""
    if settings["dedup"]:
        settings["dedup"] = {k: v for k, v in settings["dedup"].items() if k != "semantic"}
    if settings["decontaminate"]:
        settings["decontaminate"] = {k: v for k, v in settings["decontaminate"].items() if k not in ("against", "sets")}
    return settings


def _references(settings: Decontaminate | None, references: Sequence[Dataset]) -> list[Dataset]:
    if settings is None:
        return []
    extra = set(settings.sets)
    return [dataset for dataset in references if dataset.role in settings.against or dataset.name in extra]


def _marks(work: Work, pool: Dataset, references: Sequence[Dataset]) -> list[Mark]:
    store, leaks, twins = work.store, work.recipe.decontaminate, work.recipe.dedup
    ids = np.array(pool.example_ids)
    gone = np.zeros(len(ids), bool)
    made: list[Mark] = []

    def mark(positions: NDArray[np.int64], reason: str, twin: Sequence[str], similarity: Sequence[float]) -> None:
        keep = set((leaks.keep if reason.startswith("leak") and leaks else twins.keep if twins else []) or [])
        for k, other, value in zip(positions.tolist(), twin, similarity, strict=True):
            if ids[k] not in keep and not gone[k]:
                gone[k] = True
                made.append(Mark(str(ids[k]), reason, str(other), round(float(value), 6)))

    for keep in (leaks.keep if leaks else [], twins.keep if twins else []):
        if unknown := sorted(set(keep) - set(pool.example_ids)):
            raise InputError(f"`keep`: the pool has no example {unknown[0]!r}")
    if leaks and references:
        chats = reference_chats(work, references)
        item, share = _covered(work, leaks, pool, references, chats)
        over = np.flatnonzero(share > leaks.share)
        owners = [i for i in sorted(chats) for _ in questions(chats[i])]
        mark(over, "leak_ngrams", [owners[item[k]] for k in over], share[over].tolist())
        if leaks.minhash:
            mine, _ = _signatures(work, pool, leaks.minhash)
            names = sorted(chats)
            theirs = signatures_of(leaks.minhash).sign([words(text_of(chats[i])) for i in names])
            nearest = dedup.like_any(mine, theirs, leaks.minhash.threshold)
            hit = np.flatnonzero(nearest.twin >= 0)
            mark(hit, "leak_near_duplicate", [names[k] for k in nearest.twin[hit]], nearest.similarity[hit].tolist())
    if twins and (twins.exact or twins.minhash):
        signature, whole = _signatures(work, pool, twins.minhash or MinHash())
        order = _preference(store, pool, twins)
        if twins.exact:
            left = order[~gone[order]]
            repeated, first = _repeats(whole[left])
            mark(left[repeated], "exact", ids[left[first]].tolist(), [1.0] * len(first))
        if twins.minhash:
            left = order[~gone[order]]
            near = dedup.near_duplicates(signature[left], twins.minhash.threshold)
            hit = np.flatnonzero(near.twin >= 0)
            mark(left[hit], "near_duplicate", ids[left[near.twin[hit]]].tolist(), near.similarity[hit].tolist())
    return made


def _repeats(values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(positions of values seen before, positions of their first occurrence)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    source = first[inverse]
    repeated = np.flatnonzero(source != np.arange(len(values)))
    return repeated, source[repeated]


def _preference(store: Store, pool: Dataset, settings: Dedup) -> NDArray[np.int64]:
    """Positions in the pool, the preferred first: kept ids, preferred sources, smaller ids."""
    rank = {source: k for k, source in enumerate(settings.prefer)}
    group = np.full(len(pool.example_ids), len(rank))
    if rank:
        sources = examples.sources_of(store, pool.example_ids)
        if unknown := sorted(set(rank) - {known.source for known in sources.values()}):
            raise InputError(f"dedup.prefer: the pool has no source {unknown[0]!r}")
        group = np.array([rank.get(sources[i].source, len(rank)) for i in pool.example_ids])
    held = np.isin(np.array(pool.example_ids), np.array(settings.keep or [""]))
    return np.lexsort((np.arange(len(group)), group, ~held)).astype(np.int64)


def _signatures(work: Work, pool: Dataset, settings: MinHash) -> tuple[U32, NDArray[np.uint64]]:
    """([N, P] MinHash signatures, [N] hash of the whole text) of the pool, in its order."""
    signature = np.zeros((len(pool.example_ids), settings.permutations), np.uint32)
    whole = np.zeros(len(pool.example_ids), np.uint64)
    names = np.array(pool.example_ids, "S32")
    for table in read(work, signatures_of(settings), pool, f"signatures of {pool.name}"):
        positions = np.searchsorted(names, np.array(table["example_id"].to_pylist(), "S32"))
        values = table["signature"].combine_chunks()
        signature[positions] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, settings.permutations)
        whole[positions] = table["whole"].to_numpy()
    return signature, whole


def _covered(
    work: Work, settings: Decontaminate, pool: Dataset, references: Sequence[Dataset], chats: Mapping[str, Messages]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """([N] number of the turn that a row covers most, [N] share of it)."""
    leaks = leaks_of(settings.ngram, references, chats)
    known = work.kept[leaks] = index(turns_of(chats), settings.ngram)
    hits_of = [np.zeros(0, np.int64)] * len(pool.example_ids)
    texts_with = np.zeros(len(known.keys), np.int64)
    names = np.array(pool.example_ids, "S32")
    for table in read(work, leaks, pool, f"leaks into {pool.name}"):
        hit = table.filter(pc.greater(pc.list_value_length(table["ngrams"]), 0))
        positions = np.searchsorted(names, np.array(hit["example_id"].to_pylist(), "S32"))
        for position, ngrams in zip(positions.tolist(), hit["ngrams"].to_pylist(), strict=True):
            hits_of[position] = np.array(ngrams, np.int64)
            texts_with[hits_of[position]] += 1
    del work.kept[leaks]
    counts = contamination.rare(known, texts_with, settings.common)
    return contamination.most_covered(known, hits_of, counts)
