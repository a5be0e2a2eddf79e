"""Which workers a recipe names, and what is said of those that are not there or give up."""

import sys

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from gradsift.datastore.errors import InputError, WorkerError
from gradsift.flows.runners import workers_of
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
