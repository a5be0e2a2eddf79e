"""Chats → tokens and labels. One function for pool rows, targets, queries and training.

Loss is on the assistant's tokens, the end-of-turn token included. Where the tokenizer's template marks them
with `{% generation %}`, the marks decide (transformers' `return_assistant_tokens_mask`, which is what TRL's
assistant-only loss uses). Otherwise an assistant turn runs from the end of the generation prompt to the end of
its end-of-turn token; white space that the template puts after that token is not labelled. A tokenizer
without a template gets `PLAIN_TEMPLATE`. What stays of a long chat, `truncate.py` says.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import jinja2

from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import fingerprint
from gradsift.pipelines.model.render import drops, render
from gradsift.pipelines.model.truncate import Truncation, kept

LABEL_POLICY = "assistant+eot/1"
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{{ '\\n' }}{% else %}{{ m['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"
)
DIRECTIVES = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAbBcdDeFGHIjmMpRSTuUVwWxXyY"]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
Status = Literal["ok", "truncated", "no_labels", "unrenderable"]
WITHOUT_LABEL = ("no_labels", "unrenderable")  # statuses of chats that cannot be used


@dataclass(frozen=True)
class Encoded:
    """Tokens of one chat. `labelled[t]` says whether token t is predicted with loss (never t = 0)."""

    input_ids: tuple[int, ...]
    labelled: tuple[bool, ...]
    status: Status

    @property
    def n_label_tokens(self) -> int:
        """Number of tokens with loss."""
        return sum(self.labelled)

    def masked(self, keep: Sequence[bool]) -> "Encoded":
        """The same tokens with loss only where `keep` (one for each label token) says so. Raises ValueError when the
        numbers differ: then the mask was made for another tokenizer, template or length."""
        if len(keep) != self.n_label_tokens:
            raise ValueError(f"a mask of {len(keep)} tokens for a chat with {self.n_label_tokens} label tokens")
        left = iter(keep)
        return replace(self, labelled=tuple(label and bool(next(left)) for label in self.labelled))

    @property
    def usable(self) -> bool:
        """Whether the example has a gradient."""
        return self.status not in WITHOUT_LABEL


def chat_template(tokenizer: Any) -> str:
    """The template in use: the tokenizer's own, else the plain default.

    Raises InputError for a tokenizer with several named templates, or with neither template nor EOS token.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        return str(template)
    if not tokenizer.eos_token:
        raise InputError("the tokenizer has neither a chat template nor an EOS token to end a turn with")
    return PLAIN_TEMPLATE


def has_marks(tokenizer: Any) -> bool:
    """Whether the tokenizer's own template marks the assistant's tokens."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return bool(template and _GENERATION.search(template))


def template_notes(tokenizer: Any) -> list[str]:
    """What there is to say of a tokenizer's template: that there is none, and a plain one is used."""
    if tokenizer.chat_template:
        return []
    return [
        "The tokenizer has no chat template: a turn is `### ROLE`, its text, and after an answer the EOS token. If the "
        "model was trained on chats, put its own beside the tokenizer, as chat_template.jinja in the model's folder."
    ]


def pin_date(tokenizer: Any, day: date) -> None:
    """Give a day to templates that ask for today (`strftime_now`), so that a chat is the same prompt tomorrow.

    A macro of that name stands before transformers' function, and its text is part of what is digested.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _pinned(text, day) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = _pinned(template, day)


def _pinned(template: str, day: date) -> str:
    if "strftime_now" not in template:
        return template
    # %% first and last, so that its second % begins no directive.
    steps = [("%%", "\x00"), *((code, day.strftime(code)) for code in DIRECTIVES), ("\x00", "%")]
    replaced = "".join(f".replace({json.dumps(code)}, {json.dumps(text)})" for code, text in steps)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}\n{template}"


def tokenizer_digest(tokenizer: Any) -> str:
    """Fingerprint of all that decides the tokens: vocabulary, rules, special tokens, template."""
    return fingerprint(
        {
            "rules": tokenizer.backend_tokenizer.to_str(),
            "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
            "template": chat_template(tokenizer),
        }
    )


def encode(tokenizer: Any, messages: Messages, max_length: int, truncation: Truncation = "keep_first") -> Encoded:
    """Encode one chat. Status: `truncated` when cut but usable, `no_labels` when no label token is left,
    `unrenderable` when the template refuses the chat, does not render it turn by turn, or leaves tools or calls out.

    Cost: one render and tokenisation, plus two renders for each assistant turn without marks; five for tools.
    """
    template = chat_template(tokenizer)
    try:
        if drops(tokenizer, template, messages):
            return Encoded((), (), "unrenderable")
        if _GENERATION.search(template):
            ids, labelled = _marked(tokenizer, messages, template)
        else:
            ids, labelled = _by_turns(tokenizer, messages, template)
    except (jinja2.TemplateError, _NotTurnByTurn):
        return Encoded((), (), "unrenderable")
    places = kept(labelled, max_length, truncation)
    cut = len(places) < len(ids)
    ids, labelled = [ids[t] for t in places], [labelled[t] for t in places]
    if labelled:
        labelled[0] = False  # nothing predicts the first token
    status: Status = "no_labels" if not any(labelled) else "truncated" if cut else "ok"
    return Encoded(tuple(ids), tuple(labelled), status)


class _NotTurnByTurn(Exception):
    """The rendering of the first turns is not a prefix of the whole, or an answer is not in its own turn."""


def _marked(tokenizer: Any, messages: Messages, template: str) -> tuple[list[int], list[bool]]:
    encoded = render(tokenizer, template, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    return list(encoded["input_ids"]), [bool(label) for label in encoded["assistant_masks"]]


def _by_turns(tokenizer: Any, messages: Messages, template: str) -> tuple[list[int], list[bool]]:
    def first(count: int, prompt: bool = False) -> str:
        text: str = render(tokenizer, template, messages[:count], tokenize=False, add_generation_prompt=prompt)
        return text

    text = first(len(messages))
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = first(number, prompt=True), first(number + 1)
        if not (text.startswith(after) and after.startswith(before)):
            raise _NotTurnByTurn
        answer = message["content"].strip()
        # A turn of calls alone begins where the prompt ends.
        start_of_answer = after.rfind(answer, len(before)) if answer else len(before)
        if start_of_answer < 0:
            raise _NotTurnByTurn
        has_end_token = bool(after[start_of_answer + len(answer) :].strip())
        spans.append((len(before), len(after.rstrip()) if has_end_token else len(after)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labelled = [
        stop > start and any(start < last and stop > first for first, last in spans)
        for start, stop in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), labelled
