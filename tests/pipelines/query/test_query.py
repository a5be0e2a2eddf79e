"""Questions to a store: which rows are like this one, and how much is much?"""

import numpy as np
import pytest
from asked import query_by_id, query_by_text

from gradsift.datastore import examples, features, runs, selections
from gradsift.datastore.errors import FeatureSpaceMismatch, InputError
from gradsift.datastore.identity import check_comparable
from gradsift.datastore.points import mean_lr
from gradsift.datastore.store import Store
from gradsift.pipelines.query.query import Question, ask


def test_query_by_id_and_by_text(finished):
    _, root, result = finished
    with Store(root) as store:
        chosen = selections.get(store, "small-sql").example_ids
        found = query_by_id(store, chosen[0][:10], 5)
        assert len(found.hits) == 5
        assert chosen[0] not in [h.example_id for h in found.hits]
        cosines = [h.cosine for h in found.hits]
        assert cosines == sorted(cosines, reverse=True)
        answered = query_by_text(store, "Write SQL: the names of all songs whose size is above 3.",
                                 "SELECT name FROM songs WHERE size > 3;", 5)  # fmt: skip
        assert sum(h.source.startswith("sql") for h in answered.hits) >= 3
        for call, words in (
            (lambda: query_by_id(store, "zz", 3), "no example has an id"),
            (lambda: query_by_text(store, "x", "y", 3, 9), "there is no checkpoint 9"),
            (lambda: query_by_text(store, "x", "  ", 3), "the answer is empty"),
            (lambda: query_by_text(store, "long " * 500, "y", 3), "no label token within 128 tokens"),
        ):
            with pytest.raises(InputError, match=words):
                call()


@pytest.fixture(params=["plain rows", "Adam's rows alone"])
def asked(request, copy):
    """The finished store with its plain rows, and as it is without `features.plain_rows`."""
    if request.param != "plain rows":
        plain = [row.space_id for row in runs.last_run(copy).result.rows if row.role == "plain"]
        with copy.catalog.write() as db:
            for space in plain:
                db.execute("DELETE FROM feature_row WHERE space_id=?", (space,))
    return copy


def test_a_row_has_the_same_neighbours_by_its_id_and_by_its_text(asked):
    """Adam's rows share a part: compared with each other, a row about SQL had neighbours of any kind at 0.9."""
    store = asked
    of_one_turn = selections.get(store, "small-sql").example_ids
    others = query_by_id(store, of_one_turn[0], 150).hits
    for example in [of_one_turn[0], of_one_turn[3], others[-1].example_id, others[70].example_id]:
        chat = examples.get_messages(store, [example])[example]
        assert [turn["role"] for turn in chat] == ["user", "assistant"]
        by_id = query_by_id(store, example, 10)
        by_text = query_by_text(store, chat[0]["content"], chat[1]["content"], 11)
        near = [hit for hit in by_text.hits if hit.example_id != example][:10]
        assert [hit.cosine for hit in by_id.hits] == pytest.approx([hit.cosine for hit in near], abs=5e-3)
        assert len({hit.example_id for hit in by_id.hits} & {hit.example_id for hit in near}) >= 9
    kinds = [hit.source.startswith("sql") for hit in query_by_id(store, of_one_turn[0], 10).hits]
    assert sum(kinds) >= 8


def test_an_answer_says_what_a_high_cosine_is(asked):
    chosen = selections.get(asked, "small-sql").example_ids
    found = query_by_id(asked, chosen[0], 3)
    assert found.rows == ("sgd" if gradient_rows(asked, "plain") else "adam_exact")
    usual = found.typical
    assert usual.rows > 100
    assert -0.5 < usual.median < usual.p95 < usual.p99 < usual.highest <= 1
    assert found.hits[0].cosine > usual.p95  # the nearest of 150 rows is not an ordinary pair


def gradient_rows(store, role):
    spaces = [row.space_id for row in runs.last_run(store).result.rows if row.role == role]
    return [i for space in spaces for i in features.ids_with_rows(store, space)]


def test_rows_that_left_the_pool_are_no_answer_unless_asked_for(copy):
    """A row that a later run does not have is still in the store; its number is not in what was asked."""
    example = selections.get(copy, "small-sql").example_ids[0]
    gone = query_by_id(copy, example, 1).hits[0].example_id
    with copy.catalog.write() as db:
        db.execute("DELETE FROM membership WHERE example_id=?", (gone,))
    assert gone not in [hit.example_id for hit in query_by_id(copy, example, 20).hits]
    assert query_by_id(copy, example, 1, everything=True).hits[0].example_id == gone


