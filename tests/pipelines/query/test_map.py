"""The map of a pool: places by principal components, what shades them, and what forgets them."""

import numpy as np
import pyarrow as pa
import pytest

from gradsift.datastore import examples, features, kept, mapped, runs, selections, signals
from gradsift.datastore.errors import InputError, StoreFullError
from gradsift.datastore.forget import Picked
from gradsift.datastore.store import Store
from gradsift.pipelines.export.atlas import components
from gradsift.pipelines.query import map as of_map
from gradsift.pipelines.query.map import kinds, open_map
from gradsift.pipelines.query.shades import QUADRANTS, UNKNOWN, places_of, shade, shadings
from gradsift.pipelines.report.plane import QUADRANTS as OF_REPORT
from gradsift.pipelines.runs.forget import delete
from gradsift.pipelines.runs.reselect import reselect


def plain_rows(store, of):
    space = next(row.space_id for row in reversed(runs.last_run(store).result.rows) if row.role == "plain")
    return features.read_all(store, space, of.ids.to_pylist()).unit()


def test_places_are_the_leading_components_of_plain_rows(copy):
    of = open_map(copy)
    exact = components(plain_rows(copy, of))
    assert len(of.xy) == len(exact) > 100
    for axis in range(2):  # a component and its negative are the same
        assert min(np.abs(of.xy[:, axis] - sign * exact[:, axis]).max() for sign in (1, -1)) < 2e-3


def test_a_sample_gives_nearly_the_same_directions(copy, monkeypatch):
    exact = components(plain_rows(copy, open_map(copy)))[:, 0]
    monkeypatch.setattr(of_map, "SAMPLE", 60)
    monkeypatch.setattr(of_map, "BLOCK", 17)
    ids = np.array(open_map(copy).ids.to_pylist(), "S32")
    space = next(row.space_id for row in reversed(runs.last_run(copy).result.rows) if row.role == "plain")
    named, xy = of_map.lay_out(mapped.open_rows(copy, space), np.sort(np.append(ids, b"f" * 32)))
    assert named.tolist() == ids.tolist()  # who has no row has no place
    assert abs(np.corrcoef(xy[:, 0], exact)[0, 1]) > 0.95
    with pytest.raises(InputError, match="no example of the pool has a row"):
        of_map.lay_out(mapped.open_rows(copy, space), np.array([b"f" * 32]))


def test_all_kinds_of_rows_that_a_run_keeps_are_laid_out(copy):
    assert kinds(copy) == ["gradients", "embedding"]
    of = open_map(copy, "embedding")
    assert of.key != open_map(copy).key
    sql = np.array([source.startswith("sql") for source in of.sources.to_pylist()])
    apart = np.linalg.norm(of.xy[sql].mean(axis=0) - of.xy[~sql].mean(axis=0))
    assert apart > of.xy[sql].std(axis=0).max()  # what is alike lies together
    with pytest.raises(InputError, match="no rows of a sentence encoder"):
        open_map(copy, "encoder")


def test_a_store_without_rows_has_no_map(tmp_path):
    with Store(tmp_path / "empty") as store:
        assert kinds(store) == []
        with pytest.raises(InputError, match="no run has finished"):
            open_map(store)


def test_a_second_process_reads_what_the_first_kept(copy, monkeypatch):
    first = open_map(copy)
    assert open_map(copy) is first
    monkeypatch.setattr(of_map, "lay_out", lambda *_: pytest.fail("laid out again"))
    with Store(copy.root) as again:
        second = open_map(again)
    assert (first.key, first.ids) == (second.key, second.ids)
    assert np.array_equal(first.xy, second.xy)
    assert first.sources.to_pylist() == second.sources.to_pylist()


