"""Selections to look at: listed, paged, compared; sources before and after."""

import pytest

from gradsift.datastore import choices, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.quarantine import Asked
from gradsift.datastore.store import Store
from gradsift.pipelines.export.diff import diff
from gradsift.pipelines.query.compare import compare
from gradsift.pipelines.query.sources import OTHER, Sources, Stage, sources, stayed


@pytest.fixture
def store(browsed):
    with Store(browsed, create=False) as opened:
        yield opened


def test_choices_are_listed_and_paged_without_reading_all_rows(store):
    listed = choices.choices(store)
    assert {one.name for one in listed} >= {"small-sql", "small-qtuning-sql", "small-random-sql"}
    for one in listed:
        whole = selections.by_number(store, one.selection_id)
        assert (one.examples, one.rows) == (len(whole.example_ids), whole.rows)
        assert selections.number_of(store, one.reference) == one.selection_id
        assert choices.choice(store, one.selection_id) == one
        paged = [
            item for first in range(0, one.examples, 5) for item in choices.items(store, one.selection_id, first, 5)
        ]
        assert [(item.rank, item.example_id, item.score) for item in paged] == [
            (rank, *pair) for rank, pair in enumerate(zip(whole.example_ids, whole.scores, strict=True))
        ]
        facts = selections.facts(store, whole)
        assert ([item.source for item in paged], [item.chars for item in paged]) == (facts.sources, facts.chars)
        counts = choices.by_source(store, one.selection_id)
        assert counts == {source: facts.sources.count(source) for source in facts.sources}
        assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_a_comparison_says_what_moved(store):
    names = ("small-random-sql", "small-qtuning-sql")
    found = compare(store, *names, shown=100)
    assert found.difference == diff(store, *names, 100)
    a, b = (selections.get(store, name) for name in names)
    both = set(a.example_ids) & set(b.example_ids)
    assert found.jaccard == len(both) / len(set(a.example_ids) | set(b.example_ids))
    assert both
    assert {move.example_id for move in found.moves} == {
        i for i in both if a.example_ids.index(i) != b.example_ids.index(i)
    }
    for move in found.moves:
        assert (move.rank_a, move.rank_b) == (
            a.example_ids.index(move.example_id),
            b.example_ids.index(move.example_id),
        )
        assert move.up == move.rank_a - move.rank_b
        assert move.score_a == a.scores[move.rank_a]
    assert [abs(move.up) for move in found.moves] == sorted((abs(move.up) for move in found.moves), reverse=True)
    assert sum(shift.a for shift in found.sources) == a.rows
    assert sum(shift.b for shift in found.sources) == b.rows
    assert abs(sum(shift.share_a for shift in found.sources) - 1) < 1e-9


def test_a_selection_is_itself_and_a_pool_has_no_ranks(store):
    same = compare(store, "small-sql@1", "small-sql@1")
    assert (same.jaccard, same.moves, same.difference.only_a) == (1.0, [], 0)
    pool = compare(store, "pool@1", "small-sql")
    assert pool.moves == []
    assert pool.difference.only_b == 0


def test_no_name_is_taken_for_a_path(store, tmp_path):
    for name in (str(store.root), "/etc/passwd", "../..", str(tmp_path)):
        with pytest.raises(InputError, match="no selection"):
            compare(store, "small-sql", name)


def test_sources_go_from_the_pool_to_what_was_chosen(store):
    found = sources(store)
    pool = runs.last_run(store, computed=True).result.ingest.pool
    assert found.run == "small"
    assert [stage.name for stage in found.stages][:2] == ["pool", "after screening"]
    assert {stage.name for stage in found.stages[2:]} >= {"small-sql", "small-qtuning-sql", "small-random-sql"}
    assert found.stages[0].by_source == pool.by_source
    assert found.stages[0].rows == pool.examples
    for stage in found.stages:
        assert sum(found.rows(stage, source) for source in found.sources) == stage.rows
        assert sum(found.share(stage, source) for source in found.sources) == pytest.approx(1)
    assert found.funnel[0]["rows"] == pool.rows_read
    every = stayed(store, Asked(), 0, 1000)
    assert sum(kind.rows for kind in found.kinds) == len(every)
    assert [one for first in range(0, len(every), 2) for one in stayed(store, Asked(), first, 2)] == every


def test_many_sources_are_shown_as_the_largest_and_all_others():
    stage = Stage("pool", "", {f"s{k:02}": 100 - k for k in range(50)})
    from gradsift.pipelines.query.sources import _order

    found = Sources("r", [stage], _order([stage]), [], [], [])
    assert found.sources[-1] == OTHER
    assert len(found.sources) == 30
    assert found.rows(stage, OTHER) == sum(100 - k for k in range(29, 50))


def test_a_store_without_a_run_has_no_sources(tmp_path):
    with Store(tmp_path / "new") as empty:
        assert sources(empty).stages == []
        assert choices.choices(empty) == []
