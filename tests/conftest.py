"""Fixtures: a tiny real model and tokenizer, a small recipe, and a finished run to look at.

What is expensive is built once for a test run, however many workers share it (`built_once`).
"""

import json
import os
import pickle
import secrets
import shutil
import signal
from pathlib import Path

import hostile
import pytest
from filelock import FileLock
from hypothesis import settings
from marks import MarkCheck
from postgres import Server, stores_on
from prefect_server import on_server, prefect_home, prefect_url  # noqa: F401 - fixtures
from reliability import Reliability, tally  # noqa: F401 - a fixture
from workers import CORES, MOST_WORKERS, WORKER, WORKERS  # before gradsift, which imports torch

import gradsift
from gradsift.datastore import examples, files, outputs, place
from gradsift.datastore.store import Store
from gradsift.pipelines.demo.data import write_demo_data
from gradsift.pipelines.demo.model import make_demo_model
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: tests that send it would wait
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("GRADSIFT_CHECK_MARKS"):
        config.pluginmanager.register(MarkCheck())
    if path := os.environ.get("GRADSIFT_RELIABILITY"):
        config.pluginmanager.register(Reliability(path))


def pytest_xdist_auto_num_workers():
    """`-n auto`: a worker for each core that this process may use, and one for when others wait for servers."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", min(CORES + 1, MOST_WORKERS)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Slow tests first where workers share them (files at a time): none is left alone with a long one at the end."""
    if WORKERS > 1:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """`built_once(name, build)`: a folder that `build` fills, in the worker of this test run that asks for it first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if WORKER else base

    def folder_of(name, build):
        folder = shared / f"shared-{name}"
        with FileLock(shared / f"shared-{name}.lock"):
            if not (folder / ".complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                (folder / ".complete").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for the tests of this process."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True, scope="session")
def _catalogs(request):
    """GRADSIFT_TEST_CATALOG=postgresql: every store that this process opens has its catalog on a server."""
    if os.environ.get("GRADSIFT_TEST_CATALOG") == "postgresql":
        with pytest.MonkeyPatch.context() as patch:
            stores_on(request.getfixturevalue("postgres"), patch)
            yield
    else:
        yield


@pytest.fixture
def catalog_url(postgres):
    """The URL of a catalog on that server that does not exist yet."""
    return postgres.url(f"t_{secrets.token_hex(8)}")


@pytest.fixture(scope="session")
def model_dir(built_once):
    """A Llama of 0.5 M parameters, trained for three steps: real weights, no skill."""
    return built_once("model", lambda folder: make_demo_model(folder / "tiny", steps=3)) / "tiny"


@pytest.fixture(scope="session")
def encoder_dir(built_once, model_dir):
    """A small encoder of random weights with the model's tokenizer."""

    def build(folder):
        import torch
        from transformers import AutoTokenizer, BertConfig, BertModel

        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        with torch.random.fork_rng():  # the same weights whichever test asks first
            torch.manual_seed(0)
            BertModel(config).save_pretrained(folder / "tiny")
        tokenizer.save_pretrained(folder / "tiny")

    return built_once("encoder", build) / "tiny"


