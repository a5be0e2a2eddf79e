"""A dry run says what the run will do: what it refuses, what it computes, what it keeps."""

import re
from dataclasses import replace

import pytest

from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import Cascade, packages, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.runs.look import most_rows
from gradsift.pipelines.runs.minutes import Due, Rows, minutes
from gradsift.pipelines.runs.price import Price, Priced, of_gradients, prices
from gradsift.pipelines.runs.probe import Curve, Pace, Speeds
from gradsift.pipelines.runs.trainings import Pool, Training, trainings


def test_a_method_that_the_run_would_refuse_is_named(recipe_data, store, tmp_path):
    """In the words of the refusal; the same recipe with room has no such note."""
    plain = {name: recipe_data[name] for name in ("name", "pool", "targets")}
    data = plain | {"select": {"method": "random", "examples": 9}, "memory": "50KB"}
    (note,) = plan_run(parse_recipe(data), tmp_path / "none").notes
    assert note.startswith("method 'random' would be refused: needs ")
    assert "`memory` allows 49 KiB" in note
    with pytest.raises(InputError) as refused:
        curate(parse_recipe(data), store)
    same = [re.sub(r"[\d,]+ (KiB|examples)", "", words) for words in (str(refused.value), note)]  # before screening
    assert same[0] == same[1].replace(" would be refused", "")
    assert plan_run(parse_recipe(data | {"memory": "500MB"}), tmp_path / "none").notes == []


def test_a_dry_run_after_a_finished_run_counts_all_of_it_as_kept(copy, finished):
    """Rows and arms; and it leaves the store as it is."""

    def content():
        tables = [row["name"] for row in copy.catalog.rows("SELECT name FROM sqlite_master WHERE type='table'")]
        return {name: copy.catalog.rows(f"SELECT * FROM {name}") for name in tables}

    before, pool = content(), finished[2].ingest.pool
    plan = plan_run(parse_recipe(finished[0]), copy.root)
    assert (plan.rows_to_compute, plan.checkpoints_kept, plan.arms_kept) == (0, 2, plan.arms)
    assert plan.arms == 1 + 3 * 3
    assert set(plan.minutes) == {"start", "read and screen", "choose and export"}
    assert [one.what for one in plan.prices] == [
        "gradient rows of everything, 2 checkpoints",
        "training on everything, one epoch",
        "training one arm, 12 rows",
    ]
    assert plan.prices[0].minutes > 0  # what it costs, not what is left to do
    assert plan.pool_rows == pool.used
    assert plan.left_out.get("duplicates", 0) == pool.duplicates
    assert sum(plan.left_out.values()) + plan.pool_rows + plan.pool_quarantined == pool.rows_read
    assert content() == before


def test_a_seed_more_is_what_a_dry_run_would_train(copy, finished):
    data = finished[0] | {"validate": finished[0]["validate"] | {"seeds": [0, 1, 2, 3]}}
    plan = plan_run(parse_recipe(data), copy.root)
    assert (plan.arms, plan.arms_kept) == (1 + 4 * 3, 1 + 3 * 3)
    assert plan.minutes["validate"] > 0


def test_minutes_are_what_is_to_do_at_the_speed_that_was_measured():
    gradient = Curve([10, 20], [0.1, 0.3])
    assert gradient.mean([10, 15, 20, 40]) == pytest.approx((0.1 + 0.2 + 0.3 + 0.6) / 4)
    speeds = Speeds(
        first_load=9.0, load=2.0, gradient=gradient, warmup_row=0.5, arm=Pace(0.25, 5.0, 1.0, 3.0),
        forward=Curve([10], [0.05]), answers=4.0,
    )  # fmt: skip
    due = Due(
        start=6.0, reading=3.0, encode=0.01, warmup_rows=100, passes=[Rows(50, [15]), Rows(0)], unit_rows=25,
        arms=7, arm_rows=400, tests=Rows(20, [10]), in_pool=80,
    )  # fmt: skip
    seconds = {stage: 60 * value for stage, value in minutes(due, speeds).items()}
    assert seconds["start"] == pytest.approx(6)
    assert seconds["warmup"] == pytest.approx(9 + 50)
    assert seconds["gradients"] == pytest.approx(2 + 50 * (0.02 + 0.2) + 2 * 0.03)
    assert seconds["validate"] == pytest.approx(4 + 0.01 * 100 + 7 * (3 + 1 + 20 * 0.05 + 4) + 400 * 0.25)
    assert set(minutes(Due(start=6.0), Speeds())) == {"start", "read and screen", "choose and export"}


