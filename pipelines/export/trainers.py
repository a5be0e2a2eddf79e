"""Ready configs for trainers, and who says which tokens have loss.

Loss is on the assistant's tokens alone, and on the same tokens as in everything that gradsift computed. A chat template
that marks the assistant's part (`{% generation %}`) says so to TRL itself: it then reads `messages`, which suits any
model. Most templates have no marks; TRL knows training forms of some families' templates and refuses others. So an
export for a model whose template has none holds the tokens and labels of that model (`labels: auto`); `trl.yaml` reads
these, and `trl-messages.yaml` is for other models. What is written depends on the tokenizer, not on the trainers that
are installed. Axolotl and LLaMA-Factory find the assistant's turns by templates of their own.
"""

import json
from dataclasses import dataclass
from typing import Any

import yaml

from gradsift.datastore.runs import Json, Recipes
from gradsift.pipelines.model.encode import has_marks
from gradsift.pipelines.recipe import Export

COMMAND = "trl sft --config {config} --model_name_or_path MODEL --output_dir OUT"


@dataclass(frozen=True)
class Tokens:
    """How the rows of an export become tokens. `labelled`: the rows hold them; `pruned`: some label tokens lost their
    loss, which only labels can say. `max_length` and `model` (its name on the hub) are the recipe's; None without."""

    labelled: bool
    pruned: bool = False
    max_length: int | None = None
    model: str | None = None
    keeps_answers: bool = False  # `encoding.truncation: keep_answer`
    tools: bool = False  # some chats have tools, calls or names: `messages` holds objects, `tools` stands beside it


def wants_labels(options: Export, recipes: Recipes, tokenizer: Any) -> bool:
    """Whether the rows need labels: where they are asked for, or TRL would not find the same ones by itself.
    `tokenizer` is a function that opens the recipe's; it is called where that alone decides."""
    if options.labels != "auto" or not recipes.resolved.get("model"):
        return options.labels is True
    cuts = (recipes.resolved.get("encoding") or {}).get("truncation", "keep_first")
    return cuts != "keep_first" or not has_marks(tokenizer())


def configs(name: str, suffix: str, tokens: Tokens) -> dict[str, str]:
    """{file name: text} of all configs of an export called `name`, whose data files end in `suffix`."""
    texts = {
        "dataset_info.json": dataset_info(name),
        "trl.yaml": trl_labels(tokens) if tokens.labelled else trl_messages("trl.yaml", tokens),
        "axolotl.yaml": axolotl_yaml(suffix, tokens),
    }
    if tokens.labelled and not tokens.pruned:
        texts["trl-messages.yaml"] = trl_messages("trl-messages.yaml", Tokens(labelled=False, tools=tokens.tools))
    return texts


def trl_labels(tokens: Tokens) -> str:
    """The config of `trl sft` where rows hold tokens and labels of the recipe's model; run from inside the folder."""
    model = f"the recipe's model, {tokens.model}" if tokens.model else "the recipe's model"
    lines = [
        f"# {COMMAND.format(config='trl.yaml')}   (from inside this folder)",
        f"# MODEL is {model}, or one with the very same tokenizer and chat template:",
        "# the rows hold its tokens, and labels that put the loss on the assistant's tokens.",
    ]
    if not tokens.pruned:
        lines.append("# For another model: trl-messages.yaml.")
    options: Json = {"max_length": tokens.max_length} if tokens.max_length else {}
    return _trl(lines, ["input_ids", "labels"], options)


def trl_messages(config: str, tokens: Tokens) -> str:
    """The config of `trl sft` where it finds the assistant's tokens by the model's chat template."""
    lines = [
        f"# {COMMAND.format(config=config)}   (from inside this folder)",
        "# The loss is on the assistant's tokens. TRL finds them by the {% generation %} marks of MODEL's chat",
        "# template, or by its own training template where it knows MODEL's. Where it refuses MODEL's, set",
        "# `chat_template_path` to a template with marks, or export from a recipe whose `model` is MODEL: with labels.",
    ]
    if tokens.keeps_answers:
        lines += [
            "# The rows were chosen under truncation keep_answer: TRL cuts long chats at their end, and loses their",
            "# answers. Export with `export: {labels: true}`, or set max_length to that of the longest chat.",
        ]
    options: Json = {"max_length": tokens.max_length} if tokens.max_length else {}
    columns = ["messages", "tools"] if tokens.tools else ["messages"]
    return _trl(lines, columns, {"assistant_only_loss": True, **options})


def _trl(lines: list[str], columns: list[str], options: Json) -> str:
    block = {"datasets": [{"path": "data", "split": "train", "columns": columns}]}
    return "\n".join(lines) + "\n" + yaml.safe_dump(block | options, sort_keys=False, allow_unicode=True)


def dataset_info(name: str) -> str:
    """LLaMA-Factory's dataset_info.json: `dataset_dir` is the export's folder, `dataset` its name."""
    entry = {
        "file_name": "data",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "tool",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    }
    return json.dumps({name: entry}, indent=2) + "\n"


def axolotl_yaml(suffix: str, tokens: Tokens) -> str:
    """Axolotl's `datasets` block; run from inside the export's folder, or set the path."""
    kind = "parquet" if suffix == "parquet" else "json"
    entry: Json = {"path": "data", "ds_type": kind, "split": "train"}
    if not tokens.labelled:  # with labels no `type` at all: axolotl then takes the rows as tokenised already
        entry |= {
            "type": "chat_template",
            "field_messages": "messages",
            "message_property_mappings": {"role": "role", "content": "content"},
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }
    said = "# Put this block into an axolotl config; the path is taken from where axolotl runs.\n"
    if tokens.labelled:
        said += (
            "# It takes the rows' tokens, those of the recipe's model. For another: `gradsift export --no-labels`.\n"
            "# UNCONFIRMED: axolotl's docs ask for exactly input_ids, attention_mask and labels in such rows; where\n"
            "# it refuses or trips over the other columns, remove them.\n"
        )
    return said + yaml.safe_dump({"datasets": [entry]}, sort_keys=False)
