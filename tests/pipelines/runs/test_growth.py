"""A store that grows: checkpoints are kept, new examples alone cost gradients, a new warm-up is asked for."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from gradsift.datastore import checkpoints, features, files, runs, warmups
from gradsift.datastore.forget import Picked
from gradsift.datastore.overview import overview
from gradsift.datastore.prune import prune
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.cost import costs
from gradsift.pipelines.report.drift import drift_words
from gradsift.pipelines.report.report import report
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.runs.events import telling
from gradsift.pipelines.runs.forget import delete


def chats(count, source="new", first=0):
    return [
        {"prompt": f"Spell {source} {k} backwards, please.", "completion": f"{source} {k}"[::-1], "source": source}
        for k in range(first, first + count)
    ]


class Grown:
    """A copy of the finished store, and runs of its recipe (without validation) on a pool that changes."""

    def __init__(self, finished, folder):
        self.data = {k: v for k, v in finished[0].items() if k != "validate"}
        folder.mkdir(exist_ok=True)
        self.pool = folder / "pool.jsonl"
        shutil.copy(self.data["pool"][0]["path"], self.pool)
        shutil.copytree(finished[1], folder / "store")
        self.store = Store(folder / "store")

    def append(self, rows):
        with self.pool.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def run(self, new_warmup=None, **more):
        data = self.data | {"pool": [{"path": str(self.pool)}]} | more
        return curate(parse_recipe(data), self.store, new_warmup=new_warmup)

    def points(self, result):
        return {row.space_id for row in result.rows}

    def rows_by_space(self):
        """{space: rows that units were planned with, and feature rows}, from the catalog."""
        units = self.store.catalog.rows("SELECT space_id, sum(examples) AS n FROM unit GROUP BY space_id ORDER BY 1")
        rows = self.store.catalog.rows("SELECT space_id, count(*) AS n FROM feature_row GROUP BY space_id ORDER BY 1")
        return {u["space_id"]: (u["n"], r["n"]) for u, r in zip(units, rows, strict=True)}


@pytest.fixture
def grown(finished, tmp_path):
    made = Grown(finished, tmp_path)
    yield made
    made.store.close()


def difference(after, before):
    return {space: (n - before[space][0], rows - before[space][1]) for space, (n, rows) in after.items()}


def test_promise_2_appending_n_rows_computes_n_rows_in_every_space(grown, finished):
    """Adam's rows and plain ones, at both checkpoints; the targets' none. Counted in the catalog, not by who says so."""
    before = grown.rows_by_space()
    made = grown.store.catalog.rows("SELECT * FROM checkpoint")
    grown.append(chats(5))
    result = grown.run()
    assert grown.store.catalog.rows("SELECT * FROM checkpoint") == made
    assert grown.points(result) == grown.points(finished[2])
    new = difference(grown.rows_by_space(), before)
    roles = {row.space_id: row.role for row in result.rows}
    assert {(roles[space], n) for space, n in new.items()} == {("target", (0, 0)), ("pool", (5, 5)), ("plain", (5, 5))}
    assert len(new) == 6


def test_a_night_of_many_units_asks_for_its_units_once_and_counts_up_to_them(grown, monkeypatch):
    """Not after each of them, which would grow with their square."""
    asked, told = [], []
    open_units = features.open_units

    def counted(*args):
        asked.append(args)
        return open_units(*args)

    monkeypatch.setattr(features, "open_units", counted)
    grown.append(chats(12))
    data = grown.data | {"pool": [{"path": str(grown.pool)}], "features": grown.data["features"] | {"unit_rows": 1}}
    result = curate(parse_recipe(data), grown.store, progress=lambda *said: told.append(said))
    assert sum(row.computed for row in result.pool_rows) == 24
    assert len(asked) <= 2 * len(result.rows), "once for what there is, once more to see that nothing is left"
    counts = [said[1:] for said in told if said[0] == "checkpoint 0: gradients of small"]
    assert counts == [(done, 12) for done in range(1, 13)], "of what is new, not of the pool"


def test_promise_2_appending_n_rows_computes_n_rows_of_an_encoder(recipe_data, store, encoder_dir, write_jsonl):
    select = {"method": "embed", "examples": 9, "encoder": str(encoder_dir)}
    data = {k: v for k, v in recipe_data.items() if k not in ("validate", "features", "model")} | {"select": select}
    counts = []
    for count in (20, 24):
        pool = write_jsonl(*chats(count))
        curate(parse_recipe(data | {"pool": [{"path": str(pool)}]}), store)
        counts.append(store.catalog.one("SELECT sum(examples) AS n FROM unit")["n"])
    assert counts[1] - counts[0] == 4
    assert store.catalog.one("SELECT count(*) AS n FROM feature_space")["n"] == 1


@pytest.mark.slow
def test_arms_on_rows_that_are_the_same_are_not_trained_again_for_a_new_warm_up(grown):
    """BM25 chooses as before from a pool that has a few other rows; what the validation trained on them stands."""
    by_words = {"select": {"method": "bm25", "examples": 12}, "validate": {"seeds": [0], "epochs": 1, "test_rows": 4}}
    first = grown.run(**by_words)
    trained = {row["arm_key"]: row["name"] for row in grown.store.catalog.rows("SELECT * FROM arm")}
    grown.append(chats(2))
    again = grown.run(new_warmup=True, **by_words)
    assert not grown.points(again) & grown.points(first)
    assert [s.digest for s in again.selections] == [s.digest for s in first.selections]
    new = [row for row in grown.store.catalog.rows("SELECT * FROM arm") if row["arm_key"] not in trained]
    assert {row["name"] for row in new} <= {"random", "random_tokens"}, "what is drawn from the pool is another draw"
    losses = [{arm.arm: arm.test_loss for arm in of.arms if arm.arm in ("base", "selected")} for of in (first, again)]
    assert losses[0] == losses[1]


def test_loss_drop_asks_nothing_of_reuse(recipe_data, store, write_jsonl):
    select = {"method": "loss_drop", "examples": 5}
    features_of = {"projector": {"dim": 64}, "plain_rows": False}
    data = {k: v for k, v in recipe_data.items() if k != "validate"} | {"select": select, "features": features_of}
    pool = {"pool": [{"path": str(write_jsonl(*chats(16)))}]}
    for more in ({}, {"reuse": "never", "max_drift": 0.9}):
        curate(parse_recipe(data | pool | {"warmup": data["warmup"] | more}), store)
    assert store.catalog.one("SELECT count(*) AS n FROM selection")["n"] == 1


def test_another_setting_is_another_warm_up(grown, finished):
    other = grown.run(warmup=grown.data["warmup"] | {"lr": 2e-3})
    assert not grown.points(other) & grown.points(finished[2])
    assert grown.points(grown.run()) == grown.points(finished[2])


def test_reuse_and_threshold_are_no_settings_of_the_training(grown, finished):
    grown.append(chats(3))
    result = grown.run(warmup=grown.data["warmup"] | {"max_drift": 0.5})
    assert grown.points(result) == grown.points(finished[2])


@pytest.mark.parametrize("asked", [{"warmup": {"reuse": "never"}}, {"new_warmup": True}])
def test_a_new_warm_up_is_drawn_from_the_present_pool_and_used_from_then_on(grown, finished, asked):
    grown.append(chats(5))
    if "warmup" in asked:
        asked = {"warmup": grown.data["warmup"] | asked["warmup"]}
    result = grown.run(**asked)
    assert not grown.points(result) & grown.points(finished[2])
    grown.append(chats(2, first=5))
    assert grown.points(grown.run()) == grown.points(result)
    old, new = grown.store.catalog.rows("SELECT * FROM warmup ORDER BY created")
    assert (old["settings"], old["pool_rows"]) == (new["settings"], new["pool_rows"] - 5)


def points_of(store):
    return store.catalog.one("SELECT count(*) AS n FROM checkpoint")["n"]


def kill_after(grown, new_checkpoints, **asked):
    """A run that is interrupted at the first commit of a file after which the store has so many more checkpoints."""
    wanted = points_of(grown.store) + new_checkpoints

    def stop(step):
        if step == "committed" and points_of(grown.store) == wanted:
            raise KeyboardInterrupt

    files.failpoint = stop
    with pytest.raises(KeyboardInterrupt):
        grown.run(**asked)
    files.failpoint = lambda _step: None


def test_a_new_warm_up_that_was_killed_is_finished_by_the_next_run(grown, finished):
    """It has one of its two checkpoints; the store's older ones are complete and would do."""
    grown.append(chats(5))
    kill_after(grown, 1, new_warmup=True)
    (begun,) = grown.store.catalog.rows("SELECT * FROM warmup WHERE finished IS NULL")
    assert len(checkpoints.listed(grown.store, begun["fingerprint"])) == 1
    result = grown.run()
    assert not grown.points(result) & grown.points(finished[2])
    assert len(checkpoints.listed(grown.store, begun["fingerprint"])) == 2
    never_killed = Grown(finished, grown.pool.parent / "again")
    never_killed.append(chats(5))
    whole = never_killed.run(new_warmup=True)
    assert [s.digest for s in whole.selections] == [s.digest for s in result.selections]


