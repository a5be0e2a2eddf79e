"""A cascade: rows of a part of the pool, from which the same is chosen."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from running import ROOT

import gradsift
from gradsift.datastore import examples, features, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.prune import prune
from gradsift.datastore.runs import as_json, read
from gradsift.datastore.store import Store
from gradsift.pipelines.features import cascade as stage
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.scorers import ranking

CASCADE = {"landmarks": 0.2, "step": 0.04, "most": 0.5}
ROWS = {"projector": {"dim": 512}, "unit_rows": 32}


@pytest.fixture(scope="module")
def cascaded(recipe_data):
    """The recipe of a cascade, which keeps no plain rows and trains no arm."""
    features_ = ROWS | {"cascade": CASCADE}
    return recipe_data | {"features": features_, "select": {"examples": 6}, "validate": None}


@pytest.fixture(scope="module")
def parted(cascaded, tmp_path_factory):
    """(store folder, result) of its run. Read only."""
    root = tmp_path_factory.mktemp("parted") / "store"
    with Store(root) as store:
        return root, curate(parse_recipe(cascaded), store)


@pytest.fixture
def opened(parted, tmp_path):
    """A copy of that store."""
    shutil.copytree(parted[0], tmp_path / "parted")
    with Store(tmp_path / "parted") as store:
        yield store


def chosen(store, result):
    return selections.get(store, result.selections[0].name).example_ids


def test_it_computes_a_part_and_finds_the_choice_of_all(parted, opened, cascaded):
    """And a run of the whole pool afterwards computes the rest, in the same spaces."""
    _, result = parted
    found, part = result.cascade, chosen(opened, result)
    assert found.shortlist < found.seen < found.usable
    assert 0 < found.price < 0.6
    assert {row.checkpoint: row.statuses["ok"] for row in result.pool_rows} == {
        point: found.seen if point == found.checkpoint else found.shortlist for point in (0, 1)
    }
    assert all(row.computed == row.statuses["ok"] for row in result.rows), "the store was new"
    whole = curate(parse_recipe(cascaded | {"features": ROWS}), opened)
    assert whole.cascade is None
    computed = {row.checkpoint: row.computed for row in whole.pool_rows}
    assert computed[found.checkpoint] == found.usable - found.seen
    assert computed[1 - found.checkpoint] == found.usable - found.shortlist
    assert [row.space_id for row in whole.rows] == [row.space_id for row in result.rows]
    assert len(set(part) & set(chosen(opened, whole))) >= 5, "of the six that all rows choose"


def test_what_is_chosen_does_not_depend_on_other_rows_of_the_store(parted, cascaded, copy):
    """Promise 5: the store of a finished run has all rows already."""
    _, result = parted
    again = curate(parse_recipe(cascaded), copy)
    assert sum(row.computed for row in again.rows) == 0
    assert again.selections[0].digest == result.selections[0].digest
    assert (again.cascade.seen, again.cascade.overlap) == (result.cascade.seen, result.cascade.overlap)


def test_a_run_that_ends_in_a_round_goes_on_and_chooses_the_same(parted, cascaded, tmp_path):
    """Promise 2: and batches, units and workers do not matter (5)."""
    _, result = parted
    other = cascaded["features"] | {"unit_rows": 7, "batch_tokens": 600}
    recipe = parse_recipe(cascaded | {"features": other, "workers": 2})

    def killed(name, action):
        if name == "gradients-1":
            raise KeyboardInterrupt
        done = action()
        if name == "gradients-round-1":
            raise KeyboardInterrupt
        return done

    with Store(tmp_path / "store") as store:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                curate(recipe, store, step=killed)
        again = curate(recipe, store)
        assert again.selections[0].digest == result.selections[0].digest
        rows = store.catalog.one("SELECT count(*) AS n FROM feature_row WHERE status='planned'")
        assert rows["n"] == 0


def test_later_choices_are_of_the_shortlist_or_of_the_whole_pool_or_refused(opened, parted):
    _, result = parted
    (same,) = gradsift.select("less", examples=6, store=opened)
    assert same.digest == result.selections[0].digest
    (chance,) = gradsift.select("random", fraction=1.0, store=opened)
    assert chance.examples == result.cascade.usable
    for method, more in (("less", {"examples": 7}), ("mean_cosine", {"examples": 6}), ("less", {"checkpoint": 0})):
        with pytest.raises(InputError, match=r"features\.cascade"):
            gradsift.select(method, **{"examples": 6, **more}, store=opened)
    with pytest.raises(InputError, match="whole pool"):
        gradsift.select("tagcos", examples=6, store=opened)
    answer = gradsift.query(like=chosen(opened, result)[:1], store=opened)
    assert "features.cascade" in answer.note


def test_it_is_told(parted):
    root, result = parted
    assert read(as_json(result)).cascade == result.cascade
    with Store(root) as store:
        assert runs.last_run(store).result.cascade == result.cascade
    assert "Rows of a part of the pool" in Path(result.report).read_text("utf-8")


def test_deleted_examples_leave_the_shortlist(opened, parted):
    _, result = parted
    gone = chosen(opened, result)[0]
    gradsift.delete(id=gone, store=opened)
    (made,) = gradsift.select("less", examples=5, name="after", store=opened)
    assert gone not in selections.get(opened, made.name).example_ids
    assert made.examples == 5
    left = examples.standing(opened, result.cascade.dataset_id)
    assert len(left.example_ids) == result.cascade.shortlist - 1
    assert not features.missing(opened, result.pool_rows[0].space_id, left.example_ids)


def test_a_fraction_is_of_what_is_left(opened, parted):
    """Of the usable examples that were not deleted, whether or not they had a row."""
    usable = parted[1].cascade.usable
    share = 6.5 / usable
    (before,) = gradsift.select("less", fraction=share, store=opened)
    listed = set(examples.standing(opened, parted[1].cascade.dataset_id).example_ids)
    pool = examples.standing(opened, parted[1].ingest.pool.used_dataset_id).example_ids
    gone = [name for name in pool if name not in listed][: usable // 2]
    gradsift.delete(id=gone, store=opened)
    (after,) = gradsift.select("less", fraction=share, name="after", store=opened)
    assert (before.examples, after.examples) == (6, int(share * (usable - len(gone))))


def test_a_pool_with_fewer_rows_than_a_prediction_needs_is_looked_at_wholly(cascaded, tmp_path):
    lines = Path(cascaded["pool"][0]["path"]).read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:7]), "utf-8")
    few = {"pool": [{"path": str(tmp_path / "few.jsonl")}], "warmup": cascaded["warmup"] | {"epochs": 1}}
    with Store(tmp_path / "store") as store:
        result = curate(parse_recipe(cascaded | few | {"select": {"examples": 1}}), store)
        found = result.cascade
        assert found.usable < 8
        assert (found.landmarks, found.price, found.overlap, found.reached) == (found.usable, 1.0, {"sql": 1.0}, True)


def test_prune_keeps_the_shortlist_of_a_single_checkpoint(opened, parted):
    """No rows name it there, and later parts of the pool are newer."""
    (run,) = opened.catalog.rows("SELECT run_id, summary FROM run")
    summary = json.loads(run["summary"])
    for rows in summary["rows"]:
        rows["dataset_id"] = summary["ingest"]["pool"]["used_dataset_id"]
    with opened.catalog.write() as db:
        db.execute("UPDATE run SET summary=? WHERE run_id=?", (json.dumps(summary), run["run_id"]))
    some = dict.fromkeys(chosen(opened, parted[1])[:2], "")
    examples.define_dataset(opened, "pool", "small", some, stage.LANE)
    prune(opened, 1)
    (same,) = gradsift.select("less", examples=6, store=opened)
    assert same.digest == parted[1].selections[0].digest


def test_a_round_without_a_finite_gradient_is_a_round(opened, parted, cascaded):
    """What was looked at next to the landmarks has none; what is chosen is of the others."""
    datasets = opened.catalog.rows("SELECT dataset_id FROM dataset WHERE lane='cascade' ORDER BY dataset_id")
    drawn, first = (set(examples.get_dataset(opened, row["dataset_id"]).example_ids) for row in datasets[:2])
    with opened.catalog.write() as db:
        for name in first - drawn:
            db.rows(
                "UPDATE feature_row SET status='non_finite', row=NULL WHERE example_id=? RETURNING space_id", (name,)
            )
    again = curate(parse_recipe(cascaded), opened)
    assert again.cascade.rounds > 1
    assert again.cascade.seen <= again.cascade.usable - len(first - drawn)
    assert not (first - drawn) & set(chosen(opened, again))


def test_too_few_landmarks_with_a_finite_gradient_are_said_so(opened, parted, cascaded):
    (row,) = opened.catalog.rows("SELECT min(dataset_id) AS n FROM dataset WHERE lane='cascade'")
    drawn = examples.get_dataset(opened, row["n"]).example_ids
    with opened.catalog.write() as db:
        for name in drawn[3:]:
            db.rows(
                "UPDATE feature_row SET status='non_finite', row=NULL WHERE example_id=? RETURNING space_id", (name,)
            )
    with pytest.raises(InputError, match=r"3 of \d+ landmarks have a finite gradient.*landmarks"):
        curate(parse_recipe(cascaded), opened)


def test_columns_that_take_turns_are_each_searched_for_the_whole_budget():
    """Ten subtasks with nearly the same best: turns go far beyond a tenth of the budget in each column."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 1)) + 0.05 * rng.normal(size=(400, 10))
    search = object.__new__(stage._Search)
    select = SimpleNamespace(label_tokens=None, examples=20, fraction=None, at_least=None)
    search.work = SimpleNamespace(recipe=SimpleNamespace(select=select))
    search.settings = SimpleNamespace(shortlist=1.0)
    search.owners = ["sql"] * 10
    search.pool = SimpleNamespace(ids=[f"{k:03d}" for k in range(400)])
    search.seen = stage._Seen(np.ones(400, bool), list(range(400)), list(scores))
    listed = search.shortlist(search.wanted(scores))
    assert set(ranking.round_robin(scores, search.pool.ids, 20).tolist()) <= set(listed)
    assert len(listed) < 60, "not everything"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"select": {"method": "bids", "examples": 6}}, "`select` by `bids`"),
        ({"select": {"method": "tagcos", "examples": 6}}, "`select` by `tagcos`"),
        ({"select": {"method": "less", "rule": "softmax", "examples": 6}}, "`select` by `less`"),
        ({"select": {"method": "rds", "examples": 6}}, "`select` by `rds`"),
        ({"select": {"method": "less", "options": {"length": "mild"}, "examples": 6}}, "`select` by `less`"),
        ({"features": ROWS | {"plain_rows": True, "cascade": CASCADE}}, "plain_rows"),
        ({"export": {"atlas": True}}, "atlas"),
        ({"validate": {"arms": ["random", "redrawn"]}}, "redrawn"),
        ({"validate": {"arms": ["el2n"]}}, "el2n"),
        ({"mix": {"examples": 9, "parts": [{"name": "p", "target": "sql", "share": 1.0}]}}, "a mixture with gradients"),
    ],
)
def test_what_looks_at_the_whole_pool_is_refused(cascaded, changes, what):
    with pytest.raises(InputError, match=what):
        parse_recipe(cascaded | changes)


def test_the_page_on_cascades_works_as_written(cascaded):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cascade.md").read_text("utf-8"), re.S)
    found = parse_recipe(cascaded | yaml.safe_load(block)).cascade
    assert (found.overlap, found.most) == (0.95, 0.45)


def test_a_recipe_without_gradients_may_have_one(cascaded):
    assert parse_recipe(cascaded | {"select": {"method": "random", "examples": 6}}).cascade is None
