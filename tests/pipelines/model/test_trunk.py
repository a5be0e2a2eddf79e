"""The last layer on labelled positions only: the same hidden states and rows, and not where it would be wrong."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3Config,
)

from gradsift.pipelines.features.capture import backward, contract, watched_layers
from gradsift.pipelines.model import trunk
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.encode import Encoded

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": (LlamaConfig(**SMALL), {"q_proj", "o_proj", "mlp"}),
    "qwen3": (Qwen3Config(**SMALL), {"q_proj", "o_proj", "mlp"}),
    "gemma2": (Gemma2Config(**SMALL), {"q_proj", "o_proj", "mlp"}),
    "cohere": (CohereConfig(**SMALL), {"q_proj", "o_proj", "mlp"}),
    "phi3": (Phi3Config(**SMALL), {"o_proj", "mlp"}),
    "bloom": (BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4), {"mlp"}),
    "gpt2": (GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4), {"c_proj", "mlp"}),
}


def make(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[kind][0]).eval().requires_grad_(False)


def batch_of(side="right"):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for size in (19, 11, 15):
        ids = torch.randint(3, 97, (size,), generator=generator).tolist()
        rows.append(Encoded(tuple(ids), tuple(t % 5 in (2, 3) and t > 6 for t in range(size)), "ok"))
    return collate(rows, 0, side)


def rows_of(model, batch, everywhere):
    found = {}
    losses, _ = backward(
        model,
        batch,
        watched_layers(model, "linear"),
        lambda n, d, x: found.__setitem__(n, contract(d, x)),
        everywhere,
    )
    return losses, found


@pytest.mark.parametrize("kind", MODELS)
def test_named_modules_are_narrowed(kind):
    model = make(kind)
    names = {name.rpartition(".")[2] for name, m in model.named_modules() if m in trunk.narrowable(model)}
    assert names == MODELS[kind][1]


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", MODELS)
def test_rows_and_losses_do_not_change(kind, side, everywhere, monkeypatch):
    model, batch = make(kind), batch_of(side)
    losses, narrow = rows_of(model, batch, everywhere)
    monkeypatch.setattr(trunk, "narrowable", lambda _model: ())
    expected_losses, expected = rows_of(model, batch, everywhere=True)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    assert narrow.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(narrow[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_the_last_layer_sees_labelled_positions_only():
    model, batch, seen = make("llama"), batch_of(), []
    trunk.narrowable(model)
    model.model.layers[-1].mlp.gate_proj.register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape)))
    trunk.hidden_states(model, batch, everywhere=False)
    trunk.hidden_states(model, batch)
    assert seen == [(3, batch.widest, 32), (3, 19, 32)]
    assert batch.widest == int(batch.counts.max()) < 19


@pytest.mark.parametrize("kind", MODELS)
def test_the_backward_of_the_last_layer_is_of_labelled_positions_only(kind):
    """Also where hidden states are wanted everywhere: those of other positions are a plain forward's, without a graph."""
    model, batch, met = make(kind), batch_of(), []
    with torch.no_grad():
        plain = trunk.hidden_states(model, batch)

    def look(_module, _inputs, output):
        output.register_hook(lambda gradient: met.append(tuple(gradient.shape[:2])))

    for module in trunk.narrowable(model):
        module.register_forward_hook(look)
    model.get_input_embeddings().weight.requires_grad_()
    hidden = trunk.hidden_states(model, batch, graph_everywhere=False)
    torch.testing.assert_close(hidden.detach(), plain, rtol=1e-4, atol=1e-5)
    hidden[batch.rows, batch.before].sum().backward()
    assert met == [(3, batch.widest)] * len(trunk.narrowable(model))


def test_a_module_that_mixes_positions_is_left_alone():
    """An MLP that also looks one token back would be wrong at picked positions: the probe must notice."""
    model, batch = make("llama"), batch_of()
    mlp = model.model.layers[-1].mlp
    own = mlp.forward
    mlp.forward = lambda x: own(x + x.roll(1, dims=1))
    assert trunk.narrowable(model) == ()
    wanted = (batch.rows, batch.before)
    got = trunk.hidden_states(model, batch, everywhere=False)[wanted]
    torch.testing.assert_close(got, trunk.hidden_states(model, batch)[wanted], rtol=0, atol=0)


def test_a_module_used_twice_is_left_alone():
    """Layers that share an MLP: narrowing the last use would narrow the first as well."""
    model = make("llama")
    model.model.layers[0].mlp = model.model.layers[1].mlp
    assert model.model.layers[1].mlp not in trunk.narrowable(model)


def test_experts_are_routed_the_same():
    torch.manual_seed(0)
    config = MixtralConfig(**SMALL, num_local_experts=4)
    model, batch = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False), batch_of()
    wanted = (batch.rows, batch.before)
    got = trunk.hidden_states(model, batch, everywhere=False)[wanted]
    torch.testing.assert_close(got, trunk.hidden_states(model, batch)[wanted], rtol=1e-4, atol=1e-5)


def test_a_probe_leaves_the_mode_alone():
    model = make("llama").train()
    trunk.narrowable(model)
    assert model.training
    assert all(not m._forward_hooks for m in model.modules())
