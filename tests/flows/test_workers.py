"""Which workers a recipe names, and what is said of those that are not there or give up."""

import json
import sys

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from gradsift.datastore.errors import InputError, WorkerError
from gradsift.datastore.place import Place
from gradsift.flows.runners import TRUSTED, recorded_workers, workers_of
from gradsift.flows.validate import validate_with_prefect
from gradsift.pipelines.model.pieces import TRIES, finish
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Runner


def pool(workers):
    return ThreadPoolTaskRunner(max_workers=workers)


def test_the_kinds_of_runner():
    assert workers_of(Runner(), 1).runner is None
    assert isinstance(workers_of(Runner(), 3).runner, ThreadPoolTaskRunner)
    two = workers_of(Runner(kind="process"), 2)
    assert isinstance(two.runner, ProcessPoolTaskRunner)
    assert two.threads >= 1
    there = workers_of(Runner(kind="dask", address="tcp://host:8786"), 2)
    assert there.runner.address == "tcp://host:8786"
    assert there.threads is None  # the host's own
    assert workers_of(Runner(kind="dask"), 2).runner.cluster_kwargs["n_workers"] == 2
    assert workers_of(Runner(kind="ray"), 2).runner.init_kwargs["num_cpus"] == 2
    assert workers_of(Runner(kind="ray", address="auto"), 2).runner.init_kwargs["address"] == "auto"
    assert isinstance(workers_of(Runner(kind=f"{__name__}:pool"), 2).runner, ThreadPoolTaskRunner)


@pytest.mark.parametrize("package", ["dask", "ray"])
def test_a_missing_package_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, f"prefect_{package}", None)
    with pytest.raises(InputError, match=rf"pip install 'gradsift\[{package}\]"):
        workers_of(Runner(kind=package), 2)


@pytest.mark.parametrize(
    ("function", "words"),
    [("no_such_package:make", "cannot be imported"), ("math:make", "cannot be imported"), ("math:sqrt", "gave 1.0")],
)
def test_a_function_that_gives_no_task_runner_is_told(function, words):
    with pytest.raises(InputError, match=words):
        workers_of(Runner(kind=function), 1)


@pytest.mark.parametrize(
    "runner",
    [f"{__name__}:hostile", {"kind": "dask", "address": "tcp://evil:8786"}, {"kind": "ray", "address": "auto"}],
)
def test_a_recorded_recipe_names_no_code_and_no_cluster_unless_its_reader_does(copy, recipe, monkeypatch, runner):
    """The store may be somebody else's: what it recorded must run nothing."""
    with copy.catalog.write() as db:
        for row in db.rows("SELECT run_id, recipe FROM run"):
            forged = json.dumps(json.loads(row["recipe"]) | {"runner": runner})
            db.execute("UPDATE run SET recipe=? WHERE run_id=?", (forged, row["run_id"]))
    with pytest.raises(InputError, match=rf"could run any code here: set {TRUSTED}="):
        validate_with_prefect(Place(copy.root))
    own = recipe.model_copy(update={"runner": Runner(kind=f"{__name__}:pool")})
    monkeypatch.setenv(TRUSTED, f"{__name__}:pool")
    assert isinstance(recorded_workers(own).runner, ThreadPoolTaskRunner)


def hostile(_workers):
    raise AssertionError("a recorded function was called")


class Stuck:
    """A piece whose workers die."""

    name, rows, alone = "unit 7", 3, False

    def __init__(self, order):
        self.order = order


def test_work_whose_workers_die_again_and_again_ends_with_its_name(store, recipe):
    rounds = []

    def spread(pieces, _done):
        rounds.append(len(pieces))
        return ["KilledWorker: gone"]

    work = Work(store, recipe, spread=spread)
    stuck = Stuck(work.order(model=False))
    with pytest.raises(WorkerError, match=r"KilledWorker: gone.*unit 7") as caught:
        finish(work, lambda: [stuck], lambda _piece: None)
    assert len(rounds) == TRIES
    assert caught.value.exit_code == 8


def test_work_goes_on_while_something_is_done(store, recipe):
    left = [1, 1, 1, 1, 1, 1]

    def spread(_pieces, _done):
        left.pop()
        return ["WorkerCrashedError: gone"]

    work = Work(store, recipe, spread=spread)
    finish(work, lambda: [Stuck(work.order(model=False))] * len(left), lambda _piece: None)
    assert not left
