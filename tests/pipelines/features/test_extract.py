"""Rows and signals from one pass: parameters and layers to choose, signals as defined, memory that runs out."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import check_comparable
from gradsift.pipelines.demo.data import general_text
from gradsift.pipelines.features.capture import backward, contract, watched_layers
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.projectors.factors import Factors
from gradsift.pipelines.features.space import GradientJob
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.encode import Encoded, encode
from gradsift.pipelines.model.load import adapter_arrays, load_lora, lora_parameters
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import Encoding, Features, Lora, Model, parse_recipe
from gradsift.pipelines.runs.curate import curate

ALL_SIGNALS = {"tokens": True, "embedding": True, "module_norms": True, "answer_loss": True}


@pytest.fixture(scope="module")
def loaded(model_dir):
    return open_model(Model(path=str(model_dir)))


@pytest.fixture(scope="module")
def chats(loaded):
    return [encode(loaded.tokenizer, chat, 128) for chat in general_text(random.Random(3), 12)]


@pytest.fixture(scope="module")
def adapter(loaded, model_dir):
    model = load_lora(loaded, Model(path=str(model_dir)), Lora(r=4), 0)
    rng = np.random.default_rng(5)
    return {n: a + 0.05 * rng.normal(size=a.shape).astype(np.float32) for n, a in adapter_arrays(model).items()}


def extractor_for(loaded, model_dir, adapter, dtype="float32", **features):
    section = Model(path=str(model_dir), dtype=dtype)
    settings = {"projector": {"dim": 1024}, "transform": "sgd", **features}
    return Extractor(
        GradientJob(
            open_model(section), section, Lora(r=4), Encoding(max_length=128), Features(**settings), 0,
            Checkpoint(1, 0, 5, 1e-3, "digest", 1), CheckpointState(adapter, {}, {}), "sgd", features.get("loss", "ce"),
        )
    )  # fmt: skip


def rows_of(extractor, chats):
    block, rejected = extractor.rows([str(k) for k in range(len(chats))], chats)
    assert not rejected
    return block


def exact_gradients(extractor, chats):
    """[N, P] of the watched layers by one backward() each."""
    layers, out = extractor.layers, []
    for chat in chats:
        found = {}
        backward(extractor.model, collate([chat], 2), layers, lambda n, d, x, f=found: f.__setitem__(n, contract(d, x)))
        out.append(torch.cat([found[n].flatten() for n in layers]))
    return torch.stack(out)


def test_rows_of_dft_are_gradients_of_its_loss(loaded, model_dir, adapter, chats):
    """Fine-tuning's loss of a token is −sg[p]·log p: rows of the pool, not of targets, which stay cross-entropy."""
    plain = extractor_for(loaded, model_dir, adapter)
    extractor = extractor_for(loaded, model_dir, adapter, loss="dft")
    model = extractor.model
    expected = []
    for chat in chats[:4]:
        model.zero_grad()
        ids = torch.tensor([chat.input_ids])
        places = [k for k, label in enumerate(chat.labelled) if label]
        logits = model(input_ids=ids).logits[0, [k - 1 for k in places]]
        log_p = torch.log_softmax(logits, 1).gather(1, ids[0, places][:, None])[:, 0]
        (-(log_p.exp().detach() * log_p).mean()).backward()
        gradients = {n: p.grad for n, p in lora_parameters(model).items()}
        expected.append(torch.cat([gradients[n].flatten() for n in extractor.layers]))
    found = rows_of(extractor, chats[:4])
    norms = torch.stack(expected).norm(dim=1).numpy()
    np.testing.assert_allclose(found.signal("grad_norm"), norms, rtol=1e-4)
    cross_entropy = rows_of(plain, chats[:4])
    np.testing.assert_allclose(found.signal("loss"), cross_entropy.signal("loss"), rtol=1e-6)  # still NLL
    assert (found.signal("grad_norm") < 0.9 * cross_entropy.signal("grad_norm")).all()
    as_query, _ = extractor.rows([str(k) for k in range(4)], chats[:4], as_query=True)
    np.testing.assert_array_equal(as_query.unit(), cross_entropy.unit())


def test_another_loss_is_another_space(loaded, model_dir, adapter):
    plain, other = (extractor_for(loaded, model_dir, adapter, loss=name).job for name in ("ce", "dft"))
    assert other.space() == plain.space() | {"loss": "dft-mean-over-label-tokens"}
    assert other.as_query().space() == plain.as_query().space()
    check_comparable(other.space(), other.as_query().space())


