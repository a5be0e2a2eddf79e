"""Promise 8 on a store that the whole flow made: gradients, plain rows, signals, an index, an atlas, arms, reports."""

import json
import shutil

import numpy as np
import pytest
from asked import query_by_id
from planted import SECRET, by_ids, found_in, id_of

from gradsift.datastore import features, index_build, indexes, picks, runs, selections
from gradsift.datastore.maintenance import verify
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.report import report
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete

pytestmark = pytest.mark.slow

SECRET_COLUMN = "XQ8-PLANTED-OTHER-COLUMN"
OF_POOL = {"prompt": f"Which singer of {SECRET} has more than three albums in the table of singers?",
           "completion": f"SELECT name FROM singers WHERE town = '{SECRET}'", "source": "ann", "author": f"by {SECRET_COLUMN}"}  # fmt: skip
TWIN = OF_POOL | {"prompt": OF_POOL["prompt"].replace(" ", "  ")}
OF_TARGET = {"prompt": f"How many towns like {SECRET} are there in the table of towns, and where?",
             "completion": f"SELECT count(*) FROM towns WHERE name = '{SECRET}'"}  # fmt: skip
CUT = json.dumps(OF_POOL)[:-3] + "\n"


class Whole:
    """A store of a recipe with everything in it, and later runs of the recipe without validation."""

    def __init__(self, recipe_data, folder):
        self.folder, self.root = folder, folder / "store"
        self.rows = {}
        for name, extra in (("small", [OF_POOL, TWIN]), ("val", [OF_TARGET]), ("test", [])):
            lines = (folder.parent / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
            self.rows[name] = [*lines, *(json.dumps(row) + "\n" for row in extra)]
        target = {"val": {"path": str(folder / "val.jsonl")}, "test": {"path": str(folder / "test.jsonl")}}
        self.data = recipe_data | {
            "pool": [{"path": str(folder / "small.jsonl")}],
            "targets": {"sql": target},
            "dedup": {"minhash": None},
            "warmup": recipe_data["warmup"] | {"fraction": 1.0},
            "select": {"examples": 100},
            "mix": {"examples": 120, "parts": [{"name": "sql", "target": "sql", "share": 1.0}]},
            "export": {"atlas": True, "labels": True},
            "validate": {"seeds": [0], "epochs": 1, "test_rows": 4},
        }

    def run(self, store, **more):
        for name, lines in self.rows.items():
            bad = [CUT] if name == "small" else []
            (self.folder / f"{name}.jsonl").write_text("".join([*lines, *bad]), "utf-8")
        return curate(parse_recipe(self.data | more), store)


@pytest.fixture(scope="module")
def built(recipe_data, data_dir, tmp_path_factory):
    """The folder of such a store: its examples lie in files of a folder beside it, and it is never moved."""
    base = tmp_path_factory.mktemp("whole")
    for name in ("small", "val", "test"):
        shutil.copy(data_dir / f"{name}.jsonl", base)
    folder = base / "made"
    folder.mkdir()
    whole = Whole(recipe_data, folder)
    with Store(whole.root) as store:
        result = whole.run(store)
        for row in result.pool_rows:
            index_build.build(store, row.space_id, index_build.Wish("flat"))
    shutil.copytree(folder, base / "kept")
    return whole, base / "kept"


@pytest.fixture
def whole(built):
    """The store as it was made, in its place."""
    made, kept = built
    shutil.rmtree(made.folder)
    shutil.copytree(kept, made.folder)
    with Store(made.root) as store:
        yield made, store


def stored_bytes(store, ids):
    """The bytes of every stored vector of the examples, and of the f32 row that it stands for."""
    found = []
    for row in store.catalog.rows("SELECT space_id FROM feature_space"):
        for block in features.read(store, row["space_id"], ids):
            for k in range(len(block.example_ids)):
                found += [np.ascontiguousarray(block.vectors[k]).tobytes(), block.unit()[k].tobytes()]
    return found


def tables_with(store, names):
    """Tables of the catalog that have any of the texts in any column."""
    tables = [row["name"] for row in store.catalog.rows("SELECT name FROM sqlite_master WHERE type='table'")]
    return {
        table
        for table in tables
        for row in store.catalog.rows(f"SELECT * FROM {table}")
        if any(name in str(value) for value in dict(row).values() for name in names)
    }


def test_promise_8_nothing_of_a_deleted_example_is_left_of_a_whole_run(whole, tally):
    made, store = whole
    ids = picks.by_predicate(store, f"text like '%{SECRET}%'").ids
    assert set(ids) == {id_of(OF_POOL), id_of(TWIN), id_of(OF_TARGET)}
    vectors = stored_bytes(store, ids)
    assert len({len(vector) for vector in vectors}) >= 2
    assert len(vectors) >= 2 * 2 * 3, "plain rows and Adam's, at two checkpoints, of the pool's; one of the target's"
    assert found_in(made.root, *vectors), "the needles are what is stored"
    assert {"catalog.sqlite"} <= {name for name, _ in found_in(made.root, SECRET_COLUMN)}
    assert picks.by_predicate(store, f"extra->>'author' = 'by {SECRET_COLUMN}'").ids == sorted(
        map(id_of, (OF_POOL, TWIN))
    )
    for name in ("small.html", "small.json", "older.html"):  # which rows a report shows is not for this test to know
        with (made.root / "reports" / name).open("a", encoding="utf-8") as page:
            page.write(SECRET)
    where = {name.rpartition(".")[2] for name, _ in found_in(made.root, SECRET)}
    assert {"parquet", "sqlite", "html", "json"} <= where
    done = delete(store, by_ids(*ids), exports=True)
    assert tables_with(store, ids) <= {"tombstone", "warmup_example"}
    store.close()
    assert found_in(made.root, SECRET, SECRET_COLUMN, *vectors) == []
    assert {name for name, _ in found_in(made.root, *ids)} <= {"catalog.sqlite", "catalog.sqlite-wal"}
    assert {(one.folder.rpartition("/")[2], one.state) for one in done.exports} == {
        ("small", "rewritten"), ("small-sql", "rewritten")
    }  # fmt: skip
    (seen,) = done.seen
    assert (seen.checkpoints, seen.runs) == (2, ["small"])
    assert seen.examples >= 1, "the warm-up was on all of the pool"
    assert verify(store) == []
    assert done.left == ["the report older.html was removed and not written again: no run wrote it"]
    assert (made.root / "reports" / "small.html").exists()
    counts = {trace.what: trace.count for trace in done.traces}
    assert counts["examples"] == 3
    assert counts["quarantined excerpts"] == 1
    assert counts["marks"] >= 1
    assert counts["feature rows"] == 6, "two kinds and the target's, at two checkpoints; the twin was left out before"
    tally("words and vectors of deleted examples, looked for in every file", promise=8).harmless(
        len(ids) + len(vectors)
    )


def test_after_a_deletion_a_run_computes_no_row_and_the_store_answers(whole):
    made, store = whole
    ids = picks.by_predicate(store, f"text like '%{SECRET}%'").ids
    delete(store, by_ids(*ids))
    last = runs.last_run(store)
    titles = {section.title for section in report(store, last).sections}
    assert {"What was chosen", "Rows in and out"} <= titles
    some = selections.get(store, "small-sql").example_ids[0]
    hits = query_by_id(store, some, 5, None).hits
    assert not set(ids) & {hit.example_id for hit in hits}
    made.data.pop("validate")
    result = made.run(store)
    assert [row.computed for row in result.rows] == [0] * len(result.rows)
    assert result.ingest.pool.deleted == 2
    assert [v.new for v in result.versions if v.kind == "pool"] == [False], "it is what was left"
    assert result.ingest.targets["sql"].deleted == 1
    assert not set(ids) & set(selections.get(store, "small-sql").example_ids)
    assert found_in(made.root / "examples", SECRET) == []


def test_an_index_of_rows_that_went_is_dropped(whole):
    made, store = whole
    assert len(indexes.all_of(store)) == 2
    delete(store, by_ids(id_of(OF_TARGET)))
    assert len(indexes.all_of(store)) == 2, "the target's rows are in no index"
    kinds = [f"{i.kind} of {features.space_fingerprint(store, i.space_id)[:12]}" for i in indexes.all_of(store)]
    assert delete(store, by_ids(id_of(OF_POOL), id_of(TWIN))).indexes == sorted(kinds)
    assert indexes.all_of(store) == []
    assert list((made.root / "indexes").iterdir()) == []
