"""Chat templates that never end, or make more than fits: they end with words that name the model, in any thread."""

from concurrent.futures import ThreadPoolExecutor

import jinja2
import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model import bounded
from gradsift.pipelines.model.encode import PLAIN_TEMPLATE, encode
from gradsift.pipelines.model.render import render

CHAT = [{"role": "user", "content": "Warm in Oslo?"}, {"role": "assistant", "content": "It is cold."}]
LONG = "{% set all = range(99999) %}"
ENDLESS = {
    "loops in loops": f"{LONG}{{% for a in all %}}{{% for b in all %}}{{% endfor %}}{{% endfor %}}",
    "a loop that writes": f"{LONG}{{% for a in all %}}{{% for b in all %}}x{{% endfor %}}{{% endfor %}}",
    "a loop that picks nothing": f"{LONG}{{% for a in all %}}{{% for b in all if false %}}{{% endfor %}}{{% endfor %}}",
    "a loop for each call of another": "{% for a in [[1] * 9] * 9 recursive %}{% for b in range(99999) %}{% endfor %}"
    "{{ loop([[1] * 9] * 9) }}{% endfor %}",
    "calls that double": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "blocks that are called": "{% macro f(n) %}{{ caller() }}{{ caller() }}{% endmacro %}" + LONG
    + "{% for a in all %}{% for b in all %}{% call f(1) %}{% endcall %}{% endfor %}{% endfor %}",
    "an answer": f"{LONG}{{% generation %}}{{% for a in all %}}{{% for b in all %}}{{% endfor %}}{{% endfor %}}"
    "{% endgeneration %}",
}  # fmt: skip
HUGE = {
    "a text that doubles": "{% set n = namespace(s='xx') %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a text joined to itself": "{% set n = namespace(s='xx') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(s=[1]) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a block that doubles": "{% set n = namespace(s='xx') %}{% for a in range(99) %}"
    "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "what is written": "{% for a in range(999) %}{{ 'x' * 99999 }}{% endfor %}",
    "constants": "{{ 'x' * 100000 * 100000 }}",
    "a list of constants": "{{ 100000 * ([1] * 100000) }}",
}  # fmt: skip


@pytest.fixture
def tokenizer(model_dir):
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_ended(tokenizer, monkeypatch, name):
    monkeypatch.setattr(bounded, "SECONDS", 0.05)
    tokenizer.chat_template = ENDLESS[name]
    with (
        ThreadPoolExecutor(1) as elsewhere,
        pytest.raises(InputError, match=r"chat template of \S+ takes over 0\.05 s for one chat"),
    ):
        elsewhere.submit(encode, tokenizer, CHAT, 512).result()


@pytest.mark.parametrize("name", HUGE)
def test_a_template_that_makes_what_does_not_fit_is_ended(tokenizer, monkeypatch, name):
    monkeypatch.setattr(bounded, "SIZE", 1 << 20)
    tokenizer.chat_template = HUGE[name]
    with pytest.raises(InputError, match=r"chat template of \S+ makes a text or list of over 1,048,576 parts"):
        encode(tokenizer, CHAT, 512)


def test_a_power_is_not_worked_out(tokenizer):
    with pytest.raises(InputError, match=r"chat template of \S+ raises to a power"):
        render(tokenizer, "{{ 10 ** 10 ** 10 }}", CHAT, tokenize=False)


def test_a_range_over_what_jinja_allows_and_a_template_that_is_none_are_refused(tokenizer):
    for template in (
        "{% for i in range(10000000000) %}{% endfor %}",
        "{% for %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ):
        with pytest.raises(jinja2.TemplateError):
            render(tokenizer, template, CHAT, tokenize=False)


def test_a_chat_that_is_large_itself_is_rendered(tokenizer, monkeypatch):
    monkeypatch.setattr(bounded, "SIZE", 1 << 10)
    chat = [{"role": "user", "content": "x" * 5_000}]
    assert render(tokenizer, PLAIN_TEMPLATE, chat, tokenize=False).count("x") == 5_000


def test_a_template_that_transformers_forgot_is_bounded_again(tokenizer, monkeypatch):
    monkeypatch.setattr(bounded, "SECONDS", 0.05)
    template = ENDLESS["loops in loops"]
    for _ in range(2):
        with pytest.raises(InputError, match="takes over"):
            render(tokenizer, template, CHAT, tokenize=False)
        _compile_jinja_template.cache_clear()
