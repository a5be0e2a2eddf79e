"""A recipe is proposed for what is there: every line with its reason, true to the data, and it runs as it is."""

import json

import pytest
import yaml

from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import load_recipe
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.runs.propose import Asked, fraction_of, propose, recipe_text
from gradsift.shipped import copy_example


def chat(question, answer="Yes."):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def example(tmp_path):
    return copy_example("first-curation", tmp_path / "example")


def proposed(asked, tmp_path):
    proposal = propose(asked, tmp_path / "none")
    asked.out.write_text(proposal.text, "utf-8")
    return proposal, load_recipe(asked.out)


def uncommented(text):
    """Lines of YAML without a comment behind them or above them."""
    lines = text.splitlines()
    return [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line.strip() and "#" not in line and not above.lstrip().startswith("#")
    ]


def one_line(text):
    return " ".join(line.lstrip(" #") for line in text.splitlines())


@pytest.mark.slow
def test_a_whole_proposal_loads_and_dry_runs(example, model_dir, tmp_path):
    asked = Asked(
        str(example / "pool"), tmp_path / "recipe.yaml", str(model_dir),
        {"sql": str(example / "val.jsonl")}, {"sql": str(example / "test.jsonl")},
    )  # fmt: skip
    proposal, recipe = proposed(asked, tmp_path)
    assert [line for line in uncommented(proposal.text) if line not in ("targets:", "validate:")] == []
    assert all(len(line) <= 80 for line in proposal.text.splitlines() if str(model_dir) not in line)
    seen, plan = proposal.findings.pool, plan_run(recipe, tmp_path / "none")
    assert (plan.pool_rows, plan.left_out) == (proposal.findings.screened.rows, proposal.findings.screened.left_out)
    assert plan.pool_quarantined == seen.rows - seen.usable
    assert plan.usable_share == proposal.findings.plan.usable_share
    assert plan.arms == proposal.findings.plan.arms
    length = proposal.findings.length
    assert recipe.encoding.max_length == min(256, -(-length.percentile // 64) * 64)  # the model's positions
    assert recipe.validation.seeds == [0, 1, 2]
    said = one_line(proposal.text)
    for words in (
        "scraped.jsonl: 21 rows, messages; 13 refused", "support.csv: 50 rows, alpaca", "notes.txt",
        "Licences: CC-BY-4.0 66", "A run takes about", "24 rows: what the selection looks at",
    ):  # fmt: skip
        assert words in said


def test_paths_are_short_below_and_beside_and_whole_elsewhere(example, tmp_path):
    def path_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = recipe_text(Asked(str(example / "pool"), folder / "r.yaml"), proposal.findings)
        return yaml.safe_load(text)["pool"][0]["path"]

    proposal, recipe = proposed(Asked(str(example / "pool"), tmp_path / "r.yaml"), tmp_path)
    assert path_in(tmp_path) == "example/pool"
    assert path_in(tmp_path / "recipes") == "../example/pool"
    assert path_in(tmp_path / "a" / "b") == str(example / "pool")
    assert recipe.pool[0].path == str(example / "pool")


def test_without_a_target_it_is_a_mixture_and_says_how_to_add_one(example, tmp_path):
    proposal, recipe = proposed(Asked(str(example / "pool"), tmp_path / "r.yaml"), tmp_path)
    assert (recipe.selecting, recipe.validate_, recipe.lm, recipe.mix.fraction) == (None, None, None, 1.0)
    assert "targets:" not in yaml.safe_load(proposal.text)
    assert "give a target" in one_line(proposal.text)
    assert plan_run(recipe, tmp_path / "none").pool_rows == proposal.findings.screened.rows
    assert uncommented(proposal.text) == []


def test_a_target_without_a_model_is_kept_out_of_a_mixture(example, tmp_path):
    asked = Asked(str(example / "pool"), tmp_path / "r.yaml", targets={"sql": str(example / "val.jsonl")})
    proposal, recipe = proposed(asked, tmp_path)
    assert (list(recipe.targets), recipe.selecting, recipe.mix.fraction) == (["sql"], None, 1.0)
    assert "kept out of the mixture" in proposal.text


@pytest.mark.slow
def test_long_prompts_keep_their_answers_and_a_target_without_test_is_not_validated(write_jsonl, model_dir, tmp_path):
    """The pool's chats are short; the target's are longer than what the pool's ask for."""
    pool = write_jsonl(*(chat(f"Is {n} a number?") for n in range(80)), name="pool.jsonl")
    val = write_jsonl(*(chat(f"{n} is long. " * 60) for n in range(4)), name="val.jsonl")
    asked = Asked(str(pool), tmp_path / "r.yaml", str(model_dir), {"long": str(val)})
    proposal, recipe = proposed(asked, tmp_path)
    assert (recipe.encoding.max_length, recipe.encoding.truncation) == (64, "keep_answer")
    assert "4 of 4 rows lose their answer at encoding.max_length 64" in one_line(proposal.text)
    assert recipe.validate_ is None
    assert "No `validate`: long has no `test`" in one_line(proposal.text)


def test_sources_and_licences_are_told_as_the_rows_name_them(write_jsonl, tmp_path):
    rows = [chat(f"{n}?") | {"source": "a" if n < 3 else "b", "license": "MIT"} for n in range(5)]
    pool = write_jsonl(*rows, {"odd": "\x1b[2J"}, name="pool\nname: evil.jsonl")
    proposal, recipe = proposed(Asked(str(pool), tmp_path / "r.yaml"), tmp_path)
    said = one_line(proposal.text)
    assert "Each row names its source in the field `source`. Sources, in usable rows: a 3, b 2." in said
    assert "Licences: MIT 5; every row names one." in said
    assert "1 unknown_shape (first: pool name: evil.jsonl, line 6" in said
    assert "\x1b" not in proposal.text
    assert recipe.pool[0].path == str(pool)


def test_a_pool_of_nothing_is_refused_with_the_first_reasons(tmp_path):
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"body": n}) + "\n" for n in range(3)))
    with pytest.raises(InputError, match=r"no row of .* is usable: 3 unknown_shape \(first: pool.jsonl, line 1: "):
        propose(Asked(str(tmp_path / "pool.jsonl"), tmp_path / "r.yaml"), tmp_path / "none")


@pytest.mark.parametrize(("rows", "share"), [(10, 0.25), (400, 0.25), (1_000, 0.1), (2_000, 0.05), (10**6, 0.05)])
def test_the_fraction_is_five_percent_where_that_is_enough_rows(rows, share):
    assert fraction_of(rows) == share