def test_the_wish_for_a_new_warm_up_outlives_a_kill_before_it_began_and_a_pool_that_changed_since(grown, finished):
    grown.append(chats(5))
    kill_after(grown, 0, new_warmup=True)
    grown.append(chats(1, first=5))
    result = grown.run()
    assert not grown.points(result) & grown.points(finished[2])
    assert not runs.wants_new_warmup(grown.store, "small"), "it was had"


def test_the_wish_can_be_taken_back(grown, finished):
    grown.append(chats(5))
    kill_after(grown, 1, new_warmup=True)
    assert grown.points(grown.run(new_warmup=False)) == grown.points(finished[2])
    assert grown.points(grown.run()) == grown.points(finished[2])


def test_the_first_warm_up_killed_and_the_pool_changed_it_is_the_present_pools(recipe_data, store, write_jsonl):
    """Nothing was computed from it: whoever corrects the pool after a Ctrl-C gets checkpoints of the corrected one."""
    few = {"lora": {"r": 1}, "features": {"projector": {"dim": 64}}, "validate": None}
    recipes = [
        parse_recipe({**recipe_data, **few, "pool": [{"path": str(write_jsonl(*chats(30), *more, name=f"{k}.jsonl"))}]})
        for k, more in enumerate(([], chats(1, "other")))
    ]

    def stop(_step):
        if points_of(store):
            raise KeyboardInterrupt

    files.failpoint = stop
    with pytest.raises(KeyboardInterrupt):
        curate(recipes[0], store)
    files.failpoint = lambda _step: None
    curate(recipes[1], store)
    done = {row["pool_rows"]: row["finished"] is not None for row in store.catalog.rows("SELECT * FROM warmup")}
    assert done == {30: False, 31: True}


