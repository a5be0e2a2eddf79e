"""A source's `where`: rows that it leaves out are counted and are not in the pool."""

import json

import pytest

from gradsift.datastore import examples, origins
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import RunResult, as_json, read
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.read import read_datasets
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.recipe import Source, parse_recipe
from gradsift.pipelines.report.funnel import by_source, funnel, left_over
from gradsift.pipelines.runs.data import read_aside


def chat(k, **more):
    return {"prompt": f"ask {k}", "completion": f"say {k}"} | more


def write(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def pool(tmp_path):
    """Ten rows of two sources with other columns, one broken, and one twice."""
    rows = [chat(k, quality=k % 5, source="ab"[k % 2], id=f"r{k}") for k in range(10)]
    return write(tmp_path / "rows.jsonl", [*rows, "{\n", chat(9, quality=0, source="b", id="again")])


def recipe_of(pool, **source):
    return parse_recipe({"name": "r", "pool": [{"path": pool, **source}], "mix": {"fraction": 1.0}})


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("extra->>'quality' >= 4", ["r4", "r9"]),
        ("source = 'a' and chars < 100 and licence is null", ["r0", "r2", "r4", "r6", "r8"]),
        ("text like '%ask 3%say 3%'", ["r3"]),
        ("line in (1, 12)", ["r0", "again"]),
        ("extra->>'id' = 'again' or extra->>'quality' is null", ["again"]),
    ],
)
def test_rows_of_which_it_holds_are_read(pool, where, left, monkeypatch):
    monkeypatch.setattr("gradsift.pipelines.pool.passing.BATCH", 3)
    found = list(read_source(Source(path=pool, where=where)))
    assert [row.extra["id"] for row in found if isinstance(row, examples.Example)] == left
    assert len(found) == len(left) + 1, "bad rows pass"


def test_rows_draws_from_what_is_left(pool):
    found = [row for row in read_source(Source(path=pool, where="line > 5", rows=5)) if hasattr(row, "line")]
    assert {row.line for row in found} == {6, 7, 8, 9, 10, 11, 12}, "five chats, one of them twice, and the bad row"


def test_promise_9_what_it_leaves_out_is_a_line_of_the_funnel_and_of_the_dry_run(store, pool):
    recipe = recipe_of(pool, where="extra->>'quality' >= 3")
    material, ingested = read_datasets(Work(store, recipe))
    assert len(material.pool.example_ids) == ingested.pool.used == 4
    assert len(store.catalog.rows("SELECT * FROM example")) == 4, "nothing of the others is stored"
    counted = funnel(RunResult("r", ingested))
    assert (counted.read, counted.used, left_over(counted)) == (12, 4, 0)
    (line,) = [line for line in counted.out if line.outcome == "filtered"]
    assert (line.rows, line.by_source) == (7, {"a": 3, "b": 4})
    for one in by_source(counted):
        assert one["read"] == sum(n for name, n in one.items() if name not in ("source", "read", "lost"))
    with read_aside(recipe, store) as data:
        assert data.ingested.pool == ingested.pool
        assert data.left_out["left out by `where`"] == 7
    assert ingest(store, "pool", "plain", recipe_of(pool).pool)[1].filtered == 0


def test_a_row_that_is_left_out_is_no_place_of_its_example(store, tmp_path):
    """The example is in the pool by another row: the columns of that one are its columns."""
    first = write(tmp_path / "a.jsonl", [chat(0, quality=5)])
    second = write(tmp_path / "b.jsonl", [chat(0, quality=4)])
    sources = [Source(path=path, where="extra->>'quality' > 3") for path in (first, second)]
    dataset, _ = ingest(store, "pool", "p", sources)
    write(tmp_path / "a.jsonl", [chat(0, quality=1), chat(1, quality=5)])
    dataset, _ = ingest(store, "pool", "p", sources)
    found = origins.origins_of(store, dataset.example_ids)
    assert {(place.file, place.extra) for places in found.values() for place in places} == {
        (second, '{"quality":4}'), (first, '{"quality":5}')
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"where": "qualty > 3"}, r"pool\.0: `where`: no such column: qualty.* extra \(its other columns"),
        ({"where": "file like '%x%'"}, "no such column: file"),
        ({"where": "(select 1)"}, "a SELECT inside is not allowed"),
        ({"where": "extra->>'quality' > 3", "keep": False}, "`where` looks at 'quality', which `keep` leaves out"),
        ({"where": "extra->>'quality' > 3", "keep": ["id"]}, "`where` looks at 'quality', which `keep` leaves out"),
    ],
)
def test_what_is_no_predicate_is_refused_with_the_recipe(pool, source, why):
    with pytest.raises(InputError, match=why):
        recipe_of(pool, **source)


def test_one_that_fails_on_a_row_or_leaves_nothing_is_refused(store, pool):
    with pytest.raises(InputError, match=r"`where` of .*rows\.jsonl: .*path"):
        ingest(store, "pool", "p", [Source(path=pool, where="json_extract(extra, '$[') = 1")])
    with pytest.raises(
        InputError, match=r"leaves out every usable row \(11\) of pool 'p': no row has 'qualty' .*: id, quality\."
    ):
        ingest(store, "pool", "p", [Source(path=pool, where="extra->>'qualty' > 3")])
    with pytest.raises(InputError, match=r"leaves out every usable row \(11\) of pool 'p'\. Correct it"):
        ingest(store, "pool", "p", [Source(path=pool, where="extra->>'quality' > 30")])


def test_other_columns_that_no_row_has_are_warned_of(store, pool):
    known = recipe_of(pool, where="extra->>'quality' >= 0", keep=["id", "quality"])
    assert warnings(read_datasets(Work(store, known))[1]) == []
    recipe = recipe_of(pool, where="extra->>'bad' is null", keep=["id", "qualty", "bad"])
    _, ingested = read_datasets(Work(store, recipe))
    assert warnings(ingested) == [
        f"pool: `keep` of {pool}: no row has 'bad', 'qualty' among its other columns; there are: id",
        f"pool: `where` of {pool}: no row has 'bad' among its other columns; there are: id",
    ]
    assert read(as_json(RunResult("r", ingested))).ingest == ingested
