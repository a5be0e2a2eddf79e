"""Whole runs: promises 2, 5 and 10's ground, export, query, validation, and what a reader of the result sees."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import start

from gradsift.datastore import examples, features, leases, maintenance, runs, selections
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.whole import damaged
from gradsift.pipelines.recipe import load_recipe, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.validate.table import mean_ci95

KILLED_AT = ("read pool", "warm-up", "checkpoint 0: gradients of small", "checkpoint 1: gradients", "validation runs")


def changed(data, **sections):
    return parse_recipe({k: ({**data[k], **v} if isinstance(v, dict) else v) for k, v in (data | sections).items()})


def digests(result):
    return [s.digest for s in result.selections]


def test_a_run_makes_what_it_says(finished):
    data, root, result = finished
    assert [s.stage for s in result.stages] == [
        "model", "ingest", "warmup", "gradients-0", "gradients-1", "select", "export", "validate", "report",
    ]  # fmt: skip
    assert result.selections[0].examples == 12
    names = {(a.arm, len(a.seeds)) for a in result.arms}
    assert names == {("base", 1), ("selected", 3), ("random", 3), ("random_tokens", 3)}
    selected = next(a for a in result.arms if a.arm == "selected")
    assert {name: v.seeds for name, v in selected.versus.items()} == {"random": 3, "random_tokens": 3, "base": 3}
    with Store(root) as store:
        assert not maintenance.verify(store)
        assert not maintenance.garbage(store, grace=-1)


def test_promise_2_a_second_run_computes_nothing(finished, tmp_path):
    data, root, first = finished
    shutil.copytree(root, tmp_path / "store")
    with Store(tmp_path / "store") as store:
        shards = store.catalog.rows("SELECT * FROM shard")
        again = curate(parse_recipe(data), store)
        assert all(row.computed == 0 for row in again.rows)
        assert len(store.catalog.rows("SELECT * FROM shard")) == len(shards)
    assert digests(again) == digests(first)
    assert again.arms == first.arms


def test_promise_2_new_rows_alone_are_computed(finished, tmp_path, data_dir):
    data, root, result = finished
    left_out = result.ingest.pool.examples - result.ingest.pool.used  # leaks, which this pool keeps
    shutil.copytree(root, tmp_path / "store")
    grown = tmp_path / "grown.jsonl"
    extra = {"prompt": "Spell cat dog backwards.", "completion": "g o d t a c", "source": "new"}
    grown.write_bytes((data_dir / "small.jsonl").read_bytes() + json.dumps(extra).encode() + b"\n")
    with Store(tmp_path / "store") as store:
        space = result.pool_rows[-1].space_id
        before = {i for block in features.read(store, space) for i in block.example_ids}
        from gradsift.pipelines.features import gradients
        from gradsift.pipelines.features.space import make_job
        from gradsift.pipelines.model.work import open_work
        from gradsift.pipelines.pool.ingest import ingest
        from gradsift.pipelines.recipe import Source

        recipe = parse_recipe(data)
        pool, _ = ingest(store, "pool", "small", [Source(path=str(grown))])
        from gradsift.datastore import checkpoints

        point = checkpoints.by_digest(store, features.space_spec(store, space)["checkpoint"])
        work = open_work(store, recipe)
        job = make_job(work, point)
        space, planned = gradients.plan_rows(store, job, pool)
        assert planned == 1 + left_out
        assert gradients.dataset_rows(work, job, pool).computed == 1 + left_out
        after = {i for block in features.read(store, space) for i in block.example_ids}
        assert len(after - before) == 1 + left_out


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"batch_tokens": 300}, {"unit_rows": 7}, {"workers": 3}])
def test_promise_5_same_selection_whatever_batch_or_workers(finished, tmp_path, change):
    data, _, first = finished
    workers = change.pop("workers", 1)
    recipe = changed(data, features={**data["features"], **change}, workers=workers, validate=None)
    with Store(tmp_path / "store") as store:
        result = curate(recipe, store)
        assert not maintenance.garbage(store, grace=-1)
    assert digests(result) == digests(first)


@pytest.mark.slow
def test_promise_5_another_seed_is_another_selection(finished, tmp_path):
    data, _, first = finished
    with Store(tmp_path / "store") as store:
        assert digests(curate(changed(data, seed=1, validate=None), store)) != digests(first)


@pytest.mark.slow
def test_promise_1_and_2_kill_9_anywhere_and_go_on(finished, tmp_path):
    """A run is killed with SIGKILL again and again, stage by stage; it then equals one that was never killed."""
    data, _, first = finished
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    command = ["-m", "gradsift", "run", "recipe.yaml", "--no-prefect", "--json", "--store", "store"]
    left, killed = list(KILLED_AT), True
    while killed:
        with (tmp_path / "out").open("w") as out:
            process = start(*command, cwd=tmp_path, stdout=out)
        shown, killed = [], False
        for line in process.stderr:
            shown.append(line)
            if left and line.startswith(left[0]):
                time.sleep(0.05 * len(left))  # some way into the work that follows
                process.kill()
                killed = bool(left.pop(0))
                break
        process.communicate()
    assert process.returncode == 0, "".join(shown)
    result = json.loads((tmp_path / "out").read_text())
    assert not left, f"no progress said {left}"
    assert [s["digest"] for s in result["selections"]] == digests(first)
    losses = {arm["arm"]: arm["test_loss"] for arm in result["arms"]}
    for arm in first.arms:
        np.testing.assert_allclose(losses[arm.arm], arm.test_loss, rtol=1e-4)
    with Store(tmp_path / "store") as store:
        assert not maintenance.verify(store)
        for space in store.catalog.rows("SELECT space_id FROM feature_space"):
            ids = [i for block in features.read(store, space["space_id"]) for i in block.example_ids]
            assert len(ids) == len(set(ids))
        assert not store.catalog.rows("SELECT * FROM feature_row WHERE status = 'planned'")


def test_two_runs_at_once_the_second_is_told(finished, tmp_path, recipe, monkeypatch):
    """At once: nothing is waited for, least of all the end of the lease."""
    from concurrent.futures import ThreadPoolExecutor

    with Store(tmp_path / "store") as store, leases.held(store, leases.RUN):
        started = time.monotonic()
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the second run waits"))
        with ThreadPoolExecutor(1) as pool, pytest.raises(BusyError, match="another run"):
            pool.submit(curate, recipe, store).result()
        assert time.monotonic() - started < leases.TTL_SECONDS


def test_the_export_is_what_load_dataset_reads(finished, tmp_path):
    import datasets

    data, root, result = finished
    folder = Path(result.selections[0].export)
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 12
    assert set(rows[0]["messages"][0]) == {"role", "content"}
    assert rows["rank"][:3] == [0, 1, 2]
    assert rows["score"] == sorted(rows["score"], reverse=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["selection"]["digest"] == result.selections[0].digest
    assert manifest["seed"] == 0
    assert sum(manifest["sources"].values()) == 12
    assert manifest["licences"] == {"CC0-1.0": 12}
    assert not damaged(folder)
    again = load_recipe(folder / "recipe.yaml")
    assert again.name == "small"


def test_an_export_carries_the_recipe_that_made_it(finished, tmp_path):
    """Not that of whatever ran last in the store."""
    data, root, _ = finished
    shutil.copytree(root, tmp_path / "store")
    other = {k: v for k, v in data.items() if k != "validate"} | {"name": "other", "select": {"examples": 5}}
    with Store(tmp_path / "store") as store:
        curate(parse_recipe(other), store)
        for name, size in (("small-sql", 12), ("other-sql", 5)):
            recipe = runs.recipe_of(store, selections.get(store, name)).resolved
            assert recipe["select"]["examples"] == size
            assert recipe["name"] == name.removesuffix("-sql")


def test_an_export_is_replaced_whole_and_nothing_else_is_overwritten(copy, tmp_path):
    chosen = selections.get(copy, "small-sql")
    data = runs.recipe_of(copy, chosen)
    folder = export(copy, chosen, data, tmp_path / "out")
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert (export(copy, chosen, data, folder) / "manifest.json").stat().st_mtime_ns == stamp
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"cut")
    assert not damaged(export(copy, chosen, data, folder))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not a gradsift export"):
        export(copy, chosen, data, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="there are: small-sql"):
        selections.get(copy, "other")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_method_of_the_recipe_has_its_plain_rows_and_plain_pool_rows_are_not_made_twice(recipe_data, tmp_path):
    few = {"pool": [{"path": recipe_data["pool"][0]["path"], "rows": 24}], "validate": None}
    asked = {"select": {"method": "trak", "examples": 5}}
    features_of = {"projector": {"dim": 256}, "plain_rows": False}
    with Store(tmp_path / "adam") as store:
        result = curate(parse_recipe({**recipe_data, **few, **asked, "features": features_of}), store)
        assert [row.role for row in result.rows] == ["target", "pool", "plain"] * 2
        assert result.selections[0].examples == 5
    with Store(tmp_path / "sgd") as store:
        plain = {**recipe_data, **few, **asked, "features": features_of | {"transform": "sgd"}}
        result = curate(parse_recipe(plain), store)
        assert [row.role for row in result.rows] == ["target", "pool"] * 2
        assert result.selections[0].examples == 5


def test_plain_rows_come_from_the_same_pass_and_alone_where_they_are_missing(finished, tmp_path, monkeypatch):
    """One forward and backward makes both; a kill between the two commits costs the plain rows of one unit."""
    from gradsift.pipelines.features import gradients

    data, _, result = finished
    recipe = changed(data, name="twice", validate=None)
    passes, commit = [], features.commit_rows
    extract = gradients.Extractor.extract

    def counted(self, ids, chats, **options):
        passes.append((self.job.transform, len(ids)))
        return extract(self, ids, chats, **options)

    def killed(*args):
        if len(passes) == 4:
            raise KeyboardInterrupt
        commit(*args)

    monkeypatch.setattr(gradients.Extractor, "extract", counted)
    monkeypatch.setattr(gradients.features, "commit_rows", killed)
    with Store(tmp_path / "store") as store:
        with pytest.raises(KeyboardInterrupt):
            curate(recipe, store)
        again = curate(recipe, store)
        assert digests(again) == digests(result)
        by_transform = Counter()
        for transform, size in passes:
            by_transform[transform] += size
        pool = sum(row.statuses["ok"] for row in again.pool_rows)
        assert by_transform["adam_exact"] == pool  # none twice
        targets = sum(row.statuses["ok"] for row in again.rows if row.role == "target")
        assert by_transform["sgd"] == targets + 32  # and the plain rows of the unit that was killed
        plain = [row.space_id for row in again.rows if row.role == "plain"]
        assert sum(len(features.ids_with_rows(store, space)) for space in plain) == pool
        blocks = [block for space in plain for block in features.read(store, space)]
        assert {tuple(block.signals.column_names) for block in blocks} == {("grad_norm",)}  # whichever pass made them


def test_test_rows_may_not_be_seen_by_the_selection(recipe_data, store):
    data = json.loads(json.dumps(recipe_data))
    data["targets"]["sql"]["test"] = data["targets"]["sql"]["val"]
    with pytest.raises(InputError, match="may not see the test set"):
        curate(parse_recipe(data), store)


def test_test_rows_may_not_be_seen_through_another_target(recipe_data, store, write_jsonl):
    """One row of sql's test set stands in the `val` of another target: a mixture for both would have seen it."""
    data = json.loads(json.dumps(recipe_data))
    sql = data["targets"]["sql"]
    rows = [json.loads(line) for line in Path(sql["val"]["path"]).read_text("utf-8").splitlines()[:5]]
    stolen = json.loads(Path(sql["test"]["path"]).read_text("utf-8").splitlines()[0])
    own = [{"prompt": f"q {k}", "completion": f"a {k}"} for k in range(4)]
    data["targets"]["other"] = {
        "val": {"path": str(write_jsonl(*rows, stolen, name="other-val.jsonl"))},
        "test": {"path": str(write_jsonl(*own, name="other-test.jsonl"))},
    }
    with pytest.raises(InputError, match=r"targets\.sql: 1 test rows are also in the `val` of targets\.other"):
        curate(parse_recipe(data), store)