def test_a_warm_up_that_lost_a_checkpoint_is_trained_again_on_its_own_pool(grown, finished):
    """The pool has grown since: the same tensors come back, and no row is computed again."""
    grown.append(chats(5))
    grown.run()
    before, made = grown.rows_by_space(), [c["digest"] for c in grown.store.catalog.rows("SELECT * FROM checkpoint")]
    with grown.store.catalog.write() as db:
        db.execute("DELETE FROM checkpoint WHERE ordinal=1")
    result = grown.run()
    assert [c["digest"] for c in grown.store.catalog.rows("SELECT * FROM checkpoint ORDER BY ordinal")] == made
    assert grown.rows_by_space() == before
    assert {row.computed for row in result.rows} == {0}


def test_drift_is_the_share_of_later_rows_times_the_gap_of_their_signals(grown, finished):
    """Rows unlike any of the pool: their losses are seen to differ, without those that the warm-up trained on."""
    assert finished[2].drift.came == finished[2].drift.left == 0
    assert finished[2].drift.trained == round(0.2 * finished[2].drift.drawn_from)
    grown.append(chats(40))
    told = []
    result = telling("small", grown.store.root, told.append, grown.run)
    drift = result.drift
    (event,) = (event for event in told if event.what == "drift above")
    assert (event.run, event.facts["drift"], event.facts["max_drift"]) == ("small", drift.drift, drift.max_drift)
    assert (drift.reused, drift.came, drift.left, drift.rows) == (True, 40, 0, drift.drawn_from + 40)
    space = result.pool_rows[-1].space_id
    block = features.read_all(grown.store, space, features.ids_with_rows(grown.store, space))
    (old,) = grown.store.catalog.rows("SELECT * FROM warmup")
    seen = set(warmups.trained(grown.store, old["fingerprint"]))
    run = warmups.find(grown.store, old["fingerprint"])
    there = set(warmups.pool_of(grown.store, run).example_ids)
    for one in drift.shifts:
        values = dict(zip(block.example_ids, block.signal(one.signal).tolist(), strict=True))
        after = [value for name, value in values.items() if name not in there]
        before = [value for name, value in values.items() if name in there - seen]
        assert (len(after), len(before)) == (40, drift.drawn_from - len(seen))
        assert one.gap == pytest.approx(ks_2samp(after, before).statistic)
        assert (one.before, one.after) == (pytest.approx(np.median(before)), pytest.approx(np.median(after)))
    assert drift.drift == pytest.approx(drift.share * max(one.gap for one in drift.shifts if one.p < 0.01))
    assert drift.advised
    assert "gradsift run RECIPE --new-warmup" in drift_words(drift)
    (section,) = [s for s in report(grown.store).sections if s.title == "Drift"]
    assert [row["signal"] for row in section.parts[1].table] == ["loss", "gradient norm"]
    assert runs.last_run(grown.store).result.drift == drift
    fresh = grown.run(new_warmup=True)
    assert (fresh.drift.came, fresh.drift.advised, drift_words(fresh.drift)) == (0, False, "")
    assert "Drift" not in [s.title for s in report(grown.store).sections]