def test_promise_4_a_query_with_another_model_is_refused(replaced, tally):
    """Its rows may not meet the stored ones."""
    with pytest.raises(FeatureSpaceMismatch, match="model:"):
        query_by_text(replaced, "What is 2 plus 2?", "4", 3)
    tally("a question by another model than that of the rows", promise=4).reported()


def test_a_query_equals_exact_search(finished):
    from gradsift.datastore.search import neighbours

    _, root, result = finished
    with Store(root) as store:
        space = next(r.space_id for r in result.rows if r.role == "pool")
        ids = [r["example_id"] for r in store.catalog.rows(
            "SELECT example_id FROM feature_row WHERE status='ok' AND space_id=? ORDER BY 1", (space,))]  # fmt: skip
        block = features.read_all(store, space, ids)
        found = neighbours(store, space, block.unit()[:5], 7)
        cosines = block.unit() @ block.unit()[:5].T
        for number, near in enumerate(found):
            expected = sorted(range(len(ids)), key=lambda k: (-cosines[k, number], ids[k]))[:7]
            assert {n.example_id for n in near} == {ids[k] for k in expected}
            assert near[0].example_id == ids[number]
            assert near[0].cosine == pytest.approx(1.0, abs=1e-5)


def test_what_is_usual_is_so_for_that_question(asked):
    """A mean is less like any row than two rows are like each other, at both ends: each question has a yardstick of its own."""
    for question in (Question(target="sql"), Question(like=selections.get(asked, "small-sql").example_ids[:2])):
        every = ask(asked, question, 1000)
        cosines = [hit.cosine for hit in every.hits]  # of all rows, fewer than a sample has
        usual = every.typical
        assert usual.rows == len(cosines)
        expected = np.quantile(cosines, (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1))
        told = (usual.lowest, usual.p1, usual.p5, usual.median, usual.p95, usual.p99, usual.highest)
        assert told == pytest.approx(expected, abs=2e-3)


def test_rows_of_two_extractors_that_differ_in_a_signal_alone_can_be_compared(finished):
    with Store(finished[1]) as store:
        spec = dict(features.space_spec(store, finished[2].pool_rows[-1].space_id))
    check_comparable(spec | {"extractor": 2}, spec | {"extractor": 3, "transform": "sgd"})
    with pytest.raises(FeatureSpaceMismatch, match="extractor: 1 against 3"):
        check_comparable(spec | {"extractor": 1}, spec)


def test_all_checkpoints_are_asked_at_once(copy):
    """The sum of each checkpoint's cosines, weighted by mean learning rates, as LESS adds them."""
    example = selections.get(copy, "small-sql").example_ids[0]
    last = runs.last_run(copy)
    ordinals = [row.checkpoint for row in last.result.pool_rows]
    rates = [mean_lr(copy, row.space_id) for row in last.result.pool_rows]
    assert len(ordinals) > 1
    cosines = [{h.example_id: h.cosine for h in query_by_id(copy, example, 500, at).hits} for at in ordinals]
    expected = {i: sum(r * c[i] for r, c in zip(rates, cosines, strict=True)) / sum(rates) for i in cosines[0]}
    found = query_by_id(copy, example, 10, "all")
    assert found.checkpoint == "all"
    assert [h.cosine for h in found.hits] == pytest.approx(sorted(expected.values())[:-11:-1], abs=2e-4)
    assert [h.cosine for h in found.hits] == pytest.approx([expected[h.example_id] for h in found.hits], abs=2e-4)
    assert found.typical.lowest < found.typical.p5 < found.typical.median < found.typical.p99
    with pytest.raises(InputError, match="at one checkpoint"):
        query_by_id(copy, example, 10, "all", index="auto")


def test_a_text_can_be_asked_at_all_checkpoints(copy):
    example = selections.get(copy, "small-sql").example_ids[0]
    chat = examples.get_messages(copy, [example])[example]
    by_text = query_by_text(copy, chat[0]["content"], chat[1]["content"], 3, "all")
    assert by_text.hits[0].example_id == example
    assert by_text.hits[0].cosine > 0.9


def test_opposed_rows_are_those_with_the_lowest_cosines(asked):
    example = selections.get(asked, "small-sql").example_ids[0]
    everyone = query_by_id(asked, example, 500).hits
    found = query_by_id(asked, example, 5, opposed=True)
    assert found.opposed
    assert [h.cosine for h in found.hits] == [h.cosine for h in everyone[:-6:-1]]
    assert found.hits[0].cosine < found.typical.median
