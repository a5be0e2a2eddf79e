"""Models that are no causal language models, or too short for the recipe, are refused before anything is trained."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    RobertaConfig,
    RoFormerConfig,
)

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.causal import check_causal
from gradsift.pipelines.model.load import load_base
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.positions import positions
from gradsift.pipelines.recipe import Model, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip


def make(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [BertConfig, RoFormerConfig])
def test_encoders_are_refused_and_decoders_of_their_kind_are_not(config, dtype):
    with pytest.raises(InputError, match=r"no causal language model.*a later token.*`is_decoder`"):
        check_causal(make(config(**SMALL)).to(dtype), f"{config.model_type} {dtype}", "a folder")
    check_causal(make(config(**SMALL, is_decoder=True)).to(dtype), f"{config.model_type} decoder {dtype}", "a folder")


class Averaged(torch.nn.Module):
    """A norm over the rows of the batch: what a row is depends on its neighbours."""

    def forward(self, x):
        return x - x.mean((0, 1), keepdim=True)


class FromTheEnd(torch.nn.Module):
    """Marks tokens by their distance to the batch's last position, as if rows ended there."""

    def forward(self, x):
        return x + torch.arange(x.shape[1], 0, -1)[None, :, None]


def test_a_model_that_mixes_rows_or_counts_padding_is_refused():
    model = make(LlamaConfig(**SMALL))
    model.model.norm = Averaged()
    with pytest.raises(InputError, match="a later token"):
        check_causal(model, "averaged", "a folder")
    model.model.norm = FromTheEnd()
    with pytest.raises(InputError, match=r"a row when it stands beside a longer one \(padding\)"):
        check_causal(model, "from the end", "a folder")


def test_a_model_that_needs_more_than_tokens_is_one_clear_error():
    model = make(LlamaConfig(**SMALL))
    plain = model.forward
    model.forward = lambda pictures, **inputs: plain(**inputs)
    with pytest.raises(InputError, match=r"cannot be run on rows of tokens alone: TypeError: .*pictures"):
        check_causal(model, "pictures", "a folder")


def test_an_encoder_is_refused_where_it_is_loaded(model_dir, tmp_path, recipe_data, store):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    make(BertConfig(**SMALL | {"vocab_size": len(tokenizer), "max_position_embeddings": 256})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    section = Model(path=str(tmp_path))
    loaded = open_model(section)
    for _ in range(2):  # a refusal is not remembered as a pass
        with pytest.raises(InputError, match=r"\(bert\) is no causal language model"):
            load_base(loaded, section)
    with pytest.raises(InputError, match=r"\(bert\) is no causal language model"):
        curate(parse_recipe({**recipe_data, "model": {"path": str(tmp_path)}}), store)
    assert not store.catalog.rows("SELECT * FROM checkpoint")


def test_more_tokens_than_positions_are_refused(recipe_data, store, tmp_path):
    recipe = parse_recipe({**recipe_data, "encoding": {"max_length": 257}})
    words = r"encoding\.max_length is 257, but the model in .* \(llama\) has 256 positions"
    with pytest.raises(InputError, match=words):
        curate(recipe, store)
    with pytest.raises(InputError, match=words):
        plan_run(recipe, tmp_path)


def test_a_recipe_that_only_counts_tokens_may_count_more(recipe_data, store):
    mixture = {"name": "m", "pool": recipe_data["pool"], "mix": {"tokens": 500}, "model": recipe_data["model"]}
    recipe = parse_recipe(mixture)
    assert recipe.encoding.max_length > 256
    assert not recipe.runs_model
    assert curate(recipe, store).mixtures[0].realised == 500


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=2048), 2048),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters={"rope_type": "linear", "factor": 4.0}), 8192),
        (GPT2Config(n_positions=512), 512),
        (OPTConfig(max_position_embeddings=2048), 2048),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (FalconConfig(alibi=True), None),
        (FalconConfig(alibi=False, max_position_embeddings=2048), 2048),
        (BloomConfig(), None),
        (MambaConfig(), None),
    ],
)
def test_positions(config, limit):
    assert positions(config) == limit