def test_few_rows_or_rows_like_the_others_are_no_reason_for_a_new_warm_up(grown):
    grown.append(chats(5))
    few = grown.run().drift
    assert (few.came, few.shifts, few.advised) == (5, [], False)
    assert "too few to compare" in drift_words(few)
    limit = grown.data["warmup"] | {"max_drift": 1.0}
    grown.append(chats(40, first=5))
    assert not grown.run(warmup=limit).drift.advised


def test_a_pool_that_was_replaced_drifts_from_the_one_that_the_warm_up_was_drawn_from(grown):
    """All of it, or all but a few rows: those that were there are compared although they have left."""
    lines = grown.pool.read_text().splitlines(keepends=True)
    for kept in (0, 5):
        grown.pool.write_text("".join(lines[:kept]))
        grown.append(chats(60))
        drift = grown.run().drift
        assert drift.came == drift.rows - kept
        assert [one.signal for one in drift.shifts] == ["loss", "grad_norm"]
        assert drift.drift == pytest.approx(drift.share * max(one.gap for one in drift.shifts))
        assert drift.drift > 0.5
        assert drift.advised


def test_where_no_row_can_be_compared_the_share_of_those_that_came_stands_for_the_drift(recipe_data, store, tmp_path):
    """The warm-up trained on all that were there."""
    pool = tmp_path / "pool.jsonl"
    data = {k: v for k, v in recipe_data.items() if k != "validate"}
    data |= {"pool": [{"path": str(pool)}], "warmup": data["warmup"] | {"fraction": 1.0}}
    for more, advised in ((0, False), (3, False), (60, True)):
        rows = [*chats(40, "old"), *chats(more)]
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = curate(parse_recipe(data), store)
        drift = result.drift
        assert (drift.came, drift.shifts, drift.advised) == (more, [], advised)
        assert drift.drift == (None if more else 0.0)
        assert ("too few to compare, so their share stands for the drift" in drift_words(drift)) is (more > 0)
    assert runs.read(json.loads(json.dumps(runs.as_json(result)))).drift == drift
    (section,) = [s for s in report(store).sections if s.title == "Drift"]
    assert [part.title for part in section.parts] == ["The warm-up's pool and this one"]


