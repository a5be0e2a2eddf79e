"""Every space, with every filter, gives what a look at all rows gives; and a row's own text finds the row."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from gradsift.datastore import chats, examples, features, runs, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.query import questions
from gradsift.pipelines.query.filters import Filter, Of, Range, matching
from gradsift.pipelines.query.opening import open_space
from gradsift.pipelines.query.query import Question, Where, ask
from gradsift.scorers.lexical import WORDS

SPACES = ["gradients", "embedding", "encoder", "bm25"]
FILTERS = {
    "no filter": Filter(),
    "source": Filter(sources=("sql", "medicine")),
    "chars": Filter(chars=Range(80, 400)),
    "loss": lambda losses, _scores: Filter(loss=Range(None, float(np.median(losses)))),
    "score": lambda _losses, scores: Filter(score=Of("small-sql", Range(float(np.median(scores)), None))),
    "selected in": Filter(selected_in="small-sql"),
    "predicate": Filter(where="line % 2 = 1 AND source <> 'sql'"),
    "all examples, of targets too": Filter(where="chars > 0"),
}
CLOSE = 1e-6


@pytest.fixture(scope="module")
def store(searched):
    with Store(searched) as opened:
        yield opened


@pytest.fixture(scope="module")
def pool(store):
    return examples.get_dataset(store, runs.last_run(store).result.ingest.pool.used_dataset_id).example_ids


@pytest.fixture
def filters(request, store, pool):
    """The filter of that name; those of what a run measured look at half of the rows."""
    made = FILTERS[request.param]
    if isinstance(made, Filter):
        return made
    losses = features.read_all(store, runs.last_run(store).result.pool_rows[-1].space_id, pool).signal("loss")
    return made(losses, selections.details(store, selections.get(store, "small-sql"))["score"].to_numpy())


@pytest.fixture(scope="module")
def cosines(store, pool):
    """{space: {row: {question: similarity}}} from the definitions, with nothing of what searches."""
    found = {name: of_vectors(rows) for name, rows in stored_rows(store, pool).items()}
    return found | {"bm25": of_vectors(word_rows(store, pool))}


def of_vectors(rows):
    names, matrix = list(rows), np.array(list(rows.values()), np.float64)
    products = matrix @ matrix.T
    return {a: dict(zip(names, row.tolist(), strict=True)) for a, row in zip(names, products, strict=True)}


def stored_rows(store, pool):
    result = runs.last_run(store).result
    plain = next(row.space_id for row in reversed(result.rows) if row.role == "plain")
    (of_encoder,) = features.spaces_of(store, "encoder")
    of_pool = features.read_all(store, result.pool_rows[-1].space_id, pool)
    embeddings = of_pool.signal("embedding").astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = {"embedding": dict(zip(of_pool.example_ids, embeddings, strict=True))}
    for name, space in (("gradients", plain), ("encoder", of_encoder)):
        block = features.read_all(store, space, pool)
        found[name] = dict(zip(block.example_ids, block.unit(), strict=True))
    return found


def word_rows(store, pool):
    """Rows of BM25's weights, of length 1, by its equation."""
    counted = {
        i: Counter(word.lower() for word in WORDS.findall(chats.text(chat)))
        for i, chat in examples.get_messages(store, pool).items()
    }
    rows_with = Counter(word for words in counted.values() for word in words)
    mean = sum(words.total() for words in counted.values()) / len(counted)
    rows = {}
    for i, words in counted.items():
        k = 1.5 * (1 - 0.75 + 0.75 * words.total() / mean)
        weight = {
            w: math.log(1 + (len(pool) - rows_with[w] + 0.5) / (rows_with[w] + 0.5)) * n / (n + k)
            for w, n in words.items()
        }
        length = math.sqrt(sum(value**2 for value in weight.values()))
        rows[i] = [weight.get(w, 0.0) / length for w in rows_with]
    return rows


