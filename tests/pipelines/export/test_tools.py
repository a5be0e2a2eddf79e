"""Chats with tools come out as they went in, and train: both formats, `load_dataset`, and TRL's own labels."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trl_command
from datasets import load_dataset
from transformers import AutoTokenizer

from gradsift.datastore import examples
from gradsift.datastore.compact import compact
from gradsift.datastore.store import Store
from gradsift.pipelines.export.diff import diff
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

MAX_LENGTH = 2048


def tool(name, **properties):
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": f"The {name}.", "parameters": schema}}


def chat(k):
    """Calls with other arguments each, of other types; every third is plain."""
    asked = {"role": "user", "content": f"What about {k}?"}
    if k % 3 == 2:
        return {"messages": [asked, {"role": "assistant", "content": f"Nothing about {k}."}]}
    arguments = {"city": "Oslo", "days": k} if k % 3 == 0 else {"thing": ["pen", k], "days": "two", "more": {"x": 0.5}}
    name = "weather" if k % 3 == 0 else "price"
    turns = [
        asked,
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]},
        {"role": "tool", "content": f"{k} degrees", "name": name},
        {"role": "assistant", "content": f"It is {k}."},
    ]  # fmt: skip
    return {"messages": turns, "tools": [tool("weather", city="string"), tool("price", thing="array")][: 1 + k % 2]}


ROWS = [chat(k) for k in range(8)]


def trained(text):
    return (files("trl") / "chat_templates" / f"{text}.jinja").read_text("utf-8")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = tmp_path_factory.mktemp("tools") / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def exported(pool, root, **more):
    recipe = {"name": "tools", "pool": [{"path": str(pool)}], "mix": {"examples": len(ROWS)}, **more}
    with Store(root / "store") as store:
        return Path(curate(parse_recipe(recipe), store).mixtures[0].export)


def loaded(folder, tmp_path):
    return load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def key(pair):
    return pair[0][0]["content"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_chats_with_tools_come_back_as_they_were(pool, tmp_path, kind):
    folder = exported(pool, tmp_path, export={"format": kind})
    rows = loaded(folder, tmp_path)
    found = sorted(((row["messages"], row["tools"]) for row in rows), key=key)
    assert found == sorted(((row["messages"], row.get("tools")) for row in ROWS), key=key)
    told = diff(None, str(folder), str(folder))
    assert (told.a.examples, told.in_both) == (len(ROWS), len(ROWS))


def test_plain_chats_keep_their_columns(tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(ROWS[k]) + "\n" for k in (2, 5)), "utf-8")
    folder = exported(pool, tmp_path, mix={"examples": 2})
    (file,) = (folder / "data").iterdir()
    names = pq.read_schema(file).names
    assert names[0] == "messages"
    assert "tools" not in names
    assert str(pq.read_schema(file).field("messages").type) == "list<element: struct<role: string, content: string>>"


def test_what_is_more_survives_compaction(pool, tmp_path):
    """Shards of plain chats have a column less."""
    for k in range(2):
        plain = tmp_path / "plain.jsonl"
        plain.write_text(json.dumps({"prompt": "Hi", "completion": f"Hello {k}"}) + "\n")
        exported(plain, tmp_path, mix={"examples": 1})
        some = tmp_path / "some.jsonl"
        some.write_text("".join(pool.read_text("utf-8").splitlines(keepends=True)[4 * k : 4 * k + 4]), "utf-8")
        exported(some, tmp_path, mix={"examples": 4})
    with Store(tmp_path / "store") as store:
        ids = [row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example")]
        before = examples.get_messages(store, ids)
        assert len({row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM example")}) == 4
        compact(store, grace=0)
        assert len({row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM example")}) == 1
        assert examples.get_messages(store, ids) == before
    assert sum("tools" in chat[0] for chat in before.values()) == 6


@pytest.fixture(scope="module", params=["qwen3_training", "qwen2_5"])
def with_model(request, pool, model_dir, tmp_path_factory):
    """(model, export) by a template that marks the assistant's tokens, and by one that does not: rows hold labels."""
    root = tmp_path_factory.mktemp("model")
    shutil.copytree(model_dir, root / "model")
    config = json.loads((root / "model" / "config.json").read_text())
    (root / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": MAX_LENGTH}))
    (root / "model" / "chat_template.jinja").write_text(trained(request.param))
    more = {"model": {"path": str(root / "model")}, "encoding": {"max_length": MAX_LENGTH}}
    return root / "model", exported(pool, root, **more), request.param


def test_labels_cover_the_calls(with_model, tmp_path):
    model, folder, template = with_model
    rows, tokenizer = loaded(folder, tmp_path), AutoTokenizer.from_pretrained(model)
    for row in rows:
        turns = [{**row["messages"][0], **({"tools": row["tools"]} if row["tools"] else {})}, *row["messages"][1:]]
        ours = encode(tokenizer, turns, MAX_LENGTH)
        assert ours.status == "ok"
        labels = [t if on else -100 for t, on in zip(ours.input_ids, ours.labelled, strict=True)]
        if template == "qwen2_5":
            assert (row["input_ids"], row["labels"]) == (list(ours.input_ids), labels)
        else:  # what TRL does with `messages` and `tools`
            theirs = tokenizer.apply_chat_template(
                row["messages"], tools=row["tools"], return_dict=True, return_assistant_tokens_mask=True
            )
            assert theirs["input_ids"] == list(ours.input_ids)
            assert theirs["assistant_masks"] == [int(label) for label in ours.labelled]
        called = tokenizer.decode([t for t in labels if t != -100])
        assert all(
            call["function"]["name"] in called for turn in row["messages"] for call in turn.get("tool_calls", [])
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl_trains_on_tool_calls(with_model):
    """By the config's first line; tests/pipelines/export/test_trl.py goes through the shell."""
    model, folder, _ = with_model
    said = trl_command.called(folder, trl_command.words_of(folder, "trl.yaml", model))
    tokenizer = AutoTokenizer.from_pretrained(model)
    wanted = sum(
        len(encode(tokenizer, [{**r["messages"][0], **({"tools": r["tools"]} if "tools" in r else {})}, *r["messages"][1:]], MAX_LENGTH).input_ids)
        for r in ROWS
    )  # fmt: skip
    assert float(re.findall(r"'num_tokens': '?([\d.e+]+)", said)[-1]) == wanted


def test_rows_that_the_template_refuses_are_not_in_an_export_with_labels(pool, model_dir, tmp_path):
    """ChatML knows no tools: such chats would be trained on without their calls."""
    shutil.copytree(model_dir, tmp_path / "model")
    chatml = "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    prompt = "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(chatml + prompt)
    folder = exported(pool, tmp_path, model={"path": str(tmp_path / "model")}, encoding={"max_length": 256})
    rows = loaded(folder, tmp_path)
    assert sorted(row["messages"][0]["content"] for row in rows) == ["What about 2?", "What about 5?"]
    assert all(any(label != -100 for label in row["labels"]) for row in rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows_without_labels"] == 6
    assert "6 chosen rows are not in the files" in (folder / "README.md").read_text()
