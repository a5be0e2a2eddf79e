"""Promise 6: everything derived can be deleted and is rebuilt."""

import json
import shutil
from dataclasses import asdict

import pytest
from asked import query_by_id

from gradsift.datastore import indexes, mapped, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.index_build import Wish, build, refresh
from gradsift.pipelines.query.query import searched_space
from gradsift.pipelines.report.report import report, write_report


def test_promise_6_everything_derived_can_be_deleted_and_is_rebuilt(copy, tally):
    """Indexes and reports: without them the store answers as before, and they come again as they were."""
    store = copy
    name = selections.get(store, "small-sql").example_ids[0]
    built = build(store, searched_space(store), Wish("ivf_flat", effort=100))
    page = write_report(store, store.root / "reports" / "again.html")
    data, exact = page.with_suffix(".json").read_text(), query_by_id(store, name, 8)
    asked = query_by_id(store, name, 8, index="ivf_flat")
    assert (asked.index, asked.hits) == ("ivf_flat", exact.hits)
    mapped._beside.clear()
    for derived in ("indexes", "reports"):
        shutil.rmtree(store.root / derived)
    assert query_by_id(store, name, 8) == exact
    assert json.loads(data) == json.loads(json.dumps(asdict(report(store, runs.last_run(store)))))
    assert refresh(store, built).sha256 == built.sha256
    assert query_by_id(store, name, 8, index="ivf_flat").hits == exact.hits
    write_report(store, page)
    assert page.with_suffix(".json").read_text() == data
    indexes.drop(store)
    assert query_by_id(store, name, 8, index="auto").hits == exact.hits
    tally("indexes and reports, deleted and made again", promise=6).harmless(2)


def test_an_index_answers_for_the_pool_alone(copy):
    """Rows that left the pool are in the index, and no answer."""
    store = copy
    name, *_ = selections.get(store, "small-sql").example_ids
    build(store, searched_space(store), Wish("flat"))
    near = query_by_id(store, name, 3, index="flat").hits
    left = near[0].example_id
    with store.catalog.write() as db:
        pool = runs.last_run(store).result.ingest.pool.used_dataset_id
        assert db.execute(
            "DELETE FROM membership WHERE example_id=? AND chain=(SELECT chain FROM dataset WHERE dataset_id=?)",
            (left, pool),
        )
    without = query_by_id(store, name, 3, index="flat")
    assert without.index == "flat"
    assert [hit.example_id for hit in without.hits][:2] == [hit.example_id for hit in near[1:]]
    assert query_by_id(store, name, 3, index="flat", everything=True).hits[0].example_id == left


def test_what_an_index_was_not_measured_for_is_refused(copy):
    name = selections.get(copy, "small-sql").example_ids[0]
    build(copy, searched_space(copy), Wish("flat"))
    for more in ({"opposed": True}, {"checkpoint": "all"}):
        with pytest.raises(InputError, match="ask anything else without --index"):
            query_by_id(copy, name, 3, index="flat", **more)
