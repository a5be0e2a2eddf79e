"""Validation under Prefect: on a task runner of processes, and its artifacts."""

import pickle
import shutil

import pytest

from gradsift.datastore.errors import InputError
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
from gradsift.flows.runners import Workers, processes
from gradsift.flows.tasks import in_flow
from gradsift.flows.validate import validate_with_prefect
from gradsift.pipelines.model.work import Order
from gradsift.pipelines.runs.revalidate import revalidate
from gradsift.pipelines.validate.arms import Arm
from gradsift.pipelines.validate.job import Benches, Job

SETTINGS = {"seeds": [0], "epochs": 1, "test_rows": 6, "arms": ["random", "less"]}


def losses(arms):
    return {(a.target, a.arm): list(a.test_loss) for a in arms}


@pytest.mark.slow
def test_processes_do_the_runs_and_agree_with_one_process(copy, tmp_path, monkeypatch):
    root = shutil.copytree(copy.root, tmp_path / "other")
    expected = losses(revalidate(copy, SETTINGS, out=tmp_path / "one.html").arms)

    def here(*_args, **_settings):
        raise AssertionError("the flow's own process should train nothing")

    monkeypatch.setattr("gradsift.pipelines.training.sft.fit", here)
    made = validate_with_prefect(Place(root), SETTINGS, out=tmp_path / "many.html", task_runner=processes(2))
    found = losses(made.arms)
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, abs=1e-4)
    with Store(root) as store:  # all is recorded: again, nothing is trained
        assert losses(revalidate(store, SETTINGS, out=tmp_path / "again.html").arms) == found
    assert (tmp_path / "many.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_failure_in_a_process_is_the_users_error(recipe, tmp_path):
    order = Order(Place(tmp_path / "nowhere"), recipe, "run", True)
    job = Job("lost", order, Arm("random", 0, ("x",), ("sql",)), 1e-3, None, Benches({}, {}))
    with pytest.raises(InputError, match="nowhere"):
        in_flow("validate", "test", lambda spread: spread([job], lambda _job: None), Workers(processes(2)))


def test_errors_cross_processes():
    again = pickle.loads(pickle.dumps(InputError("which file; what to do")))
    assert isinstance(again, InputError)
    assert str(again) == "which file; what to do"
