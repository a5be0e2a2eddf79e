"""The export with its real readers: TRL trains from the shipped config; the others' configs against their documented fields.

LLaMA-Factory (0.9.5) and axolotl (0.19.0) pin torch and transformers versions that exclude this project's, so they cannot be
installed beside it. Their own parsers, loaded alone (`llamafactory/data/parser.py`, `axolotl/utils/schemas/datasets.py`),
accepted these four exports when this was written; here the fields that they read are checked, and what their loaders do
with them is done by hand.
"""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from gradsift.datastore import runs, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.recipe import Export
from gradsift.pipelines.runs import reselect

LLAMA_FACTORY_KEYS = {
    "file_name",
    "formatting",
    "ranking",
    "subset",
    "split",
    "folder",
    "num_samples",
    "columns",
    "tags",
}
LLAMA_FACTORY_TAGS = {
    "role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag",
}  # fmt: skip
AXOLOTL_KEYS = {
    "path", "ds_type", "split", "type", "field_messages", "message_property_mappings", "roles_to_train", "train_on_eos",
}  # fmt: skip
MARKED = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def exports(finished, tmp_path_factory):
    """{kind: folder}: a selection, a mixture that repeats, and one whose tokens are pruned, of a finished run whose model's
    template has no marks: with labels. `jsonl` is without."""
    import shutil

    root = tmp_path_factory.mktemp("exports")
    shutil.copytree(finished[1], root / "store")
    with Store(root / "store") as store:
        reselect.remix(store, {"fraction": 1.2, "repeat": 2}, name="twice")
        reselect.reselect(store, {"method": "qtuning", "examples": 60}, name="pruned")
        out = {}
        for kind, name in (("selection", "small-sql"), ("mixture", "twice"), ("pruned", "pruned-sql")):
            chosen = selections.get(store, name)
            out[kind] = export(store, chosen, runs.recipe_of(store, chosen), root / kind)
        chosen = selections.get(store, "small-sql")
        out["jsonl"] = export(
            store, chosen, runs.recipe_of(store, chosen), root / "jsonl", Export(format="jsonl", labels=False)
        )
    return out


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["selection", "mixture", "pruned", "jsonl"])
def test_trl_trains_two_steps_from_the_shipped_config(exports, kind, model_dir, tmp_path, monkeypatch):
    """`trl sft --config trl.yaml`, by TRL's own parser, loader and trainer, from inside the export's folder."""
    from transformers import AutoTokenizer
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_dataset

    monkeypatch.chdir(exports[kind])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    _, training, model, mixture = parser.parse_args_and_config(
        ["--config", "trl.yaml", "--model_name_or_path", str(model_dir), "--output_dir", str(tmp_path / "out"),
         "--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none", "--save_strategy", "no",
         "--bf16", "false", "--logging_steps", "1", "--use_cpu", "true"]
    )  # fmt: skip
    rows = get_dataset(mixture)["train"]
    assert set(rows.column_names) == ({"messages"} if kind == "jsonl" else {"input_ids", "labels"})
    manifest = json.loads(Path("manifest.json").read_text("utf-8"))
    assert len(rows) == manifest["selection"]["rows"]
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)
    tokenizer.chat_template = MARKED
    trainer = SFTTrainer(model.model_name_or_path, args=training, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] == -100).any(), "prompts have no loss"
    assert (batch["labels"] != -100).any()
    losses = [entry["loss"] for entry in (trainer.train(), trainer.state.log_history)[1] if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_the_same_relative_path_in_two_exports_is_not_one_cache_entry(exports, monkeypatch, tmp_path):
    """The shipped configs say `data`; `datasets` must not serve one export's rows for another's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    sizes = []
    for kind in ("selection", "mixture"):
        monkeypatch.chdir(exports[kind])
        sizes.append(len(load_dataset("data", split="train")))
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("kind", ["selection", "mixture", "pruned", "jsonl"])
def test_llama_factory_finds_and_reads_it(exports, kind):
    """As its loader does: dataset_info.json → files of one known kind → messages by tags, user and assistant in turn."""
    folder = exports[kind]
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    ((name, entry),) = info.items()
    assert name == json.loads((folder / "manifest.json").read_text("utf-8"))["name"]
    assert set(entry) <= LLAMA_FACTORY_KEYS
    assert set(entry["tags"]) == LLAMA_FACTORY_TAGS
    assert entry["formatting"] == "sharegpt"
    files = [str(path) for path in (folder / entry["file_name"]).iterdir()]
    kinds = {{"parquet": "parquet", "jsonl": "json"}[f.rsplit(".", 1)[1]] for f in files}
    assert len(kinds) == 1
    tags = entry["tags"]
    for row in load_dataset(kinds.pop(), data_files=files, split="train"):
        turns = row[entry["columns"]["messages"]]
        if turns[0][tags["role_tag"]] == tags["system_tag"]:
            turns = turns[1:]
        assert [t[tags["role_tag"]] for t in turns] == [tags["user_tag"], tags["assistant_tag"]] * (len(turns) // 2)
        assert all(t[tags["content_tag"]] for t in turns)


@pytest.mark.parametrize("kind", ["selection", "mixture", "pruned", "jsonl"])
def test_axolotl_finds_and_reads_it(exports, kind, monkeypatch):
    """As its loader does: a local folder is `load_dataset(path)`; rows with input_ids, attention_mask and labels are taken
    as tokenised, others by the chat template from `field_messages`."""
    folder = exports[kind]
    monkeypatch.chdir(folder)
    (entry,) = yaml.safe_load((folder / "axolotl.yaml").read_text("utf-8"))["datasets"]
    assert set(entry) <= AXOLOTL_KEYS
    rows = load_dataset(entry["path"], split=entry["split"])
    if kind != "jsonl":
        assert "type" not in entry
        assert {"input_ids", "attention_mask", "labels"} <= set(rows.column_names)
        return
    assert entry["type"] == "chat_template"
    mapping = entry["message_property_mappings"]
    turn = rows[0][entry["field_messages"]][-1]
    assert turn[mapping["role"]] in entry["roles_to_train"]
    assert turn[mapping["content"]]