def test_rows_of_the_same_kind_do_not_drift(finished, tmp_path):
    """Half of a pool, then all of it, shuffled."""
    lines = Path(finished[0]["pool"][0]["path"]).read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    data = {k: v for k, v in finished[0].items() if k != "validate"} | {"lora": {"r": 1}, "dedup": None}
    pool = tmp_path / "pool.jsonl"
    with Store(tmp_path / "store") as store:
        for count in (80, len(lines)):
            pool.write_text("".join(lines[:count]))
            result = curate(parse_recipe(data | {"pool": [{"path": str(pool)}]}), store)
    assert result.drift.share > 0.4
    assert len(result.drift.shifts) == 2
    assert not result.drift.advised


def test_rows_that_left_the_pool_are_counted(grown):
    lines = grown.pool.read_text().splitlines(keepends=True)
    grown.pool.write_text("".join(lines[:100]))
    drift = grown.run().drift
    assert drift.came == 0
    assert drift.left == drift.drawn_from - drift.rows > 0
    assert f"{drift.left} of its {drift.drawn_from} left since" in drift_words(drift)


def test_a_dry_run_says_what_is_kept_and_costs_new_rows_alone(grown, finished):
    def plan(new_warmup=None):
        made = plan_run(parse_recipe(grown.data | {"pool": [{"path": str(grown.pool)}]}), grown.store.root, new_warmup)
        return made.checkpoints_kept, made.rows_to_compute, "warmup" in made.minutes

    assert plan() == (2, 0, False)
    grown.append(chats(5))
    before = grown.store.catalog.rows("SELECT * FROM run")
    assert plan() == (2, 2 * 5, False)
    assert grown.store.catalog.rows("SELECT * FROM run") == before
    everything = 2 * (finished[2].ingest.pool.used + 5 + 24)
    assert plan(new_warmup=True) == (0, everything, True)
    kill_after(grown, 1, new_warmup=True)
    assert plan() == (1, everything, True), "as the run that was interrupted asked, from where it was"
    assert plan(new_warmup=False) == (2, 2 * 5, False)


@pytest.mark.parametrize("never", [False, True])
def test_a_dry_run_after_an_interrupted_new_warm_up_counts_what_the_next_run_computes(grown, finished, never):
    """Its checkpoints are trained, rows at the first are there, at the second one unit of those that are planned."""
    data = grown.data | {"pool": [{"path": str(grown.pool)}]}
    if never:
        data["warmup"] = data["warmup"] | {"reuse": "never"}

    def stop(stage, _done, _total):
        if stage == "checkpoint 1: gradients of small":
            raise KeyboardInterrupt

    grown.append(chats(5))
    with pytest.raises(KeyboardInterrupt):
        curate(parse_recipe(data), grown.store, progress=stop, new_warmup=None if never else True)
    plan = plan_run(parse_recipe(data), grown.store.root)
    made = grown.store.catalog.rows("SELECT * FROM checkpoint")
    result = curate(parse_recipe(data), grown.store)
    assert grown.store.catalog.rows("SELECT * FROM checkpoint") == made
    assert not grown.points(result) & grown.points(finished[2])
    computed = sum(row.computed for row in result.rows)
    pool = result.ingest.pool.used
    assert computed == pool - 32
    assert (plan.checkpoints_kept, "warmup" in plan.minutes) == (2, False)
    assert (plan.rows_to_compute, plan.rows_kept) == (computed, pool + 32 + 2 * 24)


