"""Lineage: a row's way back to its file and forward to all that was made of it; a file's rows and what became of them."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gradsift.datastore import examples, marks, picks, runs, selections, ways
from gradsift.datastore.errors import InputError
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.query.exported import id_of_row
from gradsift.pipelines.query.lineage import Deleted, lineage, trace
from gradsift.pipelines.recipe import Export, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete
from gradsift.pipelines.runs.reselect import remix

PLAIN = Export(labels=False)


@pytest.fixture
def mixed(copy):
    """(store, mixture): of twenty rows beside the run's selection, some of them twice."""
    made = remix(copy, {"examples": 20, "weights": {"sql": 1.0}, "repeat": 2}, name="twenty")
    return copy, selections.get(copy, made.name)


def test_a_chosen_row_is_traced_back_to_its_line_and_forward_to_what_was_made_of_it(copy):
    chosen = selections.get(copy, "small-sql")
    for rank, name in list(enumerate(chosen.example_ids))[::4]:
        (found,) = trace(copy, name[:12]).examples
        assert found == lineage(copy, name)
        place = found.places[0]
        raw = json.loads(Path(place.file).read_text("utf-8").splitlines()[place.line - 1])
        assert found.assistant.rstrip("…") in json.dumps(raw, ensure_ascii=False)
        (choice,) = found.choices
        assert (choice.reference, choice.rank, choice.copies, choice.kind) == ("small-sql@1", rank, 1, "selection")
        (scored,) = found.scores
        table = selections.details(copy, chosen).to_pydict()
        of = dict(zip(table["example_id"], table["score"], strict=True))
        assert (scored.score, scored.of) == (of[name], len(of))
        assert scored.rank == sum(score > of[name] for score in of.values())
        assert [(one.checkpoint, one.status) for one in found.passes] == [(0, "ok"), (1, "ok")]
        assert {(one.role, one.version) for one in found.datasets if one.version} == {("pool", "pool:small@1")}
        (exported,) = found.exports
        rows = pq.read_table(f"{exported.folder}/{exported.file}")["example_id"].to_pylist()
        assert rows[exported.row - 1] == name


def test_arms_that_trained_on_a_row_are_told_from_those_of_which_nobody_knows(copy):
    last = runs.last_run(copy).result
    (chosen,) = [selections.get(copy, "small-sql")]
    found = lineage(copy, chosen.example_ids[0])
    told = {arm.arm: arm for arm in last.arms}
    (selected,) = [one for one in found.arms if one.arm == "selected"]
    assert (selected.because, list(selected.seeds)) == ("small-sql@1", [0, 1, 2])
    assert selected.losses["sql"] == pytest.approx(told["selected"].test_loss_mean)
    pool = examples.get_dataset(copy, last.ingest.pool.used_dataset_id)
    other = next(name for name in pool.example_ids if name not in chosen.example_ids)
    assert "selected" not in {one.arm for one in lineage(copy, other).arms}
    assert "selected" not in lineage(copy, other).arms_untold
    drawn = {arm.arm for arm in last.arms} - {"base", "selected", "full", "mixture"}
    assert set(found.arms_untold) == drawn


def test_a_row_that_was_left_out_names_its_twin(copy):
    (mark, *_) = [m for n in runs.last_run(copy).result.ingest.pool.screenings for m in marks.of_screening(copy, n)]
    found = lineage(copy, mark.example_id)
    assert (mark.twin, mark.reason, True) in {(one.twin, one.reason, one.left_out) for one in found.marks}
    assert (found.choices, found.scores, found.passes) == ([], [], [])
    assert mark.example_id in {one.twin for one in lineage(copy, mark.twin).marks if not one.left_out}


def test_a_row_of_a_mixture_is_traced_to_its_file_by_one_name(mixed, tmp_path):
    store, mixture = mixed
    recipes = runs.recipe_of(store, mixture)
    for suffix, options in (("parquet", PLAIN), ("jsonl", PLAIN.model_copy(update={"format": "jsonl"}))):
        folder = export(store, mixture, recipes, tmp_path / suffix, options)
        ids = [name for file in sorted((folder / "data").iterdir()) for name in _ids(file)]
        assert len(ids) == mixture.rows == 20
        for row in (1, 7, 20):
            (found,) = trace(store, f"{folder}:{row}").examples
            assert found.example_id == ids[row - 1] == id_of_row(folder, row)
            (order,) = found.order
            assert (order.reference, row in order.rows) == ("twenty@1", True)
            assert [ids[at - 1] for at in order.rows] == [ids[row - 1]] * len(order.rows)
            copies = {choice.name: choice.copies for choice in found.choices}["twenty"]
            assert len(order.rows) == copies
            line = found.places[0]
            assert found in trace(store, f"{line.file}:{line.line}").examples
        (file,) = (folder / "data").iterdir()
        assert trace(store, f"{file}:3").examples[0].example_id == ids[2]
        for wrong in (f"{folder}:0", f"{folder}:21"):
            with pytest.raises(InputError, match="has no row"):
                trace(store, wrong)
        with pytest.raises(InputError, match=":1 is its first row"):
            trace(store, str(folder))


