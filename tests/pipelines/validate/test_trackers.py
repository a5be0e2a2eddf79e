"""`validate.report_to`: a tracker sees each training and changes nothing of it. trackio is run for real, offline."""

import json
import shutil
from dataclasses import asdict

import pytest
import yaml
from running import python

from gradsift import api
from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import packages, parse_recipe

SETTINGS = {"seeds": [0], "arms": ["random"], "epochs": 1, "test_rows": 4, "lr": 3e-4, "batch_size": 6}
ALONE = """
import socket, sys
real = socket.socket.connect
def connect(self, address):
    host = address[0] if isinstance(address, tuple) else ""
    if host not in ("", "127.0.0.1", "::1", "localhost"):
        print("CONNECTS TO", address, file=sys.stderr)
    return real(self, address)
socket.socket.connect = connect
from gradsift.__main__ import main
main()
"""
READ = """
import json, trackio
print(json.dumps({
    run.name: trackio.sqlite_storage.SQLiteStorage.get_logs("small", run.name, run_id=run.id)
    for run in trackio.Api().runs("small")
}, default=str))
"""


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(one) for key, one in value.items() if "seconds" not in key and "bytes" not in key}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_trackio_sees_each_training_and_the_results_are_the_same(finished, tmp_path):
    """A run for each arm and seed, a row for each step with its loss and rate; standard output is the answer alone."""
    for name in ("with", "without"):
        shutil.copytree(finished[1], tmp_path / name)
    plain = api.validate(SETTINGS, store=tmp_path / "without").arms
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS | {"report_to": ["trackio"]}))
    offline = {"TRACKIO_DIR": str(tmp_path / "tracked"), "HF_HUB_OFFLINE": "1"}
    command = ["validate", "settings.yaml", "--no-prefect", "--json", "--store", "with"]
    done = python("-c", ALONE, *command, cwd=tmp_path, **offline)
    assert without_seconds(json.loads(done.stdout)["arms"]) == without_seconds([asdict(arm) for arm in plain])
    assert "Trackio" in done.stderr
    assert "CONNECTS" not in done.stderr
    seen = json.loads(python("-c", READ, cwd=tmp_path, **offline).stdout)
    assert set(seen) == {"small/selected/0", "small/random/0"}
    for name, rows in seen.items():
        steps = [row for row in rows if "train/loss" in row]
        assert len(steps) == 2, f"{name}: 12 rows in batches of 6"
        assert all(0 < row["train/loss"] < 20 for row in steps)
        assert all({"train/learning_rate", "train/grad_norm"} <= set(row) for row in steps)


def test_a_tracker_that_is_not_known_is_named_with_the_nearest(recipe_data):
    for name, said in (("trakio", "did you mean `trackio`?"), ("tensorboard", "known: trackio, wandb, mlflow")):
        with pytest.raises(InputError, match="no tracker") as told:
            parse_recipe(recipe_data | {"validate": {"report_to": [name]}})
        assert said in str(told.value)
    with pytest.raises(InputError, match="report_to must be distinct"):
        parse_recipe(recipe_data | {"validate": {"report_to": ["trackio", "trackio"]}})


def test_a_tracker_that_is_not_installed_is_named_before_any_work(recipe_data, finished, tmp_path, monkeypatch):
    real = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in ("wandb", "trackio") else real(name))
    with pytest.raises(
        InputError, match=r"`validate\.report_to: \[wandb\]` needs the package wandb, .* pip install wandb$"
    ):
        packages.check(parse_recipe(recipe_data | {"validate": {"report_to": ["wandb"]}}))
    with pytest.raises(InputError, match=r"pip install 'gradsift\[trackio\]'"):
        packages.check_validation(parse_recipe(recipe_data | {"validate": {"report_to": ["trackio"]}}))


def test_a_recorded_recipe_with_a_tracker_is_read_where_that_is_not_installed(recipe_data, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda _name: None)
    assert parse_recipe(recipe_data | {"validate": {"report_to": ["mlflow"]}}).validation.report_to == ["mlflow"]