@pytest.mark.parametrize("with_adapter", [True, False])
def test_linear_layers_equal_autograd(loaded, model_dir, adapter, chats, with_adapter):
    """Frozen weights, with an adapter on them or without."""
    extractor = extractor_for(loaded, model_dir, adapter if with_adapter else {}, parameters="linear")
    found = exact_gradients(extractor, chats[:3])
    weights = [layer.weight for layer in extractor.layers.values()]
    assert len(weights) == 7 * extractor.model.config.num_hidden_layers
    for k, chat in enumerate(chats[:3]):
        for weight in weights:
            weight.requires_grad_(True)
        ids = torch.tensor([chat.input_ids])
        labels = torch.where(torch.tensor([chat.labelled]), ids, -100)
        extractor.model(input_ids=ids, labels=labels).loss.backward()
        expected = torch.cat([w.grad.flatten() for w in weights])
        assert (found[k] - expected).norm() <= 1e-5 * expected.norm()
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(False)


def test_names_of_linear_weights_do_not_depend_on_the_adapter(loaded, model_dir, adapter):
    one, other = (extractor_for(loaded, model_dir, a, parameters="linear") for a in (adapter, {}))
    assert list(one.layers) == list(other.layers)
    assert next(iter(one.layers)) == "model.layers.0.self_attn.q_proj.weight"


def test_gpt2_layers_are_linear_layers_too():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    layers, found = watched_layers(model, "linear"), {}
    assert len(layers) == 8
    chat = Encoded((5, 6, 7, 8), (False, False, True, True), "ok")
    backward(model, collate([chat], 0), layers, lambda n, d, x: found.__setitem__(n, contract(d, x)))
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    ids = torch.tensor([chat.input_ids])
    model(input_ids=ids, labels=torch.where(torch.tensor([chat.labelled]), ids, -100)).loss.backward()
    for name, layer in layers.items():
        torch.testing.assert_close(found[name][0].T, layer.weight.grad, rtol=1e-4, atol=1e-6)


def test_chosen_layers_and_b_alone(loaded, model_dir, adapter, chats):
    whole = extractor_for(loaded, model_dir, adapter)
    part = extractor_for(loaded, model_dir, adapter, layers=["*.layers.1.*q_proj*", "*.layers.0.mlp.*"])
    only_b = extractor_for(loaded, model_dir, adapter, parameters="lora_b")
    assert len(part.layers) == 2 + 6
    assert set(part.layers) < set(whole.layers)
    assert set(only_b.layers) == {n for n in whole.layers if ".lora_B." in n}
    for extractor in (part, only_b):
        exact = exact_gradients(extractor, chats)
        block = rows_of(extractor, chats)
        np.testing.assert_allclose(block.signal("grad_norm"), exact.norm(dim=1), rtol=1e-4)
        found, wanted = block.unit(), torch.nn.functional.normalize(exact, dim=1)
        error = found @ found.T - (wanted @ wanted.T).numpy()
        assert np.sqrt(np.mean(error**2)) < 1.2 / 1024**0.5


def test_layers_that_match_nothing(loaded, model_dir, adapter):
    with pytest.raises(InputError, match=r"features\.layers \['nope'\] match none"):
        extractor_for(loaded, model_dir, adapter, layers=["nope"])


def test_factorised_rows_follow_the_exact_ones(loaded, model_dir, chats):
    exact = torch.nn.functional.normalize(
        exact_gradients(extractor_for(loaded, model_dir, {}, parameters="linear"), chats), dim=1
    )
    block = rows_of(extractor_for(loaded, model_dir, {}, parameters="linear", factor_dim=64), chats)
    error = block.unit() @ block.unit().T - (exact @ exact.T).numpy()
    assert np.sqrt(np.mean(error**2)) < 0.1


def test_factors_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    delta, x = torch.randn(2, 5, 70, generator=generator), torch.randn(2, 5, 90, generator=generator)
    full = contract(delta, x).flatten(1)
    exact = float(full[0] @ full[1])
    found = []
    for seed in range(400):
        block = Factors(32, seed).contract("w", delta, x).flatten(1)
        found.append(float(block[0] @ block[1]))
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / 20
    torch.testing.assert_close(Factors(128, 0).contract("w", delta, x), contract(delta, x))