def _ids(file):
    if file.suffix == ".parquet":
        return pq.read_table(file)["example_id"].to_pylist()
    return [json.loads(line)["example_id"] for line in file.read_text("utf-8").splitlines()]


def test_a_file_says_what_became_of_its_rows(copy):
    last = runs.last_run(copy).result
    (whole,) = trace(copy, "small.jsonl", rows=True).files
    pool = last.ingest.pool
    assert (whole.examples, sum(whole.refused.values())) == (pool.examples, sum(pool.quarantined.values()))
    assert whole.rows == pool.rows_read - sum(pool.quarantined.values())
    assert dict(whole.left_out) == {one.reason: one.examples for one in pool.left_out}
    (taken,) = whole.taken
    assert (taken.reference, taken.examples, taken.rows) == ("small-sql@1", 12, 12)
    assert [one.line for one in whole.lines] == sorted(one.line for one in whole.lines)
    assert len(whole.lines) == pool.rows_read
    assert sum(one.outcome == "in small-sql@1" for one in whole.lines) == 12
    assert sum(one.outcome.startswith("refused: ") for one in whole.lines) == sum(pool.quarantined.values())
    assert trace(copy, whole.file).files[0] == trace(copy, "small.jsonl").files[0]
    refused = next((one for one in whole.lines if not one.example_id), None)
    if refused is not None:
        (entry,) = trace(copy, f"small.jsonl:{refused.line}").refused
        assert f"refused: {entry.reason}" == refused.outcome


def test_a_deleted_row_says_that_it_was_deleted_and_nothing_else(copy):
    chosen = selections.get(copy, "small-sql").example_ids[0]
    stays = selections.get(copy, "small-sql").example_ids[1]
    delete(copy, lambda store: picks.by_ids(store, [chosen]))
    found = trace(copy, chosen[:10])
    assert found.deleted == [Deleted(chosen)]
    assert (found.examples, found.refused, list(found.files)) == ((), (), [])
    void, stands = lineage(copy, stays).choices
    assert (void.void, void.reference) == ("1 example was deleted", "small-sql@1")
    assert (stands.void, stands.reference, stands.rank) == (None, "small-sql@2", 0)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("nothing.jsonl", r"names nothing in .*; rows were read from .*small\.jsonl, .*; or give an id"),
        ("ffffffffffff", "no example has an id that starts so"),
        ("small.jsonl:99999", "line 99999 of .* is no row of the store"),
        ("", "names nothing"),
    ],
)
def test_what_names_nothing_is_said(copy, reference, why):
    with pytest.raises(InputError, match=why):
        trace(copy, reference)
    with pytest.raises(InputError, match="more than one example"):
        trace(copy, examples.get_dataset(copy, 1).example_ids[0][:1])


def test_lineage_of_a_store_without_gradients_on_a_server(catalog_url, tmp_path):
    """The catalog on PostgreSQL; nothing but a pool and a mixture."""
    rows = [{"prompt": f"ask {k}", "completion": f"say {k}", "tag": k} for k in range(6)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[2]]) + "{\n")
    recipe = {"name": "plain", "pool": [{"path": str(tmp_path / "pool.jsonl")}], "mix": {"examples": 4}}
    with Store(Place(tmp_path / "store", catalog_url, (tmp_path / "files").as_uri())) as store:
        curate(parse_recipe(recipe), store)
        (file,) = trace(store, "pool.jsonl", rows=True).files
        assert (file.rows, file.examples, dict(file.refused)) == (7, 6, {"broken_json": 1})
        assert [(one.kind, one.reference, one.rows) for one in file.taken] == [("mixture", "plain@1", 4)]
        assert [one.line for one in file.lines] == list(range(1, 9))
        (found,) = trace(store, "pool.jsonl:3").examples
        assert [(place.line, dict(place.extra)) for place in found.places] == [(3, {"tag": 2}), (7, {"tag": 2})]
        assert (found.passes, found.arms, found.arms_untold) == ([], [], [])
        assert trace(store, "pool.jsonl:8").refused[0].reason == "broken_json"
        assert ways.starting_with(store, found.example_id, 3) == [found.example_id]


def test_a_copy_of_a_store_finds_its_own_exports(finished, tmp_path):
    root = shutil.copytree(finished[1], tmp_path / "moved")
    with Store(root) as store:
        found = lineage(store, selections.get(store, "small-sql").example_ids[0])
        assert [one.folder for one in found.exports] == [str(root / "exports" / "small-sql")]