def test_provenance_is_kept(finished):
    _, root, _ = finished
    with Store(root) as store:
        chosen = selections.get(store, "small-sql").example_ids[0]
        rows = store.catalog.named("lineage", id=chosen)
        assert rows[0]["file"].endswith("small.jsonl")
        assert rows[0]["line"] > 0
        assert rows[0]["selection"] == "small-sql"
        assert examples.get_messages(store, [chosen])[chosen][-1]["role"] == "assistant"


def test_student_t_interval():
    mean, half = mean_ci95([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / 3**0.5))
    assert mean_ci95([5.0]) == (5.0, None)


@pytest.mark.slow
def test_test_rows_in_the_pool_are_left_out(recipe_data, store, tmp_path):
    data = json.loads(json.dumps(recipe_data))
    pool, test = Path(data["pool"][0]["path"]), Path(data["targets"]["sql"]["test"]["path"])
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_bytes(pool.read_bytes() + b"".join(test.read_bytes().splitlines(keepends=True)[:5]))
    result = curate(parse_recipe(data | {"pool": [{"path": str(mixed)}], "validate": None}), store)
    assert result.ingest.pool.left_out_test_rows >= 5
    held_out = {r["example_id"] for r in store.catalog.rows(
        "SELECT example_id FROM dataset_member JOIN dataset USING (dataset_id) WHERE role='test'")}  # fmt: skip
    assert not held_out & set(selections.get(store, "small-sql").example_ids)


def test_a_warm_up_that_diverges_is_an_error_that_says_what_to_do(recipe_data, store):
    wild = recipe_data["warmup"] | {"lr": 1e30, "max_grad_norm": 1e30}
    data = {k: v for k, v in recipe_data.items() if k != "validate"} | {"warmup": wild}
    with pytest.raises(InputError, match=r"warm-up diverged: .* not finite.*Lower the learning rate \(lr 1e\+30"):
        curate(parse_recipe(data), store)
    assert store.catalog.one("SELECT count(*) AS n FROM checkpoint")["n"] == 0


def test_a_warm_up_of_one_step_is_enough(recipe_data, store):
    """Its rate after the step is 0; the one checkpoint still counts whole."""
    short = recipe_data["warmup"] | {"epochs": 1, "min_examples": 8, "fraction": 0.001, "batch_size": 8}
    data = {k: v for k, v in recipe_data.items() if k != "validate"} | {"warmup": short}
    result = curate(parse_recipe(data), store)
    assert store.catalog.one("SELECT max(step) AS n FROM checkpoint")["n"] == 1
    assert result.selections[0].examples == 12
