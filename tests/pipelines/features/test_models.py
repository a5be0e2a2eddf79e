"""Architectures: captured gradients are autograd's, one of each kind; what cannot be told apart is found by the probe."""

import sys

import pytest
import torch
from running import ROOT
from transformers import AutoModelForCausalLM, LlamaConfig

from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.features.capture import backward, watched_layers
from gradsift.pipelines.features.fit import Fit, fit
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.load import add_lora, load_base, lora_parameters
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import Lora, Model, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run

sys.path.insert(0, str(ROOT / "benchmarks"))
import models

sys.path.pop(0)

LLAMA = LlamaConfig(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "gpt2",  # weights stored as [I, O]
        "opt",  # MLP on [B·T, I]
        "bloom",  # residual inside the MLP
        "deepseek_v3",  # MLA, router in another dtype, shared experts
        "mixtral",  # LoRA of experts and routers
        "qwen2_moe",
        "gpt_oss",  # experts stored as [E, I, O], with biases and a gate of their own
        "llama4_text",  # a router that is a linear layer; experts without the common interface
        "hrm_text",  # each layer used several times
        "mamba",  # a weight that is applied without its module
    ],
)
@pytest.mark.parametrize("parameters", ["lora", "linear"])
def test_gradients_are_those_of_a_loop_of_autograd(kind, parameters):
    found = models.outcome(kind, parameters)
    assert not found.refused
    assert found.weights >= 8
    assert found.error < 1e-5
    assert not found.fit.left_out
    assert found.fit.together == ((kind, parameters) != ("mamba", "linear"))


def test_experts_and_routers_are_in_the_row():
    model = models.build("mixtral")
    linear = watched_layers(model, "linear")
    assert {"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.down_proj.3"} <= set(linear)
    only = watched_layers(model, "linear", ["*.experts.gate_up_proj.2"])
    assert list(only) == [f"model.layers.{k}.mlp.experts.gate_up_proj.2" for k in range(2)]
    adapted = add_lora(model, Lora(r=4))
    assert set(watched_layers(adapted)) == set(lora_parameters(adapted))
    assert any(".mlp.experts.base_layer.lora_A." in name for name in watched_layers(adapted))


def test_an_expert_that_no_token_reaches_has_a_gradient_of_zero():
    """And is there, since Adam's direction of it is not zero."""
    model, met = models.build("mixtral"), {}
    layers = watched_layers(model, "linear")
    one = models.rows([3])  # two tokens with two experts each, of four
    backward(model, collate(one, 7), layers, lambda n, d, x: met.__setitem__(n, models.contract(d, x)))
    assert set(met) == set(layers)
    zero = [name for name, gradient in met.items() if not gradient.any()]
    true = models.loop(model, layers, one)
    assert zero
    assert set(zero) == {name for name, gradient in true.items() if not gradient.any()}
    assert all(met[name].shape == true[name].shape for name in zero)


def test_modules_without_a_part_in_rows_are_counted():
    found = models.outcome("phimoe").fit
    assert dict(found.bare) == {"PhimoeTopKRouter": 2, "PhimoeExperts": 2}
    assert found.notes() == ["Without a part in rows: 2 × PhimoeTopKRouter, 2 × PhimoeExperts."]


def test_weights_that_a_loss_does_not_depend_on_are_counted():
    found = models.outcome("bart")
    assert found.error < 1e-5
    assert len(found.fit.idle) == 16  # cross-attention: A and B of four maps in two layers
    assert "16 weights (such as base_model" in found.fit.notes()[0]


class TimeMajor(torch.nn.Module):
    """An MLP that works on [T, B, H], as some toolkits do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class Listed(torch.nn.Module):
    """Experts as a list of modules, each given the tokens that chose it."""

    def __init__(self, inner):
        super().__init__()
        self.router = torch.nn.Linear(32, 3, bias=False)
        self.experts = torch.nn.ModuleList([torch.nn.Linear(32, 32, bias=False) for _ in range(3)])

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        share, chosen = self.router(flat).softmax(1).max(1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            tokens = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, tokens, expert(flat[tokens]) * share[tokens, None])
        return out.view_as(x)


class Direct(torch.nn.Module):
    """A weight that is applied without its module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner.down_proj(torch.nn.functional.linear(x, self.inner.up_proj.weight))


def llama_with(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LLAMA).eval().requires_grad_(False)
    for layer in model.model.layers:
        layer.mlp = kind(layer.mlp)
    return add_lora(model, Lora(r=4)) if kind is not Direct else model


def errors(model, found, lengths, parameters="lora", only=None):
    """Relative error of each weight's gradients."""
    layers, chats = watched_layers(model, parameters, only), rows_of(lengths)
    got, true = models.captured(model, layers, found, chats), models.loop(model, layers, chats)
    return {name: float((got[name] - true[name]).norm() / true[name].norm()) for name in layers if true[name].any()}


def rows_of(lengths):
    return [type(r)(tuple(i % 97 for i in r.input_ids), r.labelled, r.status) for r in models.rows(lengths)]


