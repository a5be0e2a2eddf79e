"""Labels: the assistant's tokens and the end of turn, as TRL's assistant-only loss has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.encode import encode

CHAT = [
    {"role": "user", "content": "What is 3 plus 4?"},
    {"role": "assistant", "content": "3 plus 4 is 7."},
    {"role": "user", "content": "Sort: b, a"},
    {"role": "assistant", "content": "a, b"},
]


@pytest.fixture
def tokenizer(model_dir):
    return AutoTokenizer.from_pretrained(model_dir)


def labelled_text(tokenizer, encoded):
    return tokenizer.decode([i for i, k in zip(encoded.input_ids, encoded.labelled, strict=True) if k])


def test_assistant_tokens_and_end_of_turn(tokenizer):
    found = encode(tokenizer, CHAT, 512)
    assert labelled_text(tokenizer, found) == "3 plus 4 is 7.<|end|>a, b<|end|>"
    assert found.status == "ok"


TEMPLATES = {
    "smollm3-like": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}",
    "newline-inside": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|start|>assistant' }}"
    "{%- generation %}{{ '\n' + m['content'] + '<|end|>\n' }}{% endgeneration %}{% else %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}",
}


def trl_labels(tokenizer, chat, tmp_path, model_dir):
    """What TRL's SFTTrainer trains on with assistant_only_loss, from its own collator."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, report_to=[], use_cpu=True, max_length=None,
        per_device_train_batch_size=1, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=str(model_dir),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"messages": chat}]),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    return batch["input_ids"][0].tolist(), (batch["labels"][0] != -100).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_mask_equals_trl_assistant_only_loss(tokenizer, template, tmp_path, model_dir):
    tokenizer.chat_template = template
    assert get_training_chat_template(tokenizer) is None  # TRL uses it as it is
    ids, labels = trl_labels(tokenizer, CHAT, tmp_path, model_dir)
    found = encode(tokenizer, CHAT, 512)
    assert list(found.input_ids) == ids
    assert list(found.labelled) == labels


def test_marks_and_turns_agree(tokenizer):
    """The rule without marks gives what marks around content and end of turn give."""
    by_turns = encode(tokenizer, CHAT, 512)
    tokenizer.chat_template = TEMPLATES["smollm3-like"]
    assert encode(tokenizer, CHAT, 512) == by_turns


def test_plain_template_where_there_is_none(tokenizer):
    tokenizer.chat_template = None
    assert labelled_text(tokenizer, encode(tokenizer, CHAT, 512)) == "3 plus 4 is 7.<|end|>a, b<|end|>"
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="neither a chat template nor an EOS"):
        encode(tokenizer, CHAT, 512)


def test_truncation_keeps_the_start_and_flags_rows_without_labels(tokenizer):
    whole = encode(tokenizer, CHAT, 512)
    first = whole.labelled.index(True)
    cut = encode(tokenizer, CHAT, first + 2)
    assert cut.status == "truncated"
    assert cut.input_ids == whole.input_ids[: first + 2]
    assert cut.n_label_tokens == 2
    lost = encode(tokenizer, CHAT, first)
    assert lost.status == "no_labels"
    assert not lost.usable


def test_a_template_that_refuses_or_rewrites_is_flagged(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert encode(tokenizer, CHAT, 512).status == "unrenderable"
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert encode(tokenizer, CHAT, 512).status == "unrenderable"


def test_a_template_cannot_reach_python(tokenizer):
    """Promise 7: templates run in transformers' sandbox."""
    tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert encode(tokenizer, CHAT, 512).status == "unrenderable"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


@given(user=TEXT, answer=TEXT.filter(str.strip))
def test_any_answer_is_labelled_to_its_end(model_dir, user, answer):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    found = encode(tokenizer, chat, 4096)
    text = labelled_text(tokenizer, found)
    assert text.endswith("<|end|>")
    assert answer.strip() in text
    assert not found.labelled[0]


def test_a_template_that_changes_the_answer_is_flagged(tokenizer):
    """Labels must not be guessed where the answer is not rendered as it is."""
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content'] }}", "(m['content'] | upper) }}")
    assert encode(tokenizer, CHAT, 512).status == "unrenderable"
