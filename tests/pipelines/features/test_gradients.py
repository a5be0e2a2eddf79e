"""Per-example gradients: equal to a loop of backward(), whatever the batch; transforms equal real optimizer steps."""

import copy

import numpy as np
import pytest
import torch

from gradsift.datastore import checkpoints
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.errors import InputError
from gradsift.pipelines.demo.data import general_text
from gradsift.pipelines.features.capture import backward, capturing, contract, watched_layers
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import GradientJob
from gradsift.pipelines.features.transforms import adam_exact
from gradsift.pipelines.model.batches import by_length, collate
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.head import example_losses, token_losses
from gradsift.pipelines.model.load import adapter_arrays, load_lora, lora_parameters
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.progress import quiet
from gradsift.pipelines.recipe import Lora, Model
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.training.loop import BETAS, EPS, Report, Start, epochs, make_optimizer
from gradsift.scorers.less import similarity

PAD = 2


@pytest.fixture(scope="module")
def loaded(model_dir):
    return open_model(Model(path=str(model_dir)))


@pytest.fixture(scope="module")
def chats(loaded):
    import random

    texts = general_text(random.Random(3), 12)
    texts[0] += texts[1]  # one of two turns
    return [encode(loaded.tokenizer, chat, 128) for chat in texts]


@pytest.fixture
def lora_model(loaded, model_dir):
    """LoRA with A and B both moved away from their start."""
    model = load_lora(loaded, Model(path=str(model_dir)), Lora(r=4), 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def captured(model, rows, side="right", parameters="lora"):
    found = {}
    losses, _ = backward(
        model, collate(rows, PAD, side), watched_layers(model, parameters),
        lambda n, delta, x: found.__setitem__(n, contract(delta, x)),
    )  # fmt: skip
    return losses, found


def backward_loop(model, rows):
    """The definition: one example, transformers' own loss, autograd's own gradient."""
    parameters = lora_parameters(model)
    losses, grads = [], {name: [] for name in parameters}
    for row in rows:
        model.zero_grad()
        ids = torch.tensor([row.input_ids])
        labels = torch.where(torch.tensor([row.labelled]), ids, -100)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        for name, parameter in parameters.items():
            grads[name].append(parameter.grad.clone())
    model.zero_grad()
    return torch.tensor(losses), {name: torch.stack(g) for name, g in grads.items()}


def assert_same(found, expected, tolerance=1e-5):
    assert set(found) == set(expected)
    for name in expected:
        scale = expected[name].flatten(1).norm(dim=1).max()
        error = (found[name] - expected[name]).flatten(1).norm(dim=1).max()
        assert error <= tolerance * max(scale, 1e-3), name


@pytest.mark.parametrize("side", ["right", "left"])
def test_batched_equals_a_loop_of_backward(lora_model, chats, side):
    losses, found = captured(lora_model, chats, side)
    expected_losses, expected = backward_loop(lora_model, chats)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    assert_same(found, expected)


def test_every_lora_matrix_is_captured(lora_model, chats):
    _, found = captured(lora_model, chats[:2])
    assert set(found) == set(lora_parameters(lora_model)) == set(watched_layers(lora_model))
    assert all(g.flatten(1).norm(dim=1).min() > 0 for g in found.values())


def test_batch_and_order_do_not_matter(lora_model, chats):
    _, whole = captured(lora_model, chats)
    order = [7, 2, 11, 0, 5]
    _, part = captured(lora_model, [chats[k] for k in order])
    assert_same(part, {name: g[order] for name, g in whole.items()})


def test_the_mean_is_the_trainers_gradient(lora_model, chats):
    _, found = captured(lora_model, chats)
    lora_model.zero_grad()
    example_losses(lora_model, collate(chats, PAD)).mean().backward()
    trainer = {n: p.grad.clone()[None] for n, p in lora_parameters(lora_model).items()}
    lora_model.zero_grad()
    assert_same({n: g.mean(0, keepdim=True) for n, g in found.items()}, trainer)


def test_a_fresh_adapter_has_no_gradient_in_a(loaded, model_dir, chats):
    model = load_lora(loaded, Model(path=str(model_dir)), Lora(r=4), 0)
    _, found = captured(model, chats[:3])
    for name, gradient in found.items():
        assert (gradient.abs().max() == 0) == (".lora_A." in name)


def test_capture_needs_eval_mode_and_leaves_the_model_as_it_was(lora_model, chats):
    lora_model.train()
    with pytest.raises(ValueError, match="eval mode"), capturing(lora_model, {}, print, collate(chats[:1], PAD)):
        pass
    lora_model.eval()
    captured(lora_model, chats[:2])
    assert all(p.requires_grad for p in lora_parameters(lora_model).values())
    assert all(p.grad is None for p in lora_model.parameters())


def test_losses_are_those_of_labelled_tokens_only(lora_model, chats):
    batch = collate(chats, PAD)
    losses, rows = token_losses(lora_model, batch).nll, batch.rows
    assert len(losses) == sum(c.n_label_tokens for c in chats)
    logits = lora_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    for b, chat in enumerate(chats):
        places = [t for t, k in enumerate(chat.labelled) if k]
        expected = [-logits[b, t - 1].log_softmax(0)[chat.input_ids[t]].item() for t in places]
        np.testing.assert_allclose(losses[rows == b].detach(), expected, rtol=1e-4, atol=1e-5)


def test_adam_exact_equals_a_real_adamw_step(lora_model, chats):
    rate = 1e-3
    optimizer = torch.optim.AdamW(lora_parameters(lora_model).values(), lr=rate, betas=BETAS, eps=EPS, weight_decay=0.0)
    for _ in range(3):
        example_losses(lora_model, collate(chats, PAD)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    parameters = lora_parameters(lora_model)
    before = {n: (p.detach().clone(), copy.deepcopy(optimizer.state[p])) for n, p in parameters.items()}
    _, found = captured(lora_model, chats[:1])
    example_losses(lora_model, collate(chats[:1], PAD)).sum().backward()
    optimizer.step()
    for name, parameter in parameters.items():
        theta, state = before[name]
        expected = (theta.double() - parameter.detach().double()) / rate
        gamma = adam_exact(found[name][0], state["exp_avg"], state["exp_avg_sq"], int(state["step"]))
        torch.testing.assert_close(gamma.double(), expected, rtol=2e-3, atol=2e-3)


def test_first_order_truth(lora_model, chats, loaded):
    """⟨∇ℓ_val, Γ(z)⟩·lr predicts the change of the validation loss after one real AdamW step on z."""
    rate = 1e-4
    optimizer = make_optimizer(lora_model, _training(rate))
    for _ in range(3):
        example_losses(lora_model, collate(chats[:6], PAD)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    val = collate(chats[6:8], PAD)
    parameters = lora_parameters(lora_model)
    state = {n: copy.deepcopy(optimizer.state[p]) for n, p in parameters.items()}
    start = {n: p.detach().clone() for n, p in parameters.items()}
    _, val_rows = captured(lora_model, chats[6:8])
    _, rows = captured(lora_model, chats)
    predicted, actual = [], []
    with torch.no_grad():
        base = example_losses(lora_model, val).mean().double()
    for k in range(len(chats)):
        gamma = {
            n: adam_exact(rows[n][k], state[n]["exp_avg"], state[n]["exp_avg_sq"], int(state[n]["step"]))
            for n in parameters
        }
        predicted.append(sum((val_rows[n].mean(0) * gamma[n]).sum().item() for n in parameters) * rate)
        with torch.no_grad():
            for n, p in parameters.items():
                p.copy_(start[n] - rate * gamma[n])
            actual.append((base - example_losses(lora_model, val).mean()).item())
            for n, p in parameters.items():
                p.copy_(start[n])
    assert np.corrcoef(predicted, actual)[0, 1] >= 0.99
    assert np.polyfit(predicted, actual, 1)[0] == pytest.approx(1.0, abs=0.1)


def _training(rate):
    from gradsift.pipelines.recipe import Training

    return Training(lr=rate)


def job_for(loaded, model_dir, lora_model, transform="sgd", **features):
    from gradsift.pipelines.recipe import Encoding, Features

    adapter = adapter_arrays(lora_model)
    moments = {n: np.full_like(a, 1e-4) for n, a in adapter.items()}
    return GradientJob(
        loaded, Model(path=str(model_dir)), Lora(r=4), Encoding(max_length=128),
        Features(projector={"dim": 1024}, **features), 0,
        Checkpoint(1, 0, 5, 1e-3, "digest", 1), CheckpointState(adapter, moments, moments), transform,
    )  # fmt: skip


def test_rows_do_not_depend_on_the_batch(loaded, model_dir, lora_model, chats):
    ids = [str(k) for k in range(len(chats))]
    rows = [
        Extractor(job_for(loaded, model_dir, lora_model, batch_tokens=tokens)).rows(ids, chats)[0]
        for tokens in (1, 100, 4096)
    ]
    for other in rows[1:]:
        assert other.example_ids == ids
        np.testing.assert_allclose(other.norm, rows[0].norm, rtol=1e-4)
        np.testing.assert_allclose(other.signal("loss"), rows[0].signal("loss"), rtol=1e-5)
        assert np.abs(other.vectors.astype(int) - rows[0].vectors.astype(int)).max() <= 1


def test_projected_cosines_follow_the_exact_ones(loaded, model_dir, lora_model, chats):
    _, found = captured(lora_model, chats)
    flat = torch.cat([found[n].flatten(1) for n in sorted(found)], 1)
    exact = torch.nn.functional.normalize(flat, dim=1)
    exact = (exact @ exact.T).numpy()
    block, _ = Extractor(job_for(loaded, model_dir, lora_model)).rows([str(k) for k in range(len(chats))], chats)
    error = similarity(block.unit(), block.unit()) - exact
    assert np.sqrt(np.mean(error**2)) < 1.2 / 1024**0.5
    np.testing.assert_allclose(block.norm, flat.norm(dim=1), rtol=0.2)
    np.testing.assert_allclose(block.signal("grad_norm"), flat.norm(dim=1), rtol=1e-4)


def test_scaling_the_loss_leaves_sgd_rows_but_not_adam_rows(loaded, model_dir, lora_model, chats):
    ids = ["a", "b"]
    plain, adam = job_for(loaded, model_dir, lora_model), job_for(loaded, model_dir, lora_model, "adam_exact")

    def unit(job, factor):
        extractor = Extractor(job)
        inner = extractor.transform
        extractor.transform = lambda n, g: inner(n, factor * g)
        return extractor.rows(ids, chats[:2])[0].unit()

    np.testing.assert_allclose(unit(plain, 7.0), unit(plain, 1.0), atol=2e-3)
    assert np.abs(unit(adam, 7.0) - unit(adam, 1.0)).max() > 1e-2


def test_rows_without_a_direction_are_rejected_by_name(loaded, model_dir, lora_model, chats):
    """One example to a batch: the first gets a NaN gradient, the second a zero one."""
    extractor = Extractor(job_for(loaded, model_dir, lora_model, batch_tokens=1))
    factors = iter([float("nan"), 0.0, 1.0, 1.0])
    batch = extractor._batch
    extractor._batch = lambda rows, change, loss, plain: batch(
        rows, lambda n, g, f=next(factors): change(n, g) * f, loss, plain
    )
    longest_first = sorted(chats[:4], key=lambda c: -len(c.input_ids))
    block, rejected = extractor.rows(list("abcd"), longest_first)
    assert rejected == {"a": "non_finite", "b": "zero"}
    assert block.example_ids == ["c", "d"]


def test_by_length_covers_all_within_the_budget():
    lengths = [5, 100, 7, 7, 50, 3, 3, 3]
    batches = list(by_length(lengths, 40))
    assert sorted(k for b in batches for k in b) == list(range(8))
    assert all(len(b) == 1 or max(lengths[k] for k in b) * len(b) <= 40 for b in batches)


def test_warm_up_goes_on_where_it_was_killed(loaded, model_dir, chats):
    """Epoch 1 after epoch 0 restored from its checkpoint equals two epochs in one go."""
    from gradsift.pipelines.recipe import Training
    from gradsift.pipelines.training.warmup import restore, state_at

    training, lora = Training(epochs=2, batch_size=4, lr=1e-3), Lora(r=4, dropout=0.1)

    def ends(model, start):
        report = Report("warm-up", quiet)
        return [(state_at(e), e.step) for e in epochs(model, loaded.tokenizer, chats, training, 0, report, start)]

    model = load_lora(loaded, Model(path=str(model_dir)), lora, 0)
    first, second = ends(model, None)
    again = load_lora(loaded, Model(path=str(model_dir)), lora, 0)
    start = Start(make_optimizer(again, training), 1)
    restore(again, start.optimizer, *first)
    (resumed,) = ends(again, start)
    assert checkpoints.tensors_digest(resumed[0]) == checkpoints.tensors_digest(second[0])


def test_gguf_weights_give_the_same_model(model_dir, tmp_path, chats):
    """A GGUF file written from the tiny model loads through the same path and predicts the same."""
    gguf = pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    c = model.config
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(256), writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers), writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads), writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps), writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(10000.0), writer.add_vocab_size(c.vocab_size)
    import json

    vocabulary = json.loads((model_dir / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_tokenizer_model("gpt2"), writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(p) for p in vocabulary["merges"]])
    writer.add_token_types([3 if t.startswith("<|") else 1 for t in tokens])
    writer.add_eos_token_id(1), writer.add_bos_token_id(0), writer.add_pad_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if name.startswith("model.layers."):
            number, inner = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            if inner in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp keeps rotary halves interleaved
                heads = c.num_attention_heads
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            writer.add_tensor(f"blk.{number}.{names[inner]}.weight", np.ascontiguousarray(array))
        elif name != "lm_head.weight":
            writer.add_tensor({"model.embed_tokens.weight": "token_embd.weight",
                               "model.norm.weight": "output_norm.weight"}[name], array)  # fmt: skip
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    section = Model(path=str(tmp_path), gguf_file="tiny.gguf")
    opened = open_model(section)
    peft_model = load_lora(opened, section, Lora(r=4), 0)
    with torch.no_grad():
        found = example_losses(peft_model, collate(chats, PAD))
        expected = example_losses(model.eval(), collate(chats, PAD))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    losses, grads = captured(peft_model, chats[:2])
    assert torch.isfinite(losses).all()
    assert grads


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "/no/such/folder"}, "there is no model folder /no/such/folder"),
        ({"path": "EMPTY"}, "is not a model"),
        ({"path": "NO_WEIGHTS"}, "Pickled weights"),
        ({"path": "BROKEN"}, "model.safetensors cannot be read"),
        ({"path": "MODEL", "gguf_file": "none.gguf"}, r"has no none\.gguf"),
        ({"path": None, "hub": "nobody/no-such-model"}, "cannot get 'nobody/no-such-model' from the hub"),
    ],
)
def test_a_path_that_is_not_a_model_is_one_clear_error(model_dir, tmp_path, change, words):
    import shutil

    if change["path"] == "NO_WEIGHTS":
        shutil.copytree(model_dir, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
        (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"pickle")
    elif change["path"] == "BROKEN":
        shutil.copytree(model_dir, tmp_path / "m")
        (tmp_path / "m" / "model.safetensors").write_bytes(b"\x10" * 100)
    else:
        (tmp_path / "m").mkdir()
    path = {"MODEL": str(model_dir)}.get(change["path"], change["path"])
    path = str(tmp_path / "m") if change["path"] in ("EMPTY", "NO_WEIGHTS", "BROKEN") else path
    section = Model(**(change | {"path": path}))
    with pytest.raises(InputError, match=words):
        load_lora(open_model(section), section, Lora(r=4), 0)


def test_lora_targets_that_do_not_fit(loaded, model_dir):
    with pytest.raises(InputError, match=r"lora\.targets"):
        load_lora(loaded, Model(path=str(model_dir)), Lora(r=4, targets=["nope"]), 0)


def test_target_without_labels_is_refused_before_the_long_part(recipe, store, write_jsonl):
    long = {"messages": [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "x"}]}
    path = write_jsonl(long, name="long.jsonl")
    val = recipe.targets["sql"].val.model_copy(update={"path": str(path)})
    target = recipe.targets["sql"].model_copy(update={"val": val})
    with pytest.raises(
        InputError, match=r"targets\.sql\.val: 1 of 1 rows lose their answer .* keeps the answers of 95 % whole"
    ):
        curate(recipe.model_copy(update={"targets": {"sql": target}}), store)
    assert not store.catalog.rows("SELECT * FROM shard WHERE kind = 'features'")


def test_a_model_that_lacks_weights_is_refused(model_dir, tmp_path):
    """transformers would fill them with random numbers and a warning."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model_dir, tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    section = Model(path=str(tmp_path / "m"))
    with pytest.raises(InputError, match=r"lacks 1 weights of its model, e\.g\. model\.norm\.weight"):
        load_lora(open_model(section), section, Lora(r=4), 0)


def test_threads_load_the_same_model(loaded, model_dir):
    from concurrent.futures import ThreadPoolExecutor

    def load(_number):
        return load_lora(loaded, Model(path=str(model_dir)), Lora(r=4), 0).state_dict()

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(load, range(8))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_lora_on_the_head_is_refused(loaded, model_dir, chats):
    """The head is called with the picked positions of all rows at once: its rows would be the batch's sum."""
    model = load_lora(loaded, Model(path=str(model_dir)), Lora(r=4, targets=["q_proj", "lm_head"]), 0)
    with pytest.raises(InputError, match="output head"):
        captured(model, chats[:2])
