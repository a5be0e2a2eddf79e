"""Targets: files of models and of trainings of others."""

import io
import json
import struct
from functools import cache

import numpy as np
import torch
from fuzz import places
from fuzz.drive import target
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from gradsift.datastore.chats import Messages
from gradsift.pipelines.model import opened, tokenizer, weights
from gradsift.pipelines.model.encode import encode, pin_date
from gradsift.pipelines.model.opened import Loaded
from gradsift.pipelines.recipe import Model, Recipe
from gradsift.pipelines.training import adopted

CHATS: list[Messages] = [
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is 3 plus 4?"},
     {"role": "assistant", "content": "3 plus 4 is 7."}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "sum", "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}]},
     {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
     {"role": "tool", "content": "7"}, {"role": "assistant", "content": "7"}],
]  # fmt: skip
TEMPLATES = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}</s>"
    "{% endgeneration %}{% else %}{{ loop.index0 ~ m.content }}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}",
    "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ strftime_now('%d %b %Y') }}{% macro f(x) %}{{ x[:3] | join(',') }}{% endmacro %}"
    "{% for m in messages if m.content is string %}{{ f(m.content) * 2 }}{{ raise_exception('no') if m.role == 'x' }}{% endfor %}",
)
VECTORS = {"a.lora_A.default.weight": (2, 3), "a.lora_B.default.weight": (4, 2)}


class Adapter(torch.nn.Module):
    """Parameters of the names and shapes of a small adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.ModuleDict(
            {kind: torch.nn.ModuleDict({"default": torch.nn.Linear(inner, outer, bias=False)})
             for kind, inner, outer in (("lora_A", 3, 2), ("lora_B", 2, 4))}
        )  # fmt: skip


@cache
def _adapter() -> Adapter:
    return Adapter()


def _weights() -> bytes:
    return save({name.replace(".default.", "."): np.ones(shape, np.float32) for name, shape in VECTORS.items()})


def _optimizer(**group: object) -> bytes:
    state = {
        k: {"exp_avg": torch.ones(s), "exp_avg_sq": torch.ones(s), "step": torch.tensor(3.0)}
        for k, s in enumerate(VECTORS.values())
    }
    sink = io.BytesIO()
    groups = [{"params": [0, 1], "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "lr": 1e-3} | group]
    torch.save({"state": state, "param_groups": groups}, sink)
    return sink.getvalue()


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["a"], "bias": "none",
          "base_model_name_or_path": "x/y", "init_lora_weights": True, "use_dora": False}  # fmt: skip
STATE = {
    "global_step": 2,
    "log_history": [{"step": 1, "learning_rate": 1e-3}, {"step": 2, "learning_rate": 5e-4, "loss": 1.0}],
}
FILES = {adopted.WEIGHTS: _weights, adopted.OPTIMIZER: _optimizer, adopted.CONFIG: lambda: json.dumps(CONFIG).encode(),
         adopted.STATE: lambda: json.dumps(STATE).encode()}  # fmt: skip


def _adopt(name: str, data: bytes) -> None:
    for known, content in FILES.items():
        places.file(f"adapter/{known}", data if known == name else content())
    recipe = Recipe.model_validate(
        {"name": "x", "pool": [{"path": "p"}], "model": {"path": "m"}, "select": {"examples": 1},
         "targets": {"t": {"val": {"path": "v"}}}, "warmup": {"from": [str(places.folder() / "adapter")]}}
    )  # fmt: skip
    recipe = adopted.with_adapter_of(recipe)
    adopted.base_notes(recipe)
    adopted.read(recipe, Loaded(places.folder(), None, "float32", "", ""), _adapter())


@target("adapter", lambda: [_weights()], *VECTORS, "F32", "BF16", "data_offsets", "shape")
def adapter(data: bytes) -> None:
    """The weights of a checkpoint of others."""
    _adopt(adopted.WEIGHTS, data)


@target("optimizer", lambda: [_optimizer(), _optimizer(param_names=list(VECTORS))], "PK\x03\x04", "storage", "exp_avg")
def optimizer(data: bytes) -> None:
    """The optimizer's state of a checkpoint of others."""
    _adopt(adopted.OPTIMIZER, data)


@target("adapter-config", lambda: [json.dumps(CONFIG).encode()], "r", "lora_alpha", "target_modules", "null", "[]")
def adapter_config(data: bytes) -> None:
    _adopt(adopted.CONFIG, data)


@target("trainer-state", lambda: [json.dumps(STATE).encode()], "step", "global_step", "log_history", "learning_rate")
def trainer_state(data: bytes) -> None:
    _adopt(adopted.STATE, data)


@target("safetensors", lambda: [_weights()], "F32", "data_offsets", "shape", "__metadata__")
def model_weights(data: bytes) -> None:
    """A model's weights: what the digest of a model looks at."""
    places.file("weights/model.safetensors", data)
    weights.model_digest(places.folder() / "weights")