@pytest.fixture(scope="session")
def data_dir(built_once):
    def build(folder):
        write_demo_data(folder)
        lines = (folder / "pool.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "small.jsonl").write_bytes(b"".join(line for line in lines[:160] if len(line) < 2_000))

    return built_once("data", build)


@pytest.fixture(scope="session")
def recipe_data(model_dir, data_dir):
    """A recipe as plain data; small enough for seconds."""
    return {
        "name": "small",
        "pool": [{"path": str(data_dir / "small.jsonl")}],
        "targets": {
            "sql": {
                "val": {"path": str(data_dir / "val.jsonl")},
                "test": {"path": str(data_dir / "test.jsonl")},
                "own_sources": ["sql", "sql-near-duplicate"],
            }
        },
        "decontaminate": {"share": 0.9},  # questions of one sentence: see pipelines/demo/model.py
        "model": {"path": str(model_dir)},
        "encoding": {"max_length": 128},
        "lora": {"r": 4},
        "warmup": {"fraction": 0.2, "min_examples": 16, "epochs": 2, "batch_size": 8, "lr": 1e-3},
        "features": {"projector": {"dim": 512}, "unit_rows": 32, "plain_rows": True},
        "select": {"examples": 12},
        "validate": {"seeds": [0, 1, 2], "epochs": 1, "test_rows": 12},
    }


@pytest.fixture
def recipe(recipe_data):
    return parse_recipe(recipe_data)


@pytest.fixture(scope="session")
def finished(recipe_data, built_once, tmp_path_factory):
    """(recipe data, store folder, result) of a finished run. Read only: copy the folder to change it.

    Each worker has its own copy: reading a catalog makes files beside it, which another worker must not meet.
    """

    def build(folder):
        with Store(folder / "store") as store:
            result = curate(parse_recipe(recipe_data), store)
        (folder / "result.pickle").write_bytes(pickle.dumps(result))

    made = built_once("finished", build)
    root = tmp_path_factory.mktemp("finished") / "store"
    shutil.copytree(made / "store", root)
    yield recipe_data, root, pickle.loads((made / "result.pickle").read_bytes())
    with Store(root) as store:
        assert not outputs.noted(store, "export"), "a test exported from the shared store: let it take `copy`"


@pytest.fixture(scope="session")
def searched(recipe_data, encoder_dir, built_once, tmp_path_factory):
    """The folder of a finished run of 96 rows in three shards, which has rows of every space that can be searched: plain
    gradients, embeddings, an encoder's. Read only: copy it to change it."""
    (source,) = recipe_data["pool"]
    select = {"examples": 12, "encoder": str(encoder_dir)}
    recipe = recipe_data | {"pool": [source | {"rows": 96}], "select": select, "validate": None}

    def build(folder):
        with Store(folder / "store") as store:
            curate(parse_recipe(recipe), store)

    root = tmp_path_factory.mktemp("searched") / "store"
    shutil.copytree(built_once("searched", build) / "store", root)
    return root


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished store, open."""
    shutil.copytree(finished[1], tmp_path / "copy", ignore=shutil.ignore_patterns("kept"))  # what other tests asked for
    with Store(tmp_path / "copy") as opened:
        yield opened


@pytest.fixture(scope="session")
def browsed(finished, built_once, tmp_path_factory):
    """The folder of the finished store with more to look at: a selection that prunes tokens (`small-qtuning-sql`), one by
    chance (`small-random-sql`), and hostile rows (`hostile.py`). Read only, as `finished`."""

    def build(folder):
        shutil.copytree(finished[1], folder / "store")
        with Store(folder / "store") as store:
            gradsift.select("qtuning", examples=40, store=store)
            gradsift.select("random", examples=60, store=store)
            examples.add(store, hostile.rows())

    root = tmp_path_factory.mktemp("browsed") / "store"
    shutil.copytree(built_once("browsed", build) / "store", root)
    return root


@pytest.fixture
def replaced(finished, tmp_path):
    """A copy of the finished store whose model was replaced on disk since: its last run names other weights."""
    shutil.copytree(finished[1], tmp_path / "replaced")
    make_demo_model(tmp_path / "other", steps=1, seed=9)
    with Store(tmp_path / "replaced") as opened:
        with opened.catalog.write() as db:
            other = json.dumps(finished[0] | {"model": {"path": str(tmp_path / "other")}})
            db.execute("UPDATE run SET recipe = ?", (other,))
        yield opened


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request, tmp_path):
    """An empty store, its catalog in either database."""
    at = place.Place(tmp_path / "either")
    if request.param == "postgresql":
        at = place.Place(tmp_path / "either", request.getfixturevalue("catalog_url"), (tmp_path / "files").as_uri())
    with Store(at) as opened:
        yield opened


@pytest.fixture(scope="module")
def s3_server():
    """`host:port` of an S3 server for the tests of a file; this process has its credentials."""
    import s3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.CREDENTIALS.items():
            patch.setenv(name, value)
        with s3.server() as address:
            yield address


@pytest.fixture
def bucket(s3_server):
    """A new bucket of the S3 server."""
    import s3

    return s3.Bucket(s3_server, f"files-{os.urandom(6).hex()}")


@pytest.fixture
def faulty(s3_server):
    """(`host:port`, faults) of a proxy before the S3 server."""
    import s3

    with s3.proxy(s3_server) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_failpoint():
    yield
    files.failpoint = lambda _step: None


@pytest.fixture
def write_jsonl(tmp_path):
    def write(*rows, name="rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write
