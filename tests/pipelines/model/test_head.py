"""The head in closed form: equal to the model's own head and autograd, in chunks, for capped and scaled logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import CHUNK_BYTES, head_of, token_losses
from gradsift.pipelines.model.trunk import narrowable

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "plain": LlamaConfig(**SMALL),
    "capped": Gemma2Config(**SMALL, final_logit_softcapping=2.0),
    "divided": GraniteConfig(**SMALL, logits_scaling=4.0),
    "multiplied": CohereConfig(**SMALL, logit_scale=0.3),
}


def make(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval().requires_grad_(False)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # logits with something to cap
    return model


def batch_of(sizes=(9, 14, 5)):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for size in sizes:
        ids = torch.randint(5, 300, (size,), generator=generator).tolist()
        rows.append(Encoded(tuple(ids), tuple(t >= 3 for t in range(size)), "ok"))
    return collate(rows, 0)


def by_autograd(model, batch):
    """[L] NLL, entropy, EL2N from the model's own logits, and the gradient of Σ k·NLL_k at the embeddings."""
    embedded = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    logits = model(
        inputs_embeds=embedded, attention_mask=batch.attention_mask, position_ids=batch.positions
    ).logits[batch.rows, batch.before].float()  # fmt: skip
    logp = logits.log_softmax(1)
    nll = -logp.gather(1, batch.wanted[:, None])[:, 0]
    p = logp.exp()
    el2n = (p - torch.nn.functional.one_hot(batch.wanted, p.shape[1])).norm(dim=1)
    (nll * torch.arange(len(nll))).sum().backward()
    return nll.detach(), -(p * logp).sum(1).detach(), el2n.detach(), embedded.grad


def closed_form(model, batch):
    kept = []
    narrowable(model)  # its probe runs the model, which the hook below must not see

    def keep(_module, _inputs, output):
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    found = token_losses(model, batch)
    handle.remove()
    (found.nll * torch.arange(len(found.nll))).sum().backward()
    return found, kept[0].grad


@pytest.mark.parametrize("chunk_bytes", [1, 32 << 20])
@pytest.mark.parametrize("kind", CONFIGS)
def test_closed_form_equals_autograd(kind, chunk_bytes, monkeypatch):
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk_bytes)
    model, batch = make(kind), batch_of((70, 80, 66) if chunk_bytes == 1 else (9, 14, 5))
    assert head_of(model) is not None
    found, gradient = closed_form(model, batch)
    nll, entropy, el2n, expected = by_autograd(model, batch)
    torch.testing.assert_close(found.nll.detach(), nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.el2n, el2n, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_head_is_never_run_on_the_batch():
    model, batch = make("plain"), batch_of()
    head_of(model)
    narrowable(model)  # both probe the model once
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    token_losses(model, batch)
    assert seen == [0]


def test_a_head_that_is_not_as_the_configuration_says_goes_through_autograd():
    """A model that scales its logits in its own way: the probe notices, and the figures are still the model's."""
    model, batch = make("plain"), batch_of()
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: out * 0.5)
    assert head_of(model) is None
    found, gradient = closed_form(model, batch)
    nll, entropy, el2n, expected = by_autograd(model, batch)
    torch.testing.assert_close(found.nll.detach(), nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.el2n, el2n, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_el2n_of_uniform_logits():
    model, batch = make("plain"), batch_of()
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    found = token_losses(model, batch)
    torch.testing.assert_close(found.el2n, torch.full_like(found.el2n, (1 - 1 / 300) ** 0.5))
    torch.testing.assert_close(found.entropy, torch.full_like(found.entropy, 300.0).log())


def test_grand_of_the_last_layer_is_el2n_times_hidden():
    """‖∂NLL/∂W‖ of one token is ‖p − y‖·‖h‖ exactly."""
    model = make("plain")
    batch = collate([Encoded((5, 6, 7), (False, False, True), "ok")], 0)
    found = token_losses(model, batch, everywhere=True)
    weight = model.get_output_embeddings().weight.requires_grad_()
    logits = model(input_ids=batch.input_ids).logits[0, 1].log_softmax(0)
    (-logits[7]).backward()
    expected = found.el2n[0] * found.hidden[0, 1].norm()
    torch.testing.assert_close(weight.grad.norm(), expected, rtol=1e-4, atol=1e-5)
