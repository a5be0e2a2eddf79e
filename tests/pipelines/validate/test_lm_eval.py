"""The bridge to lm-evaluation-harness: the real one where it is installed, a clear error where it is not."""

import importlib.util
import json
import sys

import pytest

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.load import load_lora
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.validate.harness import folder_digest, scores

THERE = importlib.util.find_spec("lm_eval") is not None


def test_without_the_harness_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"pip install 'gradsift\[lm-eval\]'"):
        scores(None, None, ["x"], None, None)


def test_other_files_are_other_benchmarks(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    first = folder_digest(str(tmp_path))
    assert folder_digest(str(tmp_path)) == first
    (tmp_path / "mine.yaml").write_text("task: mine \n")
    assert folder_digest(str(tmp_path)) != first
    assert folder_digest(None) is None
    with pytest.raises(InputError, match="is no folder"):
        folder_digest(str(tmp_path / "nowhere"))


@pytest.mark.skipif(not THERE, reason="the extra lm-eval is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_local_task_is_scored(recipe_data, tmp_path):
    """Two choices, the first always right; a task of a local folder needs no network."""
    rows = [{"question": f"What is {k}?", "choices": [" yes", " no"], "gold": 0} for k in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    recipe = parse_recipe(recipe_data)
    loaded = open_model(recipe.model)
    model = load_lora(loaded, recipe.model, recipe.lora, 0)
    found = scores(model, loaded.tokenizer, ["mine"], str(tmp_path), 3)
    assert set(found) == {"mine acc,none"}
    assert 0.0 <= found["mine acc,none"] <= 1.0
    with pytest.raises(InputError, match="knows no task 'theirs'"):
        scores(model, loaded.tokenizer, ["theirs"], None, None)
