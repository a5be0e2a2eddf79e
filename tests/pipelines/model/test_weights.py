"""Promise 4 for weights and prompts: whatever is loaded is digested, and a prompt is the same tomorrow."""

import json
import shutil
from datetime import datetime

import pytest
import torch
from transformers import AutoModelForCausalLM

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.model.encode import chat_template, encode
from gradsift.pipelines.model.load import load_base
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.weights import INDEX, weight_files
from gradsift.pipelines.recipe import Model, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run

CHAT = [{"role": "user", "content": "What day is it?"}, {"role": "assistant", "content": "Friday."}]


@pytest.fixture
def sharded(model_dir, tmp_path):
    """The model in several files, which lie in a folder of their own."""
    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.save_pretrained(folder, max_shard_size="300KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model_dir / name).is_file():
            shutil.copy(model_dir / name, folder / name)
    index = json.loads((folder / INDEX).read_text())
    (folder / "parts").mkdir()
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / "parts" / name)
    index["weight_map"] = {weight: f"parts/{name}" for weight, name in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def digest(folder):
    return open_model(Model(path=str(folder))).model_digest


def change(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, {"format": "pt"})


def test_promise_4_every_file_that_an_index_names_is_digested(sharded):
    section = Model(path=str(sharded))
    before, weights = digest(sharded), load_base(open_model(section), section).state_dict()
    assert len(weight_files(sharded)) > 3
    for part in sorted((sharded / "parts").iterdir()):
        kept = part.read_bytes()
        change(part)
        after = load_base(open_model(section), section).state_dict()
        assert any(not torch.equal(weights[name], after[name]) for name in weights)  # it is loaded
        assert digest(sharded) != before  # so it is another model
        part.write_bytes(kept)
    assert digest(sharded) == before


def test_promise_4_an_index_that_points_elsewhere_is_another_model(sharded):
    before = digest(sharded)
    shutil.copytree(sharded / "parts", sharded / "others")
    for part in (sharded / "others").iterdir():
        change(part)
    index = (sharded / INDEX).read_text()
    (sharded / INDEX).write_text(index.replace("parts/", "others/"))
    assert digest(sharded) != before
    (sharded / INDEX).write_text(index)
    (sharded / "consolidated.safetensors").write_bytes(b"nobody loads this")
    assert digest(sharded) == before


def test_a_file_of_the_configurations_choice_is_the_one_that_counts(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "chosen.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"transformers_weights": "chosen.safetensors"}))
    before = digest(tmp_path / "m")
    section = Model(path=str(tmp_path / "m"))
    assert load_base(open_model(section), section)
    change(tmp_path / "m" / "chosen.safetensors")
    assert digest(tmp_path / "m") != before


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (next((folder / "parts").iterdir())).unlink(), r"names parts/.*, which is not there"),
        (lambda folder: (folder / INDEX).write_text("{"), "cannot read"),
        (lambda folder: (folder / INDEX).write_text('{"metadata": {}}'), "no `weight_map`"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": null, "b": ["x"]}}'), "no `weight_map`"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "/nowhere/x"}}'), "nowhere/x, which is not"),
        (lambda folder: (folder / INDEX).unlink(), "Download the model's weights"),
        (lambda folder: ((folder / INDEX).unlink(), (folder / "pytorch_model.bin").touch()), "Pickled weights"),
        (lambda folder: (folder / "config.json").unlink(), "is not a model: it has no config.json"),
        (lambda folder: shutil.rmtree(folder), "there is no model folder"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer .none of tokenizer.json"),
        (lambda folder: next((folder / "parts").iterdir()).write_bytes(b"cut"), "cannot be read .* download it again"),
        (lambda folder: next((folder / "parts").iterdir()).write_bytes(LFS), "is a pointer of Git LFS"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_by_file(sharded, damage, words):
    damage(sharded)
    with pytest.raises(InputError, match=words):
        open_model(Model(path=str(sharded)))


ASKS = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}{{ 'Today: ' + today + '\n' }}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def dated(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "dated")
    (tmp_path / "dated" / "chat_template.jinja").write_text(ASKS)
    return tmp_path / "dated"


def test_promise_5_a_prompt_is_the_same_on_another_day(dated, monkeypatch):
    from transformers.utils import chat_template_utils

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    def prompt(**more):
        loaded = open_model(Model(path=str(dated), **more))
        chat = encode(loaded.tokenizer, CHAT, 128)
        return loaded.tokenizer.decode(chat.input_ids), loaded.tokenizer_digest

    today = prompt()
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert prompt() == today
    assert "26 Jul 2024" in today[0]
    other = prompt(date="2026-03-01")
    assert "01 Mar 2026" in other[0]
    assert other[1] != today[1]  # of another feature space


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ("{{ strftime_now('%-d %B %Y') }}", "26 July 2024"),
        ("{{ strftime_now (form) }}", "2024-07-26"),
        ("{% set now = strftime_now %}{{ now('%Y') }}", "2024"),
        ("{{ strftime_now('%d\\n%H:%M') }}", "26\n00:00"),
        ("{{ strftime_now('100 %% on day %j') }}", "100 % on day 208"),
        ("{# strftime_now is not asked #}{{ 'no' }}", "no"),
    ],
)
def test_a_date_is_pinned_however_it_is_asked_for(dated, asks, said):
    (dated / "chat_template.jinja").write_text("{% set form = '%Y-%m-%d' %}" + asks + "|" + ASKS.split("{{ 'Today", 1)[0]
        + "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")  # fmt: skip
    tokenizer = open_model(Model(path=str(dated))).tokenizer
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, chat_template=chat_template(tokenizer))
    assert text.split("|")[0] == said


def test_a_template_that_asks_for_no_date_is_left_as_it_is(model_dir):
    loaded = open_model(Model(path=str(model_dir)))
    assert chat_template(loaded.tokenizer) == (model_dir / "chat_template.jinja").read_text()


def test_a_template_of_our_own_and_one_that_refuses_everything_are_said(recipe_data, dated, tmp_path):
    few = {"pool": [{"path": recipe_data["pool"][0]["path"], "rows": 16}], "validate": None, "warmup": None}
    plain = {"features": {"projector": {"dim": 64}, "transform": "sgd"}, "select": {"examples": 3}}
    recipe = parse_recipe(recipe_data | few | plain | {"model": {"path": str(dated)}})
    (dated / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(InputError, match=r"none of 24 rows has a label token at any length .24 unrenderable"):
        plan_run(recipe, tmp_path / "nothing")
    with Store(tmp_path / "refused") as store, pytest.raises(InputError, match=r"none of 24 rows has a label token"):
        curate(recipe, store)
    (dated / "chat_template.jinja").unlink()
    note = plan_run(recipe, tmp_path / "nothing").notes[0]
    assert "no chat template" in note
    assert "put its own beside the tokenizer, as chat_template.jinja" in note
    with Store(tmp_path / "store") as store:
        assert "no chat template" in curate(recipe, store).notes[0]
