"""Recipes: unknown keys are refused with a suggestion; paths are the recipe's own."""

import copy
import json
import re

import pytest
import yaml

from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import canonical_json
from gradsift.pipelines.recipe import Runner, load_recipe, parse_recipe, recorded_recipe

MINIMAL = {
    "name": "x",
    "pool": [{"path": "pool.jsonl"}],
    "targets": {"t": {"val": {"path": "val.jsonl"}}},
    "model": {"path": "model"},
    "select": {"fraction": 0.05},
}


def put(path, value):
    data = copy.deepcopy(MINIMAL)
    inner = data
    for key in path[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("modle",), {}, r"modle: unknown key; did you mean `model`\?"),
        (("warmup", "epoch"), 2, r"warmup\.epoch: unknown key; did you mean `epochs`\?"),
        (("features", "projector", "dims"), 8, r"features\.projector\.dims: unknown key; did you mean `dim`\?"),
        (("targets", "t", "vals"), {}, r"targets\.t\.vals: unknown key; did you mean `val`\?"),
        (("pool", 0, "shapes"), "x", r"pool\.0\.shapes: unknown key; did you mean `shape`\?"),
        (("validate", "zzz"), 1, r"validate\.zzz: unknown key; known here: epochs"),
        (("name",), "No Spaces", "name: String should match"),
        (("name",), "../up", "name: String should match"),
        (("select", "examples"), 5, "exactly one of `fraction`, `examples` and `label_tokens`"),
        (("model", "hub"), "a/b", "exactly one of `path` and `hub`"),
        (("lora", "r"), 0, r"lora\.r: Input should be greater than 0"),
        (("validate", "seeds"), [1, 1], "seeds must be distinct"),
    ],
)
def test_a_wrong_field_is_named_with_the_next_step(path, value, words):
    with pytest.raises(InputError, match=words):
        parse_recipe(put(path, value))


def test_paths_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(MINIMAL))
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.pool[0].path == str(tmp_path / "pool.jsonl")
    assert recipe.model.path == str(tmp_path / "model")
    assert recipe.targets["t"].val.path == str(tmp_path / "val.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no recipe"),
        ("a: [", "not valid YAML"),
        ("- a", "must hold a mapping"),
        (b"\xff", "cannot read"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        load_recipe(path)


def test_a_resolved_recipe_reads_back(tmp_path):
    recipe = parse_recipe(MINIMAL)
    assert parse_recipe(recipe.model_dump(mode="json", by_alias=True)) == recipe


def test_a_recipe_that_was_written_and_read_again_is_the_same_to_every_digest(recipe_data):
    """A default of 16 for a float became 16.0 in the catalog, and the first `validate` trained every arm again."""
    more = {"mix": {"examples": 5}, "dedup": {"semantic": {"represent": "gradients"}}, "validate": {}}
    first = parse_recipe(recipe_data | more)
    again = parse_recipe(json.loads(json.dumps(first.model_dump(mode="json", by_alias=True))))
    assert canonical_json(again.model_dump(mode="json")) == canonical_json(first.model_dump(mode="json"))


def test_a_recorded_recipe_has_todays_names():
    """What a store of an older version recorded is read, wherever it names methods; a user's own file is corrected."""
    tsds = {"method": "tsds", "options": {"kde_points": 50}}
    then = MINIMAL | {
        "select": {"fraction": 0.05, **tsds},
        "mix": {"examples": 9, "parts": [{"target": "t", "select": tsds}]},
    }
    now = recorded_recipe(then, "recorded")
    assert now.select.options == now.mix.parts[0].select.options == {"kde_neighbours": 50}
    ccs = {"fraction": 0.05, "method": "ccs", "options": {"low": 10}}
    assert recorded_recipe(MINIMAL | {"select": ccs}, "recorded").select.method == "ccs_adapt"
    with pytest.raises(InputError, match="kde_points"):
        parse_recipe(then)


def test_what_cannot_be_validated_is_refused_before_any_work():
    mixture = {k: v for k, v in MINIMAL.items() if k != "select"} | {"mix": {"examples": 5}}
    with pytest.raises(InputError, match="`redrawn` makes the selection of `select` again"):
        parse_recipe(mixture | {"validate": {"arms": ["random", "redrawn"]}})


def test_plain_rows_that_are_asked_for_are_made():
    recipe = parse_recipe(
        MINIMAL | {"select": {"fraction": 0.05, "method": "random"}, "features": {"plain_rows": True}}
    )
    assert recipe.needs_rows
    assert recipe.needs_plain
    bare = {k: v for k, v in MINIMAL.items() if k != "model"}
    with pytest.raises(InputError, match=r"`features.plain_rows` needs `model`"):
        parse_recipe(bare | {"select": {"fraction": 0.05, "method": "random"}, "features": {"plain_rows": True}})


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ("dusk", "no runner 'dusk'; did you mean `dask`"),
        ({"kind": "threads", "address": "tcp://host:8786"}, "runner `threads` has no `address`"),
        ({"kind": "dask", "address": "ray://host:10001"}, "it begins with tcp:// or tls:// or ucx://"),
        ({"kind": "ray", "address": "host:10001"}, "it begins with ray:// or auto"),
        ({"kind": "dask", "adress": "tcp://host:8786"}, "adress"),
    ],
)
def test_a_runner_that_makes_no_sense_is_told(recipe_data, runner, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_recipe(recipe_data | {"runner": runner})


def test_a_runner_is_a_word_or_a_section(recipe_data):
    assert parse_recipe(recipe_data).runner == Runner(kind="threads")
    assert parse_recipe(recipe_data | {"runner": "ray"}).runner == Runner(kind="ray")
    there = {"kind": "dask", "address": "tcp://host:8786"}
    recipe = parse_recipe(recipe_data | {"runner": there})
    assert recipe.runner == Runner(**there)
    with pytest.raises(InputError, match="`runner: dask`, whose workers get their work from Prefect"):
        recipe.require_threads()