@pytest.mark.parametrize("opposed", [False, True], ids=["top", "bottom"])
@pytest.mark.parametrize("filters", FILTERS, indirect=True)
@pytest.mark.parametrize("name", SPACES)
def test_a_search_equals_a_look_at_all_rows(store, pool, cosines, name, filters, opposed):
    space = open_space(store, name)
    ids = matching(store, filters) if filters else None
    left = [i for i in (pool if ids is None else ids) if i in cosines[name]]
    assert 0 < len(left) < len(pool) or filters in (FILTERS["no filter"], FILTERS["all examples, of targets too"])
    asked = [pool[0], pool[40], pool[-1]]
    rows = space.of_ids(asked)
    for k in (1, 40, 1000):  # of the three shards each has 32 rows
        found = space.near(rows, k, ids=ids, opposed=opposed).near
        for question, near in zip(asked, found, strict=True):
            sign = -1 if opposed else 1
            value = {i: sign * cosines[name][question][i] for i in left}
            best = sorted(left, key=lambda i: (-value[i], i))[:k]
            assert len({one.example_id for one in near}) == len(near) == len(best)
            assert [sign * one.similarity for one in near] == pytest.approx([value[i] for i in best], abs=CLOSE)
            for one, other in itertools.pairwise(near):
                gap = value[one.example_id] - value[other.example_id]
                assert gap > -CLOSE
                if one.similarity == other.similarity:
                    assert one.example_id < other.example_id
            certain = {i for i in left if value[i] > value[best[-1]] + CLOSE}
            assert certain <= {one.example_id for one in near}


@pytest.mark.parametrize("name", SPACES)
def test_rows_that_are_alike_come_in_the_order_of_their_ids(store, pool, name):
    """At the other end many texts have no word in common: all have 0."""
    space = open_space(store, name)
    near = space.near(space.of_ids([pool[7]]), len(pool), opposed=True).near[0]
    assert near == sorted(near, key=lambda one: (one.similarity, one.example_id))
    if name == "bm25":
        assert sum(one.similarity == 0 for one in near) > 10


@pytest.mark.parametrize("name", SPACES)
def test_the_text_of_a_stored_row_finds_that_row(store, pool, name):
    """First, with similarity 1 within rounding, whatever else a filter leaves."""
    chosen = selections.get(store, "small-sql").example_ids
    asked = [chosen[0], *(i for i in pool if i not in chosen)][:24:6]
    texts = examples.get_messages(store, asked)
    sources = examples.sources_of(store, asked)
    for example in asked:
        narrow = Filter(sources=(sources[example].source,), chars=Range(0, None), where="line > 0")
        for filters in (Filter(), narrow):
            answered = ask(store, Question(chats=[texts[example]]), 3, Where(space=name, filters=filters))
            assert answered.hits[0].example_id == example
            assert answered.hits[0].similarity == pytest.approx(1, abs=2e-3)
            assert answered.hits[1].similarity <= answered.hits[0].similarity + 1e-3


@pytest.mark.parametrize("name", SPACES)
def test_a_question_by_id_and_by_text_has_the_same_answers(store, pool, name):
    (text,) = examples.get_messages(store, pool[5:6]).values()
    by_id = ask(store, Question(id=pool[5]), 10, Where(space=name))
    by_text = ask(store, Question(chats=[text]), 11, Where(space=name))
    assert pool[5] not in [hit.example_id for hit in by_id.hits]
    others = [hit for hit in by_text.hits if hit.example_id != pool[5]]
    assert [hit.similarity for hit in by_id.hits] == pytest.approx([hit.similarity for hit in others], abs=5e-3)
    assert by_id.space == name
    usual = by_id.typical
    assert usual.lowest <= usual.median <= usual.highest <= 1.001


@pytest.mark.parametrize("name", SPACES)
def test_a_difference_is_the_mean_of_some_less_that_of_others(store, pool, cosines, name, monkeypatch):
    monkeypatch.setattr(questions, "PART", 2)  # of three
    like, unlike = pool[:3], pool[10:12]
    found = ask(store, Question(like=like, unlike=unlike), 20, Where(space=name))
    c = cosines[name]
    value = {
        i: sum(c[q][i] for q in like) / len(like) - sum(c[q][i] for q in unlike) / len(unlike)
        for i in pool
        if i in c and i not in (*like, *unlike)
    }
    best = sorted(value, key=lambda i: (-value[i], i))[:20]
    scale = found.hits[0].similarity / value[best[0]]  # of the difference's length
    assert [hit.similarity for hit in found.hits] == pytest.approx([scale * value[i] for i in best], abs=1e-3)
    assert {hit.example_id for hit in found.hits[:10]} <= set(best)