@pytest.mark.parametrize("error", [StoreFullError("full"), PermissionError("not yours")])
def test_a_place_that_cannot_be_written_has_a_map_all_the_same(copy, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(kept, "keep", refuse)
    assert len(open_map(copy).ids) > 100


def test_a_later_selection_reads_sources_again_and_no_rows(copy, monkeypatch):
    first = open_map(copy)
    monkeypatch.setattr(of_map, "lay_out", lambda *_: pytest.fail("laid out again"))
    reselect(copy, {"method": "random", "examples": 5}, name="five")
    moved = first.ids[0].as_py()
    with copy.catalog.write() as db:  # what a run does that reads it from another source
        db.execute("UPDATE example SET source='elsewhere' WHERE example_id=?", (moved,))
    second = open_map(copy)
    assert np.array_equal(first.xy, second.xy)
    assert second.sources[0].as_py() == "elsewhere"
    assert first.sources[0].as_py() != "elsewhere"


def test_what_is_deleted_is_on_no_map_and_in_no_file(copy):
    of = open_map(copy)
    gone = of.ids[3].as_py()
    assert len(list((copy.root / kept.FOLDER).glob("mapgradients-*"))) == 1
    delete(copy, lambda _store: Picked([gone]))
    assert not list((copy.root / kept.FOLDER).glob("mapgradients-*"))
    left = open_map(copy)
    assert gone not in left.ids.to_pylist()
    assert len(left.ids) == len(of.ids) - 1
    assert left.members == of.members - 1


@pytest.fixture
def laid(copy):
    return copy, open_map(copy)


def test_sources_are_shaded_the_largest_first(laid):
    store, of = laid
    made = shade(store, of, "source")
    known = examples.sources_by_id(store, of.pool)
    assert [made.labels[code] for code in made.codes] == [known[name] for name in of.ids.to_pylist()]
    assert list(made.counts) == sorted(made.counts, reverse=True)
    assert sum(made.counts) == len(of.ids)


def test_more_kinds_than_colours_share_the_last(laid):
    from dataclasses import replace

    store, of = laid
    names = [None, *(f"s{k % 15:02}" for k in range(len(of.ids) - 1))]
    made = shade(store, replace(of, sources=pa.array(names).dictionary_encode()), "source")
    assert (made.rest, made.labels[-1], len(made.labels)) == (True, "4 others", 12)
    assert made.codes[0] == UNKNOWN
    assert sum(made.counts) == len(of.ids) - 1
    assert all(made.counts[k] == (made.codes == k).sum() for k in range(12))


def test_amounts_are_cut_so_that_each_colour_is_of_as_many(laid):
    store, of = laid
    made = shade(store, of, "loss")
    assert made.ordered
    assert max(made.counts) - min(made.counts) <= 2
    losses = dict(pair for table in signals.tables(store, signals.newest_space(store), ["loss"])
                  for pair in zip(table["example_id"].to_pylist(), table["loss"].to_pylist(), strict=True))  # fmt: skip
    values = np.array([losses[name] for name in of.ids.to_pylist()])
    assert all(values[made.codes == k].max() <= values[made.codes == k + 1].min() for k in range(5))


def test_quadrants_are_those_of_the_report(laid):
    assert tuple(QUADRANTS) == OF_REPORT
    made = shade(*laid, "quadrant")
    assert made.counts[0] + made.counts[1] == pytest.approx(len(laid[1].ids) / 2, abs=1)  # the harder half


def test_a_selection_shades_by_itself_and_by_its_scores(laid):
    store, of = laid
    chosen = selections.get(store, "small-sql")
    made = shade(store, of, "selected", "small-sql")
    assert sorted(of.ids.take(pa.array(np.flatnonzero(made.codes == 0))).to_pylist()) == sorted(chosen.example_ids)
    assert shade(store, of, "score", "small-sql").ordered
    (clusters,) = reselect(store, {"method": "tagcos", "examples": 6}, name="clustered")
    made = shade(store, of, "cluster", clusters.name)
    assert sum(made.counts) + int((made.codes == UNKNOWN).sum()) == len(of.ids)
    assert places_of(of, [of.ids[7].as_py(), "f" * 32, of.ids[2].as_py()]).tolist() == [2, 7]


@pytest.mark.parametrize(
    ("asked", "words"),
    [(("score",), "name the selection"), (("score", "nothing"), "no selection 'nothing'"),
     (("cluster", "small-sql"), "recorded no cluster"), (("colour",), "there are: source, loss")],
)  # fmt: skip
def test_what_cannot_be_shaded_says_why(laid, asked, words):
    with pytest.raises(InputError, match=words):
        shade(*laid, *asked)


def test_only_what_was_kept_is_offered(laid, monkeypatch):
    assert shadings(laid[0]) == ["source", "loss", "quadrant", "selected", "score", "cluster"]
    monkeypatch.setattr(signals, "names_in", lambda *_: {"loss"})
    assert shadings(laid[0]) == ["source", "loss", "selected", "score", "cluster"]
    with pytest.raises(InputError, match="kept no entropy"):
        shade(*laid, "quadrant")