@pytest.mark.parametrize("kind", [TimeMajor, Listed])
def test_rows_that_cannot_be_told_apart_are_taken_one_at_a_time(kind):
    model = llama_with(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    found = fit(model, watched_layers(model))
    inner = {TimeMajor: ".mlp.inner.", Listed: ".mlp.experts."}[kind]
    assert found.mixed
    assert all(inner in name for name in found.mixed)
    assert not found.by_autograd
    assert "one example at a time" in found.notes()[0]
    lengths = [6, 4, 5, 6, 3, 6]  # as many rows as tokens: no shape says that time comes first
    assert max(errors(model, found, lengths).values()) < 1e-4
    if kind is TimeMajor:
        assert max(errors(model, Fit(), lengths, only=["*.layers.0.*"]).values()) > 0.5  # what shapes say
    else:
        with pytest.raises(InputError, match="cannot be told apart by example"):
            errors(model, Fit(), [5, 9, 6, 7])


def test_a_weight_that_is_no_plain_product_gets_its_gradient_from_autograd():
    model = llama_with(Direct)
    found = fit(model, watched_layers(model, "linear"))
    assert {name.rsplit(".", 2)[1] for name in found.by_autograd} == {"up_proj"}
    assert max(errors(model, found, [5, 9, 6, 7], "linear").values()) < 1e-4
    assert max(errors(model, Fit(), [5, 9, 6, 7], "linear").values()) > 0.5


def test_the_probe_leaves_the_model_as_it_was():
    model = add_lora(models.build("mixtral"), Lora(r=4))
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    fit(model, watched_layers(model))
    assert all(p.grad is None for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_probe_is_not_misled_by_bfloat16():
    model = add_lora(models.build("deepseek_v3").to(torch.bfloat16), Lora(r=4))
    assert fit(model, watched_layers(model)).together


def test_targets_that_peft_would_break_are_refused():
    with pytest.raises(InputError, match=r"lora\.targets reach model\.layers\.0\.mlp\.router"):
        add_lora(models.build("phimoe"), Lora(r=4, targets=["router", "q_proj"]))
    with pytest.raises(InputError, match=r"lora\.dropout 0\.1.*set it to 0"):
        add_lora(models.build("mixtral"), Lora(r=4, dropout=0.1))


def test_a_model_that_fails_is_one_clear_error():
    model = add_lora(models.build("llama"), Lora(r=4))
    model.base_model.model.model.layers[0].mlp.down_proj.forward = lambda _x: 1 / 0
    layers = watched_layers(model)
    model.base_model.model.model.layers[1].mlp.register_forward_hook(lambda _m, _i, _o: torch.zeros(3).view(2, 2))
    del model.base_model.model.model.layers[0].mlp.down_proj.forward
    with pytest.raises(InputError, match=r"\(llama\) fails when gradients are taken.*RuntimeError"):
        fit(model, layers)


@pytest.fixture
def moe_recipe(recipe_data, model_dir, tmp_path):
    """The small recipe on a mixture of experts of random weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    models_vocabulary = len(tokenizer)

    def write(kind):
        model = models.build(kind, vocab_size=models_vocabulary, max_position_embeddings=256)
        model.save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        warmup = recipe_data["warmup"] | {"epochs": 1}
        data = {**recipe_data, "model": {"path": str(tmp_path / kind)}, "warmup": warmup}
        return parse_recipe({k: v for k, v in data.items() if k != "validate"})

    return write


def test_a_run_on_a_mixture_of_experts_says_what_it_leaves_out(moe_recipe, store, tmp_path):
    recipe = moe_recipe("phimoe")
    note = "Without a part in rows: 2 × PhimoeTopKRouter, 2 × PhimoeExperts."
    assert plan_run(recipe, tmp_path / "none").notes == [note]
    seen = []
    result: RunResult = curate(recipe, store, progress=lambda stage, done, total: seen.append(stage))
    assert list(result.notes) == [note]
    assert note in seen
    assert note in (store.root / "reports" / "small.html").read_text("utf-8")
    assert list(curate(recipe, store).notes) == [note]  # nothing is computed, and it is known


def test_a_model_that_rows_cannot_be_taken_of_is_refused_before_it_is_trained(moe_recipe, store, monkeypatch):
    from gradsift.pipelines.training import loop

    def no_training(*_args):
        raise AssertionError("trained")

    monkeypatch.setattr(loop._Steps, "take", no_training)
    recipe = moe_recipe("mixtral")
    recipe = recipe.model_copy(update={"features": recipe.features.model_copy(update={"layers": ["nothing.*"]})})
    with pytest.raises(InputError, match=r"features\.layers"):
        curate(recipe, store)


def test_weights_that_no_loss_reaches_train_and_have_rows(model_dir, data_dir, tmp_path):
    """Mamba uses `dt_proj`'s weight and not the layer: its adapter gets no gradient, and Adam no state."""
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4, time_step_rank=4, use_cache=False
    )
    MambaForCausalLM(config).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    recipe = parse_recipe(
        {
            "name": "m",
            "pool": [{"path": str(data_dir / "small.jsonl"), "rows": 12}],
            "targets": {"sql": {"val": {"path": str(data_dir / "val.jsonl"), "rows": 4}}},
            "decontaminate": None,
            "model": {"path": str(tmp_path / "m")},
            "encoding": {"max_length": 48},
            "lora": {"r": 2},
            "warmup": {"epochs": 2, "min_examples": 8, "batch_size": 4},
            "features": {"projector": {"dim": 64}},
            "select": {"examples": 3},
        }
    )
    with Store(tmp_path / "store") as store:
        result = curate(recipe, store)
        assert result.selections[0].examples == 3
        assert any("dt_proj" in note for note in result.notes)


def test_a_model_without_sdpa_loads_with_default_settings(model_dir, tmp_path):
    """Bloom has `eager` attention alone: what the table says of it must hold for a recipe that names none."""
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    section = Model(path=str(tmp_path))
    assert load_base(open_model(section), section)
    section = Model(path=str(tmp_path), attention="sdpa")
    with pytest.raises(InputError, match=r"has no attention `sdpa`; set `model.attention: auto`"):
        load_base(open_model(section), section)
