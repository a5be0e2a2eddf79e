"""Hostile model folders: whatever their files ask for, no code of them runs, nothing is fetched, nobody is asked."""

import builtins
import json
import shutil

import pytest

from gradsift.datastore.errors import InputError
from gradsift.pipelines.features.encoder import text_rows
from gradsift.pipelines.model.load import load_base
from gradsift.pipelines.model.opened import load_config, open_model
from gradsift.pipelines.model.pretrained import from_pretrained
from gradsift.pipelines.recipe import Model

OWNED = "import pathlib\npathlib.Path(__file__).with_name('owned').touch()\n"
CODE = (
    f"{OWNED}from transformers import LlamaConfig as Own, LlamaForCausalLM as Its, PreTrainedTokenizerFast as Words\n"
)
CODE += "class Own(Own):\n    model_type = 'own'\n"
CLASSES = {"AutoConfig": "own.Own", "AutoModel": "own.Its", "AutoModelForCausalLM": "own.Its"}


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    """Names of kernels that transformers would have fetched; and whoever is asked a question on stdin says yes."""
    from transformers.integrations import hub_kernels

    names = []

    def get_kernel(name, *_args, **_options):
        names.append(name)
        raise ValueError(f"no kernel {name}")

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_args, **_options: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    monkeypatch.setattr(builtins, "input", lambda *_words: names.append("a question") or "y")
    return names


@pytest.fixture
def hostile(tmp_path):
    """`hostile(folder, config.json's changes, tokenizer_config.json's)`: a copy of a model's folder with code in it."""

    def change(folder, config=None, tokenizer=None):
        made = shutil.copytree(folder, tmp_path / "hostile")
        (made / "own.py").write_text(CODE)
        for name, change in (("config.json", config), ("tokenizer_config.json", tokenizer)):
            path = made / name
            path.write_text(json.dumps(json.loads(path.read_text()) | (change or {})))
        return made

    yield change
    assert not list(tmp_path.rglob("owned")), "code of the folder ran"


def loaded(folder):
    model = Model(path=str(folder))
    return load_base(open_model(model), model)


def encoded(folder):
    return text_rows(folder)(["a"], ["some words"])


WORDS = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": [None, "own.Words"]}}
OWN = {"model_type": "own", "auto_map": CLASSES}
LOADERS = {"a model": loaded, "an encoder": encoded}


@pytest.mark.parametrize(
    ("load", "config", "tokenizer"),
    [(loaded, OWN, None), (encoded, OWN, None), (loaded, None, WORDS)],
    ids=["model", "encoder", "tokenizer"],
)
def test_promise_7_code_of_a_folder_is_refused_without_a_question(
    model_dir, encoder_dir, hostile, fetched, tally, load, config, tokenizer
):
    folder = hostile(encoder_dir if load is encoded else model_dir, config, tokenizer)
    with pytest.raises(InputError, match=r"code of its own \(`auto_map`\), which is never run"):
        load(folder)
    assert not fetched
    tally("models with code of their own", promise=7).reported()


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_what_transformers_has_a_class_for_is_loaded_by_that(model_dir, encoder_dir, hostile, fetched, tally, load):
    """Many good models bring their first code along."""
    load(hostile(encoder_dir if load is encoded else model_dir, {"auto_map": CLASSES}))
    assert not fetched
    tally("models with code of their own", promise=7).harmless()


KERNELS = [
    {"_attn_implementation": "org/kernel"},
    {"attn_implementation": "org/kernel@main:attention"},
    {"_attn_implementation": "paged|org/kernel"},
    {"_attn_implementation": {"": "org/kernel"}},
    {"_attn_implementation": "flash_attention_2"},  # which transformers may fetch, too
    {"_attn_implementation_internal": "org/kernel", "attn_implementation": "org/kernel"},
    {"_experts_implementation": "deepgemm"},
    {"_attn_implementation": [["x"]]},
    {"_experts_implementation": {"": [["x"]]}},
    {"inner": [{"text": {"_attn_implementation": {"x": {}}}}]},
    {"inner": [{"text": {"_attn_implementation": "org/kernel"}}]},
]


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("config", KERNELS, ids=map(str, KERNELS))
def test_promise_7_kernels_of_the_hub_are_refused(model_dir, encoder_dir, hostile, fetched, tally, load, config):
    with pytest.raises(InputError, match="which may be code of the hub: remove that key"):
        load(hostile(encoder_dir if load is encoded else model_dir, config))
    assert not fetched
    tally("models that ask for kernels of the hub", promise=7).reported()


def test_a_configuration_in_another_file_is_looked_at_too(model_dir, hostile, fetched, tally):
    folder = hostile(model_dir, {"configuration_files": ["config.4.0.0.json"]})
    config = json.loads((folder / "config.json").read_text())
    del config["configuration_files"]
    (folder / "config.4.0.0.json").write_text(json.dumps(config | {"_attn_implementation": "org/kernel"}))
    with pytest.raises(InputError, match="`org/kernel`, which may be code of the hub"):
        load_config(open_model(Model(path=str(folder))), Model(path=str(folder)))
    assert not fetched
    tally("models that ask for kernels of the hub", promise=7).reported()


def test_promise_7_code_of_a_model_inside_a_model_is_refused_without_a_question(model_dir, hostile, fetched, tally):
    """Transformers makes the inner model of its configuration, without a word on code of others."""
    inner = {"model_type": "clip_vision_model", "auto_map": CLASSES}
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": inner}
    with pytest.raises(InputError, match="`auto_map` inside another configuration"):
        from_pretrained("AutoModelForImageTextToText", hostile(model_dir, config))
    assert not fetched
    tally("models with code of their own", promise=7).reported()


def test_promise_7_an_encoder_in_pickles_is_refused(encoder_dir, hostile, tally):
    folder = hostile(encoder_dir)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"Pickled weights \(\.bin\) are never loaded"):
        encoded(folder)
    tally("models in pickles", promise=7).reported()


def test_promise_7_modules_of_sentence_transformers_are_not_imported(encoder_dir, hostile, tally):
    """Its `modules.json` names classes of any module; ours are not asked for by it."""
    folder = hostile(encoder_dir)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "own.Own"},
        {"idx": 1, "name": "1", "path": "", "type": "this.s"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"trust_remote_code": True}))
    block, rejected = encoded(folder)
    assert block.example_ids == ["a"]
    assert not rejected
    tally("models with code of their own", promise=7).harmless()