def test_a_deleted_example_leaves_the_checkpoints_that_saw_it_and_no_others_can_be_trained_like_them(grown, finished):
    """The next run keeps them; one that is lost cannot be trained again, since its sample would be another."""
    (row,) = grown.store.catalog.rows("SELECT * FROM warmup")
    saw = warmups.trained(grown.store, row["fingerprint"])
    delete(grown.store, lambda _store: Picked(saw[:1]))
    result = grown.run()
    assert grown.points(result) == grown.points(finished[2])
    assert {one.computed for one in result.rows} == {0}
    assert (result.drift.left, result.drift.trained) == (1, len(saw)), "that it was seen is not forgotten"
    with grown.store.catalog.write() as db:
        db.execute("DELETE FROM checkpoint WHERE ordinal=1")
    other = grown.run()
    assert not grown.points(other) & grown.points(finished[2])
    assert (other.drift.came, other.drift.left) == (0, 0)


def test_the_cost_table_counts_the_sample_of_a_kept_warm_up(grown, finished):
    def warm_up():
        run = runs.last_run(grown.store)
        lines = {line.what: line for line in costs(grown.store, parse_recipe(run.recipes.resolved), run.result)}
        return lines["warm-up"]

    before = warm_up()
    assert before.seconds is not None
    grown.append(chats(60))
    result = grown.run()
    assert warm_up().seconds is None
    pool = result.pool_rows[0].statuses["ok"]
    mean = {k: v.tokens for k, v in enumerate([before, warm_up()])}
    assert mean[1] == pytest.approx(mean[0], rel=0.3), "not a fifth of the pool as it is now"
    assert pool > 1.3 * finished[2].pool_rows[0].statuses["ok"]


def test_what_was_found_of_the_model_is_said_by_another_recipe_with_its_checkpoints(grown, finished):
    with grown.store.catalog.write() as db:
        db.execute("UPDATE run SET summary = json_set(summary, '$.notes', json_array('a router is frozen'))")
    other = grown.run(name="other")
    assert grown.points(other) == grown.points(finished[2])
    assert "a router is frozen" in other.notes


def test_the_json_of_a_run_has_its_drift(grown):
    grown.append(chats(40))
    document = json.loads(json.dumps(runs.as_json(grown.run())))
    assert document["drift"]["advised"] is True
    assert runs.read(document).drift.came == 40
    del document["drift"]  # of an older version
    assert runs.read(document).drift is None


def test_pruning_keeps_the_pool_that_the_warm_up_was_drawn_from(grown, finished):
    """And with `examples` its text: a damaged checkpoint is trained again from it. What an older warm-up had goes."""
    for k in range(3):
        grown.append(chats(2, first=2 * k))
        grown.run()
    (drawn,) = grown.store.catalog.rows("SELECT * FROM warmup")
    prune(grown.store, 1, examples=True)
    (run,) = warmups.finished(grown.store, drawn["settings"])
    assert warmups.whole_pool_of(grown.store, run) is not None
    assert grown.points(grown.run()) == grown.points(finished[2])
    grown.append(chats(2, first=6))
    newest = grown.run(new_warmup=True)
    prune(grown.store, 1)
    left = warmups.finished(grown.store, drawn["settings"])
    assert [one.pool_rows for one in left] == [newest.ingest.pool.used]
    assert warmups.pool_of(grown.store, run) is None
    assert prune(grown.store, 1).dropped == []


def test_a_warm_up_knows_what_it_saw(grown):
    (row,) = grown.store.catalog.rows("SELECT * FROM warmup")
    (run,) = warmups.finished(grown.store, row["settings"])
    seen = warmups.trained(grown.store, run.fingerprint)
    assert len(seen) == round(0.2 * run.pool_rows)
    assert set(seen) < set(warmups.whole_pool_of(grown.store, run).example_ids)
    (line,) = overview(grown.store)["warmups"]
    assert (line["pool_rows"], line["trained_on"], line["checkpoints"], line["of"]) == (run.pool_rows, len(seen), 2, 2)