def test_rows_by_module_hold_each_layers_own_sketch(loaded, model_dir, adapter, chats):
    one_layer = ["*.layers.1.*q_proj.lora_B*"]
    alone = extractor_for(loaded, model_dir, adapter, layers=one_layer, projector={"dim": 64})
    side_by_side = extractor_for(loaded, model_dir, adapter, projector={"dim": 64, "per_module": True}, row_dtype="f16")
    place = list(side_by_side.layers).index(next(iter(alone.layers)))
    found = rows_of(side_by_side, chats)
    part = (found.unit() * found.norm[:, None])[:, 64 * place : 64 * (place + 1)]
    expected = rows_of(alone, chats)
    cosines = torch.cosine_similarity(torch.from_numpy(part), torch.from_numpy(expected.unit()))
    assert cosines.min() > 0.999
    assert b"gradsift.modules" in found.signals.schema.metadata


def test_signals_are_what_they_say(loaded, model_dir, adapter, chats):
    extractor = extractor_for(loaded, model_dir, adapter, signals=ALL_SIGNALS, batch_tokens=300)
    block = rows_of(extractor, chats)
    modules = block.signal("module_norms")
    np.testing.assert_allclose(np.linalg.norm(modules, axis=1), block.signal("grad_norm"), rtol=1e-5)
    nll, entropy = block.token_signal("token_nll"), block.token_signal("token_entropy")
    for k, chat in enumerate(chats):
        with torch.no_grad():
            out = extractor.model(input_ids=torch.tensor([chat.input_ids]), output_hidden_states=True)
        places = [t for t, label in enumerate(chat.labelled) if label]
        logp = out.logits[0, [t - 1 for t in places]].log_softmax(1)
        own = -logp[range(len(places)), [chat.input_ids[t] for t in places]]
        spread = -(logp.exp() * logp).sum(1)
        np.testing.assert_allclose(nll[k], own, atol=2e-2, rtol=2e-3)
        np.testing.assert_allclose(entropy[k], spread, atol=2e-2, rtol=2e-3)
        assert block.signal("loss")[k] == pytest.approx(float(own.mean()), rel=1e-4)
        assert block.signal("entropy")[k] == pytest.approx(float(spread.mean()), rel=1e-4)
        assert block.signal("n_tokens")[k] == len(chat.input_ids)
        assert block.signal("n_label_tokens")[k] == len(places)
        hidden = out.hidden_states[-1][0]
        weights = torch.arange(1.0, len(hidden) + 1) / (len(hidden) * (len(hidden) + 1) / 2)
        np.testing.assert_allclose(block.signal("embedding")[k], weights @ hidden, atol=5e-3)
        ids = torch.tensor([[chat.input_ids[t] for t in places]])  # this tokenizer has no BOS to begin with
        with torch.no_grad():
            alone = extractor.model(input_ids=ids, labels=ids).loss
        assert block.signal("answer_loss")[k] == pytest.approx(float(alone), rel=1e-4)


def test_signals_can_be_left_out(loaded, model_dir, adapter, chats):
    none = dict.fromkeys(ALL_SIGNALS, False)
    block = rows_of(extractor_for(loaded, model_dir, adapter, signals=none), chats)
    assert block.signals.column_names == [
        "loss",
        "entropy",
        "el2n",
        "grad_norm",
        "transformed_norm",
        "n_tokens",
        "n_label_tokens",
    ]


def test_out_of_memory_makes_batches_smaller(loaded, model_dir, adapter, chats):
    """The first attempts at large batches fail as torch fails on a CPU; the rows are those of small batches."""
    expected = rows_of(extractor_for(loaded, model_dir, adapter), chats)
    extractor = extractor_for(loaded, model_dir, adapter, batch_tokens=4096)
    batch, sizes = extractor._batch, []

    def scarce(rows, *more):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return batch(rows, *more)

    extractor._batch = scarce
    found = rows_of(extractor, chats)
    assert found.example_ids == expected.example_ids
    assert np.abs(found.vectors.astype(int) - expected.vectors.astype(int)).max() <= 1
    assert sizes[0] == 12
    assert extractor.batch_tokens < 4096


def test_an_example_too_large_for_memory_is_named(loaded, model_dir, adapter, chats):
    extractor = extractor_for(loaded, model_dir, adapter)

    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    extractor._batch = never
    with pytest.raises(InputError, match=r"example \d+ \(\d+ tokens\) does not fit into memory alone; lower"):
        rows_of(extractor, chats)


