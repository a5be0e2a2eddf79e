"""Units, signatures and validation runs as tasks: the same digests whoever does them, and no row twice when one dies."""

import os
import shutil
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from gradsift.datastore import features
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
from gradsift.flows.curate import curate_with_prefect
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_server")]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Dask sets threads of its workers in the environment of the process that starts them, and leaves them there."""
    with monkeypatch.context() as patch:
        for name, value in os.environ.items():
            patch.setenv(name, value)
        before = set(os.environ)
        yield
        for name in set(os.environ) - before:
            del os.environ[name]


def recipe_for(data, encoder_dir, **changes):
    """Other rows, screening and arms than the finished store has, at its checkpoints: little work of every kind."""
    return parse_recipe(
        data
        | {
            "features": {"projector": {"dim": 256}, "unit_rows": 16},
            "decontaminate": {"share": 0.9, "ngram": 7, "minhash": {"permutations": 64}},
            "dedup": {
                "minhash": {"permutations": 64},
                "semantic": {"represent": "encoder", "encoder": str(encoder_dir)},
            },
            "validate": {"seeds": [0], "epochs": 1, "test_rows": 6, "arms": ["random"]},
        }
        | changes
    )


def outcome(store, result):
    """What must not depend on who did the work: digests, and rows and losses to rounding."""
    spaces = {(made.role, made.checkpoint, made.transform): made.space_id for made in result.rows}
    rows = {}
    for key, space in spaces.items():
        blocks = list(features.read(store, space))
        ids = [i for block in blocks for i in block.example_ids]
        assert len(ids) == len(set(ids))  # no row twice
        rows[key] = dict(
            zip(ids, np.concatenate([np.asarray(block.vectors, np.float32) for block in blocks]), strict=True)
        )
    losses = {(arm.target, arm.arm): arm.test_loss_mean for arm in result.arms}
    return [one.digest for one in result.selections], [s.reason for s in result.ingest.pool.left_out], rows, losses


def same(found, expected):
    assert found[:2] == expected[:2]
    assert {key: set(rows) for key, rows in found[2].items()} == {key: set(rows) for key, rows in expected[2].items()}
    for key, rows in expected[2].items():
        mine, theirs = (np.stack([one[i] for i in sorted(rows)]) for one in (found[2][key], rows))
        np.testing.assert_allclose(mine, theirs, rtol=2e-2, atol=2e-3 * np.abs(theirs).max())
    assert found[3] == pytest.approx(expected[3], abs=1e-4)


@pytest.fixture(scope="module")
def start(finished, encoder_dir, tmp_path_factory):
    """A copy of the finished store for each runner, and what one thread makes of the recipe."""
    data, root, _ = finished
    folder = tmp_path_factory.mktemp("runners")

    def copy(name):
        return shutil.copytree(root, folder / name)

    with Store(copy("one")) as store:
        expected = outcome(store, curate(recipe_for(data, encoder_dir), store))
    return lambda **changes: recipe_for(data, encoder_dir, **changes), copy, expected


@contextmanager
def killing_one(root):
    """Kill (-9) the first worker process that is seen to compute a unit; gives the list of those that were."""
    killed, over = [], threading.Event()

    def watch():
        with Store(root, create=False) as store:
            while not over.wait(0.01):
                for row in store.catalog.rows("SELECT holder FROM lease WHERE name LIKE 'unit/%'"):
                    pid = int(row["holder"].split(":")[1])
                    if not killed and pid != os.getpid():
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("kind", ["threads", "process", "dask", "ray"])
def test_promise_5_same_digests_whoever_does_the_work_and_whoever_dies(start, kind):
    """Two workers; where they are processes, one is killed while it computes a unit."""
    recipe, copy, expected = start
    root = copy(kind)
    with killing_one(root) as killed:
        result = curate_with_prefect(recipe(runner=kind, workers=2), Place(root))
    assert len(killed) == (kind != "threads")
    with Store(root) as store:
        same(outcome(store, result), expected)
