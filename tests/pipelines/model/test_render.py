"""Chats with tools through templates: labels on the assistant's calls, and no training on what a template leaves out."""

from importlib.resources import files

import pytest
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template

from gradsift.pipelines.model.encode import PLAIN_TEMPLATE, encode

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Warm in Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4 degrees"},
    {"role": "assistant", "content": "It is cold."},
]
WITH_TOOLS = [{**CHAT[0], "tools": [WEATHER]}, *CHAT[1:]]
LIKE_SMOLLM = (  # ChatML as many small models have it: it knows roles and texts alone
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def of_trl(name):
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text("utf-8")


@pytest.fixture
def tokenizer(model_dir):
    return AutoTokenizer.from_pretrained(model_dir)


def spans(tokenizer, found):
    """Texts of the labelled runs."""
    runs, last = [], -2
    for place, (token, label) in enumerate(zip(found.input_ids, found.labelled, strict=True)):
        if label:
            runs += [[]] if place > last + 1 else []
            runs[-1].append(token)
            last = place
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("name", "calls", "end"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', "<|im_end|>"),
        ("qwen3_instruct_2507", '{"name": "weather", "arguments": {"city": "Oslo"}}', "<|im_end|>"),
        ("llama3_1", '{"name": "weather", "parameters": {"city": "Oslo"}}', "<|eot_id|>"),
    ],
)
def test_labels_cover_calls_and_answers(tokenizer, name, calls, end):
    tokenizer.chat_template = of_trl(name)
    found = encode(tokenizer, WITH_TOOLS, 4096)
    assert found.status == "ok"
    first, second = spans(tokenizer, found)
    assert calls in first
    assert (second.strip(), end in first) == (f"It is cold.{end}", True)
    whole = tokenizer.decode(found.input_ids)
    assert "The weather." in whole  # the tool is in the prompt
    assert whole.index("The weather.") < whole.index(first)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_marked_templates_give_the_labels_that_trl_has(tokenizer, name):
    tokenizer.chat_template = of_trl(name)
    training = get_training_chat_template(tokenizer)
    tokenizer.chat_template = training
    found = encode(tokenizer, WITH_TOOLS, 4096)
    turns = [{k: v for k, v in turn.items() if k != "tools"} for turn in WITH_TOOLS]
    theirs = tokenizer.apply_chat_template(
        turns, tools=[WEATHER], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert list(found.input_ids) == theirs["input_ids"]
    assert [int(label) for label in found.labelled] == theirs["assistant_masks"]
    assert "weather" in spans(tokenizer, found)[0]


def test_the_demos_template_renders_tools(tokenizer):
    first, second = spans(tokenizer, encode(tokenizer, WITH_TOOLS, 4096))
    assert first == '\ncall {"name": "weather", "arguments": {"city": "Oslo"}}<|end|>'
    assert second == "It is cold.<|end|>"


DEVELOPER = [{"role": "developer", "content": "Be brief."}, *CHAT[1:2], CHAT[-1]]


@pytest.mark.parametrize(
    ("template", "chat"),
    [
        (LIKE_SMOLLM, CHAT),  # calls are left out
        (LIKE_SMOLLM, [{**CHAT[0], "tools": [WEATHER]}, CHAT[1], CHAT[-1]]),  # tools are
        (PLAIN_TEMPLATE, CHAT),
        ("qwen2_5", DEVELOPER),  # it knows no developer, and renders nothing for one
    ],
    ids=["calls", "tools", "plain template", "developer"],
)
def test_what_a_template_leaves_out_is_not_trained_on(tokenizer, template, chat):
    tokenizer.chat_template = of_trl(template) if template == "qwen2_5" else template
    assert encode(tokenizer, chat, 4096).status == "unrenderable"
    assert encode(tokenizer, [CHAT[1], CHAT[-1]], 4096).status == "ok"


def test_a_developer_that_a_template_renders_is_used(tokenizer):
    tokenizer.chat_template = LIKE_SMOLLM
    found = encode(tokenizer, DEVELOPER, 4096)
    assert found.status == "ok"
    assert "<|im_start|>developer\nBe brief." in tokenizer.decode(found.input_ids)


def test_answers_of_tools_alone_are_rendered_by_a_template_without_tools(tokenizer):
    """Older data has results of tools without calls: such chats are used as before."""
    tokenizer.chat_template = LIKE_SMOLLM
    chat = [CHAT[1], {"role": "assistant", "content": "weather(Oslo)"}, CHAT[3], CHAT[4]]
    assert spans(tokenizer, encode(tokenizer, chat, 4096)) == ["weather(Oslo)<|im_end|>", "It is cold.<|im_end|>"]