def test_other_errors_are_not_taken_for_missing_memory(loaded, model_dir, adapter, chats):
    extractor = extractor_for(loaded, model_dir, adapter)

    def broken(*_):
        raise RuntimeError("shapes differ")

    extractor._batch = broken
    with pytest.raises(RuntimeError, match="shapes differ"):
        rows_of(extractor, chats)


@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_rows_follow_float32_ones(loaded, model_dir, adapter, chats, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact = rows_of(extractor_for(loaded, model_dir, adapter), chats).unit()
        found = rows_of(extractor_for(loaded, model_dir, adapter, "bfloat16"), chats).unit()
    finally:
        torch.set_num_threads(before)
    assert np.sqrt(np.mean((found @ found.T - exact @ exact.T) ** 2)) < 0.01


@pytest.mark.parametrize("family", ["rademacher", "gaussian", "srht", "dct", "traker"])
def test_families_agree_on_cosines(loaded, model_dir, adapter, chats, family):
    """Parity: each within the error of its dims of the exact cosines, and so of one another; traker's included."""
    projector = {"dim": 512, "family": family}
    extractor = extractor_for(loaded, model_dir, adapter, layers=["*.layers.0.*"], projector=projector)
    exact = torch.nn.functional.normalize(exact_gradients(extractor, chats), dim=1)
    block = rows_of(extractor, chats)
    error = block.unit() @ block.unit().T - (exact @ exact.T).numpy()
    assert np.sqrt(np.mean(error**2)) < 1.3 / 512**0.5
    np.testing.assert_allclose(block.norm, block.signal("grad_norm"), rtol=0.25)


def test_traker_cuda_without_a_gpu_is_one_clear_error(loaded, model_dir, adapter, chats):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    projector = {"dim": 512, "family": "traker_cuda"}
    with pytest.raises(InputError, match="needs an NVIDIA GPU and the fast_jl extension"):
        rows_of(extractor_for(loaded, model_dir, adapter, projector=projector), chats)


@pytest.mark.parametrize("parameters", ["linear", "lora_b"])
def test_a_run_without_warm_up(recipe_data, store, parameters):
    """Gradients of the model as it is, of its own weights or of a fresh adapter's B."""
    features = {**recipe_data["features"], "parameters": parameters, "transform": "sgd", "row_dtype": "int4"}
    data = {k: v for k, v in recipe_data.items() if k != "validate"}
    result = curate(parse_recipe({**data, "warmup": None, "features": features}), store)
    assert result.selections[0].examples == 12
    again = curate(parse_recipe({**data, "warmup": None, "features": features}), store)
    assert again.selections[0].digest == result.selections[0].digest
    assert all(row.computed == 0 for row in again.rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warmup": None}, "`warmup: null` needs `features.transform: sgd`"),
        ({"features": {"parameters": "linear"}}, "`parameters: linear` needs `transform: sgd`"),
        ({"features": {"factor_dim": 64}}, "`factor_dim` needs `transform: sgd`"),
        ({"features": {"projector": {"family": "traker", "per_module": True}}}, "another family than traker's"),
    ],
)
def test_settings_that_do_not_go_together(recipe_data, change, words):
    with pytest.raises(InputError, match=words):
        parse_recipe({**recipe_data, **change})


def test_threads_and_order_do_not_matter(loaded, model_dir, adapter, chats):
    """In float32 a row moves by rounding at most, whatever computes beside it."""
    expected = rows_of(extractor_for(loaded, model_dir, adapter), chats)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        found = rows_of(extractor_for(loaded, model_dir, adapter), chats[::-1])
    finally:
        torch.set_num_threads(before)
    assert np.abs(found.vectors[::-1].astype(int) - expected.vectors.astype(int)).max() <= 1
    np.testing.assert_allclose(found.signal("grad_norm")[::-1], expected.signal("grad_norm"), rtol=1e-4)


def test_the_dry_run_knows_what_rows_weigh(finished, tmp_path):
    """Estimated bytes against the shards of a finished run of the same recipe; and a plan without warm-up."""
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.dryrun import plan_run

    data, root, _ = finished
    with Store(root, create=False) as opened:
        actual = opened.catalog.one("SELECT sum(bytes) AS n FROM shard WHERE kind = 'features'")["n"]
    plan = plan_run(parse_recipe(data), tmp_path)
    assert actual / 2 < plan.bytes_needed < actual * 2
    features = {**data["features"], "parameters": "linear", "transform": "sgd"}
    untrained = plan_run(parse_recipe({**data, "warmup": None, "features": features}), tmp_path)
    assert untrained.checkpoints == 1
    assert "warmup" not in untrained.minutes