@target("weights-index", lambda: [b'{"metadata": {}, "weight_map": {"a": "one.safetensors"}}'], "weight_map", "../")
def weights_index(data: bytes) -> None:
    """Which files a model's weights are in."""
    places.file("index/one.safetensors", _weights())
    places.file("index/model.safetensors.index.json", data)
    weights.model_digest(places.folder() / "index")


def _llama() -> bytes:
    return (
        LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
        .to_json_string()
        .encode()
    )


@target(
    "model-config",
    lambda: [_llama(), b'{"model_type": "bert"}'],
    "model_type",
    "auto_map",
    "rope_scaling",
    "transformers_weights",
    "null",
)
def model_config(data: bytes) -> None:
    """config.json of a model."""
    places.file("config/config.json", data)
    places.file("config/model.safetensors", _weights())
    weights.weight_files(places.folder() / "config")
    opened.load_config(Loaded(places.folder() / "config", None, "float32", "", ""), Model(path="x"))


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789 .?\n"]
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@target("template", lambda: [text.encode() for text in TEMPLATES], "{{", "}}", "{%", "%}", "for", "endfor", "if", "range(9)", "messages",
        "|tojson", "loop", "set", "macro", "*", "**", "__class__", "generation", "endgeneration", "recursive", "format")  # fmt: skip
def template(data: bytes) -> None:
    """A chat template."""
    used = _tokenizer()
    used.chat_template = data.decode("utf-8", "replace")
    pin_date(used, Model(path="x").date)
    for chat in CHATS:
        encode(used, chat, 64)


def _tokenizer_json() -> list[bytes]:
    return [_tokenizer().backend_tokenizer.to_str().encode()]


@target(
    "tokenizer",
    _tokenizer_json,
    "Regex",
    "String",
    "vocab",
    "merges",
    "BPE",
    "Unigram",
    "WordPiece",
    "null",
    "ByteLevel",
    "pattern",
)
def tokenizer_file(data: bytes) -> None:
    """tokenizer.json of a model."""
    folder = places.file("tokenizer/tokenizer.json", data).parent
    places.file(
        "tokenizer/tokenizer_config.json", b'{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}'
    )
    loaded = tokenizer.load_tokenizer(folder, Model(path=str(folder)))
    encode(loaded, CHATS[0], 64)


@target("tokenizer-config", lambda: [b'{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": "x"}'],
        "auto_map", "added_tokens_decoder", "model_max_length", "chat_template", "null")  # fmt: skip
def tokenizer_config(data: bytes) -> None:
    folder = places.file("tokens/tokenizer_config.json", data).parent
    places.file("tokens/tokenizer.json", _tokenizer_json()[0])
    loaded = tokenizer.load_tokenizer(folder, Model(path=str(folder)))
    encode(loaded, CHATS[0], 64)


def _gguf() -> list[bytes]:
    """A GGUF file of the format's third version: a head, facts by name, one tensor."""

    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word)) + word.encode()

    tokens = ["<s>", "</s>", "a", "b", "ab"]
    facts = {
        "general.architecture": (8, text("llama")), "llama.context_length": (4, struct.pack("<I", 64)),
        "llama.embedding_length": (4, struct.pack("<I", 8)), "llama.block_count": (4, struct.pack("<I", 1)),
        "llama.feed_forward_length": (4, struct.pack("<I", 8)), "llama.attention.head_count": (4, struct.pack("<I", 2)),
        "llama.attention.head_count_kv": (4, struct.pack("<I", 2)), "llama.vocab_size": (4, struct.pack("<I", 5)),
        "llama.attention.layer_norm_rms_epsilon": (6, struct.pack("<f", 1e-5)), "tokenizer.ggml.model": (8, text("gpt2")),
        "tokenizer.ggml.tokens": (9, struct.pack("<IQ", 8, len(tokens)) + b"".join(map(text, tokens))),
        "tokenizer.ggml.merges": (9, struct.pack("<IQ", 8, 1) + text("a b")),
        "tokenizer.ggml.eos_token_id": (4, struct.pack("<I", 1)),
    }  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(facts))
    head += b"".join(text(name) + struct.pack("<I", kind) + value for name, (kind, value) in facts.items())
    head += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 5, 0, 0)
    return [head + b"\0" * (-len(head) % 32) + bytes(160)]


@target("gguf", _gguf, "GGUF", "llama", "tokenizer.ggml.tokens", "general.architecture")
def gguf(data: bytes) -> None:
    """A model in one GGUF file: its tokenizer and configuration."""
    folder = places.file("gguf/small.gguf", data).parent
    model = Model(path=str(folder), gguf_file="small.gguf")
    weights.model_digest(folder, model.gguf_file)
    encode(tokenizer.load_tokenizer(folder, model), CHATS[0], 64)
    opened.load_config(Loaded(folder, None, "float32", "", ""), model)
