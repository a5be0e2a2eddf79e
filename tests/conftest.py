"""Fixtures: a tiny real model and tokenizer, a small recipe, and a finished run to look at."""

import os
import shutil

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see gradsift/__main__.py
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PREFECT_SERVER_ANALYTICS_ENABLED="false")

import json
from pathlib import Path

import pytest
from hypothesis import settings

from gradsift.datastore import files
from gradsift.datastore.store import Store
from gradsift.pipelines.demo.data import write_demo_data
from gradsift.pipelines.demo.model import make_demo_model
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A Llama of 0.5 M parameters, trained for three steps: real weights, no skill."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_demo_model(folder, steps=3)
    return folder


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory, model_dir):
    """A small encoder of random weights with the model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_demo_data(folder)
    lines = (folder / "pool.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "small.jsonl").write_bytes(b"".join(line for line in lines[:160] if len(line) < 2_000))
    return folder


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
        "features": {"projector": {"dim": 512}, "unit_rows": 32},
        "select": {"examples": 12},
        "validate": {"seeds": [0, 1, 2], "epochs": 1, "test_rows": 12},
    }


@pytest.fixture
def recipe(recipe_data):
    return parse_recipe(recipe_data)


@pytest.fixture(scope="session")
def finished(recipe_data, tmp_path_factory):
    """(recipe data, store folder, result) of a finished run. Read only: copy the folder to change it."""
    root = tmp_path_factory.mktemp("finished") / "store"
    with Store(root) as store:
        result = curate(parse_recipe(recipe_data), store)
    return recipe_data, root, result


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished store, open."""
    shutil.copytree(finished[1], tmp_path / "copy")
    with Store(tmp_path / "copy") as opened:
        yield opened


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


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