def test_prices_by_hand(recipe_data):
    """A thousand rows of 50 tokens, and 300 tokens of targets; 7 weights; two checkpoints, whose warm-up sees 40 rows:
    2,000 tokens of warm-up and 50,300 at each; at 28 FLOPs a token. Of a cascade, all rows once and then a tenth."""
    speeds = Speeds(gradient=Curve([50], [0.2]), warmup_row=0.5, arm=Pace(row=0.3))
    priced = Priced(parse_recipe(recipe_data), 7, Pool(1000, 50.0, 20.0), [50], 300.0, 40, speeds)
    gradients, everything, arm = prices(priced, 2, [Training("base", 0, 0), Training("selected", 12, 36)])
    assert gradients.flops == 28 * (2_000 + 2 * 50_300)
    assert gradients.minutes * 60 == pytest.approx(40 * 0.5 + (2000 + 2 * 6) * 0.2)
    assert (everything.flops, everything.epochs, everything.minutes) == (28 * 50_000, 1.0, 1000 * 0.3 / 60)
    assert gradients.epochs == gradients.flops / everything.flops
    assert (arm.flops, arm.minutes) == (28 * 36 * 50, pytest.approx(36 * 0.3 / 60))
    cascade = of_gradients(priced, "cascade", [1.0, 0.1])
    assert cascade.flops == 28 * (2_000 + 50_000 + 5_000 + 600)
    assert prices(priced, 2, [], [1.0, 0.1])[1] == replace(cascade, what="gradient rows of the cascade, at most")
    full = parse_recipe(recipe_data | {"validate": {"mode": "full"}})
    assert prices(replace(priced, recipe=full, speeds=Speeds()), 0, []) == [
        Price("training on everything, one epoch", 42 * 50_000, None, 1.0)
    ]
    assert prices(replace(priced, weights=0), 2, []) == []


def test_a_cascade_may_compute_as_many_rows_as_its_tokens_are_enough_for(recipe_data):
    """Half the tokens are half of equal rows, and eight of ten where two have nearly all tokens."""
    recipe = parse_recipe(recipe_data | {"select": {"examples": 10}, "validate": None})
    settings = Cascade(most=0.5, shortlist=3)
    assert most_rows(recipe, settings, 1000, [10] * 10, 1) == (500, 30)
    assert most_rows(recipe, settings, 1000, [42, 2, 2, 2, 2, 2, 2, 2, 2, 42], 1) == (800, 30)
    assert most_rows(recipe, settings, 1000, [10] * 10, 20) == (600, 600)


def test_runs_of_a_validation_are_counted_before_anything_is_chosen(recipe_data):
    settings = {"seeds": [0, 1], "epochs": 3, "batch_size": 8, "arms": ["random", "random_tokens", "full"]}
    two = dict.fromkeys(("a", "b"), recipe_data["targets"]["sql"])
    recipe = parse_recipe(recipe_data | {"targets": two, "select": {"fraction": 0.1}, "validate": settings})
    runs = trainings(recipe, Pool(100, 50.0, 20.0))
    arms = [run.arm for run in runs]
    assert {name: arms.count(name) for name in arms} == {
        "base": 1, "selected": 4, "random": 2, "random_tokens": 4, "full": 2,
    }  # fmt: skip
    assert {(run.rows, run.seen) for run in runs if run.arm == "selected"} == {(10, 30)}
    assert {run.seen for run in runs if run.arm == "full"} == {300}


def test_a_package_that_is_missing_is_named_before_any_work(recipe_data, store, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    words = r"method 'bm25' needs the package bm25s, .*: pip install 'gradsift\[text\]'"
    recipe = parse_recipe(recipe_data | {"select": {"method": "bm25", "examples": 3}})
    with pytest.raises(InputError, match=words):
        plan_run(recipe, tmp_path / "none")
    with pytest.raises(InputError, match=words):
        curate(recipe, store)
    trained = parse_recipe(recipe_data | {"validate": {"optimizer": "dog"}})
    with pytest.raises(InputError, match=r"optimizer: dog` needs .*gradsift\[lrfree\]"):
        packages.check(trained)
    packed = parse_recipe(recipe_data | {"model": {"path": str(tmp_path), "gguf_file": "small.gguf"}})
    with pytest.raises(InputError, match=r"`model\.gguf_file` needs the package gguf, .*'gradsift\[gguf\]'"):
        packages.check(packed)


def test_a_pool_without_a_usable_row_is_refused_with_its_reasons(recipe_data, tmp_path, write_jsonl):
    path = write_jsonl({"foo": "bar"}, {"foo": "bar"})
    with pytest.raises(InputError, match="unknown_shape"):
        plan_run(parse_recipe(recipe_data | {"pool": [{"path": str(path)}]}), tmp_path / "none")


def test_files_that_are_not_read_and_files_that_give_nothing_are_named(tmp_path, write_jsonl):
    """As the run says it, before it runs."""
    folder = tmp_path / "pool"
    folder.mkdir()
    write_jsonl(*({"prompt": f"Ask {k}", "completion": f"say {k}"} for k in range(9)), name="pool/good.jsonl")
    write_jsonl({"foo": "bar"}, name="pool/odd.jsonl")
    (folder / "README.md").write_text("about it")
    wanted = write_jsonl({"prompt": "Ask me", "completion": "I do"}, name="val.jsonl")
    recipe = {
        "name": "small",
        "pool": [{"path": str(folder)}],
        "targets": {"one": {"val": {"path": str(wanted)}}},
        "select": {"method": "random", "examples": 3},
    }
    told = plan_run(parse_recipe(recipe), tmp_path / "none").warnings
    assert len(told) == 2
    assert "1 file of" in told[0]
    assert "odd.jsonl" in told[0]
    assert "not read: 1 of no known kind (.md): " in told[1]
    assert "README.md" in told[1]
