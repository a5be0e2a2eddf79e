"""Greedy answers end where they are told to."""

from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from gradsift.pipelines.model.generate import greedy, stop_tokens
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import Model

PROMPTS = [[{"role": "user", "content": text}] for text in ("What is 12 plus 30?", "Reverse: abc")]


@pytest.fixture(scope="module")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


def test_answers_end_at_any_of_the_stops(model, model_dir):
    tokenizer = open_model(Model(path=str(model_dir))).tokenizer
    never = len(tokenizer) - 1
    whole = greedy(model, tokenizer, PROMPTS, 8, 64, stops={never})
    assert [len(answer) for answer in whole] == [8, 8]
    stops = {answer[0] for answer in whole}
    assert greedy(model, tokenizer, PROMPTS, 8, 64, stops=stops) == [[], []]


@pytest.mark.parametrize(("of_model", "expected"), [(7, {2, 7}), ([7, 9], {2, 7, 9}), (None, {2})])
def test_all_ends_of_a_turn_are_known(of_model, expected):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=of_model))
    assert stop_tokens(model, SimpleNamespace(eos_token_id=2)) == expected
