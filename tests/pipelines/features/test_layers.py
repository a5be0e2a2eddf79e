"""Layers: what lies below the lowest captured one costs no backward, and which are captured can be chosen from data."""

import random
from dataclasses import replace

import pytest
import torch

from gradsift.datastore import features, runs
from gradsift.datastore.errors import InputError
from gradsift.pipelines.demo.data import general_text
from gradsift.pipelines.features import layers
from gradsift.pipelines.features.capture import backward, capturing, contract, watched_layers
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.head import token_losses
from gradsift.pipelines.model.load import load_lora
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.pool.read import read_datasets
from gradsift.pipelines.recipe import ChosenLayers, Lora, Model, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.training.warmup import warm_up

RULE = {"choose": "agreement", "keep": 0.5, "probe": 8}


@pytest.fixture(scope="module")
def lora(model_dir):
    section = Model(path=str(model_dir))
    model = load_lora(open_model(section), section, Lora(r=4), 0).eval()
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.manual_seed(len(name))
            parameter.data.normal_(std=0.05)
    return model


@pytest.fixture(scope="module")
def batch(model_dir):
    tokenizer = open_model(Model(path=str(model_dir))).tokenizer
    return collate([encode(tokenizer, chat, 128) for chat in general_text(random.Random(3), 6)], 0)


def gradients(model, batch, only=None):
    found = {}
    watched = watched_layers(model, "lora", only)
    backward(model, batch, watched, lambda name, delta, x: found.__setitem__(name, contract(delta, x)))
    return found


def test_rows_of_upper_layers_are_their_part_of_all_rows(lora, batch):
    whole, part = gradients(lora, batch), gradients(lora, batch, ["*.layers.1.*q_proj*", "*.layers.1.mlp.*"])
    assert len(part) == 8
    for name, gradient in part.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_nothing_below_the_lowest_captured_layer_has_a_graph(lora, batch):
    """Every module below runs without a graph, and the backward has a step for each captured layer and for those that
    lie between it and the loss, no more."""
    block = lora.base_model.model.model.layers
    seen = {}

    def watch(number):
        return block[number].register_forward_hook(lambda _m, _i, out: seen.__setitem__(number, out.requires_grad))

    handles = [watch(number) for number in range(len(block))]
    only = watched_layers(lora, "lora", ["*.layers.1.mlp.*"])
    try:
        with capturing(lora, only, lambda *_: None, batch), torch.enable_grad():
            steps = fused_steps(token_losses(lora, batch).nll)
        assert seen == {0: False, 1: True, 2: True}
        assert steps == 3 + 7  # gate, up and down of block 1, not its attention; and all of block 2
        with capturing(lora, watched_layers(lora), lambda *_: None, batch), torch.enable_grad():
            assert fused_steps(token_losses(lora, batch).nll) == 3 * 7
    finally:
        for handle in handles:
            handle.remove()


def fused_steps(value):
    """Fused LoRA layers in the graph of a value."""
    todo, nodes = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return sum("FusedPass" in type(node).__name__ for node in nodes)


@pytest.fixture(scope="module")
def chosen(recipe_data, tmp_path_factory):
    """(recipe as data, result, store) of a run that has its layers chosen."""
    from gradsift.datastore.store import Store

    (source,) = recipe_data["pool"]
    changes = {
        "pool": [source | {"rows": 24}],
        "features": recipe_data["features"] | {"layers": RULE, "plain_rows": False},
        "warmup": recipe_data["warmup"] | {"epochs": 1},
        "select": {"examples": 4},
        "validate": None,
    }
    data = recipe_data | changes
    with Store(tmp_path_factory.mktemp("chosen") / "store") as store:
        yield data, curate(parse_recipe(data), store), store


def test_the_choice_is_a_property_of_rows_and_of_the_recipe_as_it_ran(chosen):
    data, result, store = chosen
    (kept,) = {tuple(features.space_spec(store, row.space_id)["parameters"]["layers"]) for row in result.rows}
    assert kept in [tuple(f"base_model.model.model.layers.{k}.*" for k in pair) for pair in ((0, 1), (1, 2))]
    run = runs.last_run(store)
    assert run.recipes.resolved["features"]["layers"] == list(kept)
    assert run.recipes.written["features"]["layers"] == RULE
    (note,) = [note for note in result.notes if "blocks" in note]
    assert f"2 of 3 blocks, {', '.join(kept)}: highest in agreement" in note
    assert "layers" in [stage.stage for stage in result.stages]


def test_a_grown_pool_keeps_the_choice(chosen):
    """Whatever the probe of the grown pool would say: the rows that exist stay, and nothing but new ones is computed."""
    data, result, store = chosen
    (source,) = data["pool"]
    grown = parse_recipe(data | {"pool": [source | {"rows": 30}]})
    planned = plan_run(grown, store.root)
    again = curate(grown, store)
    assert planned.rows_to_compute == again.ingest.pool.left - result.ingest.pool.left
    assert {row.space_id for row in again.rows} == {row.space_id for row in result.rows}
    assert sum(row.computed for row in again.rows) == again.ingest.pool.left - result.ingest.pool.left > 0
    for one in (again, curate(grown, store)):  # how well it agrees is told again, and again
        (note,) = [note for note in one.notes if "blocks" in note]
        assert "rank correlation of" in note
        assert note.endswith("It is the choice that an earlier run of this warm-up made.")


def test_another_rule_or_target_is_another_choice(chosen):
    data, _, store = chosen
    work = open_work(store, parse_recipe(data))
    material, _ = read_datasets(work)
    point = warm_up(work, material.pool).points[0]

    def kept(**rule):
        return layers.choose(work, material, point, ChosenLayers(**RULE | rule))

    assert "an earlier run" in kept().note
    (target,) = material.targets.values()
    other = replace(material, targets={"sql": replace(target, digest="other")})
    assert "an earlier run" not in layers.choose(work, other, point, ChosenLayers(**RULE)).note
    assert layers.as_before(work, other, [point]) is work
    assert layers.as_before(work, material, [point]) is not work
    assert len(kept(keep=1.0).layers) == 3
    assert kept(choose="energy", keep=0.3).layers in [[f"base_model.model.model.layers.{k}.*"] for k in range(3)]
    with pytest.raises(InputError, match="Set `choose: agreement`"):
        kept(choose="fisher")  # of one target
