"""Training by the shipped configs as their first line says: the real `trl sft`, and the labels that TRL makes."""

import json
import re
import shutil
from pathlib import Path

import pytest
import trl_command
import yaml
from datasets import load_dataset
from transformers import AutoTokenizer

from gradsift.datastore.store import Store
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

TURN = "{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}"
CHATML = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "smollm2": "{% if messages[0]['role'] != 'system' %}{{ '<|start|>system\\nYou help.<|end|>\\n' }}{% endif %}"
    + CHATML,
    "marked": (
        "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
    ),
    "none": None,
}
ROWS = 8
MAX_LENGTH = 128


def chats():
    """Rows of one turn, of two, with a system prompt, and one whose end is cut off."""
    turns = [
        ("user", "what is {k} and {k}"),
        ("assistant", "it is {k}{k}"),
        ("user", "why"),
        ("assistant", "because {k}"),
    ]
    for k in range(ROWS):
        chat = [("system", "be short")] * (k % 3 == 0) + turns[: 2 + 2 * (k % 2)]
        yield [
            {"role": role, "content": text.format(k=k) + " and more" * 40 * (k == 5 and role == "assistant")}
            for role, text in chat
        ]


@pytest.fixture(scope="module", params=list(TEMPLATES))
def exported(request, model_dir, tmp_path_factory):
    """(model, folder of the export) of a model with the template."""
    root = tmp_path_factory.mktemp(request.param)
    shutil.copytree(model_dir, root / "model")
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    tokenizer.chat_template = TEMPLATES[request.param]
    (root / "model" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(root / "model")
    (root / "pool.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats()), "utf-8")
    recipe = {
        "name": "mixed",
        "pool": [{"path": str(root / "pool.jsonl")}],
        "model": {"path": str(root / "model")},
        "encoding": {"max_length": MAX_LENGTH},
        "mix": {"examples": ROWS},
    }
    with Store(root / "store") as store:
        made = curate(parse_recipe(recipe), store)
    return root / "model", Path(made.mixtures[0].export)


def ours(model):
    """{tokens: labels} of all rows, by `encode`."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [encode(tokenizer, chat, MAX_LENGTH) for chat in chats()]
    assert [row.status for row in rows].count("truncated") == 1
    return {
        row.input_ids: [t if on else -100 for t, on in zip(row.input_ids, row.labelled, strict=True)] for row in rows
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl_trains_from_the_shell(exported, request):
    """With OUT inside the export. Two steps are one epoch here: TRL counts as many tokens as we do, and warns of
    nothing. One template goes through the shell, the others call what it starts."""
    model, folder = exported
    words = trl_command.words_of(folder, "trl.yaml", model)
    shell = "smollm2" in request.node.callspec.id
    said = trl_command.typed(folder, words) if shell else trl_command.called(folder, words)
    losses = [float(x) for x in re.findall(r"'loss': '?([\d.]+)", said)]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    assert float(re.findall(r"'num_tokens': '?([\d.]+)", said)[-1]) == sum(map(len, ours(model)))
    assert not re.search(r"may not learn to stop|end-of-turn|not trained", said)
    assert (folder / "OUT").is_dir()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_the_labels_that_trl_makes_are_those_of_the_gradients(exported, tmp_path, monkeypatch):
    """Token by token, through TRL's own parser, loader and preparation; the batch is what the model is trained on."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_dataset

    model, folder = exported
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    words = [
        "--config",
        "trl.yaml",
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(tmp_path / "out"),
        *trl_command.STEPS,
    ]
    _, training, _, mixture = parser.parse_args_and_config(words)
    trainer = SFTTrainer(str(model), args=training, train_dataset=get_dataset(mixture)["train"])
    made = {tuple(row["input_ids"]): list(row["labels"]) for row in trainer.train_dataset}
    expected = ours(model)
    assert {ids: labels[1:] for ids, labels in made.items()} == {ids: labels[1:] for ids, labels in expected.items()}
    assert sum(label != -100 for labels in made.values() for label in labels[1:]) > 2 * ROWS
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        (row,) = [
            row for row in expected if list(row) == ids[: len(row)] and not any(x != -100 for x in labels[len(row) :])
        ]
        assert labels[1 : len(row)] == expected[row][1:]


def test_rows_hold_labels_only_where_trl_would_not_find_them(exported, request):
    """By the template alone; the other config is there for models of another tokenizer."""
    _, folder = exported
    marked = "{% generation" in str(AutoTokenizer.from_pretrained(exported[0]).chat_template)
    config = yaml.safe_load((folder / "trl.yaml").read_text("utf-8"))
    assert config["max_length"] == MAX_LENGTH
    assert config["datasets"][0]["columns"] == (["messages"] if marked else ["input_ids", "labels"])
    assert ("input_ids" in load_dataset(str(folder), split="train").column_names) is not marked
    assert (folder / "trl-messages.yaml").exists() is not marked
