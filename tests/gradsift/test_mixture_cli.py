"""The commands about mixtures, as typed."""

import json
from functools import partial

import pytest
import running
import yaml

gradsift = partial(running.gradsift, columns=60)
QUESTION = "Tell me in a few words how the lighthouse keeper of the small island spent the long nights of that winter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a recipe without a model, already run."""
    where = tmp_path_factory.mktemp("mixing cli")
    rows = [
        {"prompt": f"[bold]{s}[/bold] {k} asks", "completion": f"{s} {k} answers", "source": s, "licence": "mit"}
        for s in ("alpha", "beta")
        for k in range(20)
    ]
    rows += [{"prompt": QUESTION, "completion": a, "source": "alpha"} for a in ("He read.", "he  READ.")]
    (where / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = {"name": "plain", "pool": [{"path": "pool.jsonl"}], "dedup": {}, "mix": {"examples": 10}}
    (where / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = gradsift("run", "recipe.yaml", "--no-prefect", cwd=where)
    assert "Mixture plain: 10 of 10 rows" in out.stdout
    assert "exact" in out.stdout
    return where


@pytest.mark.slow
def test_a_recipe_without_a_model_needs_none(folder):
    found = json.loads(gradsift("run", "recipe.yaml", "--no-prefect", "--json", cwd=folder).stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["ingest", "mix", "export", "report"]
    assert found["ingest"]["pool"]["left_out"] == [{"reason": "exact", "examples": 1, "by_source": {"alpha": 1}}]
    plan = json.loads(gradsift("run", "recipe.yaml", "--dry-run", "--json", cwd=folder).stdout)
    assert plan["pool_rows"] == 41
    assert set(plan["minutes"]) == {"start", "read and screen", "choose and export"}


@pytest.mark.slow
def test_mix_export_diff(folder):
    (folder / "mix.yaml").write_text("examples: 12\nweights: {beta: 1}\n")
    out = gradsift("mix", "mix.yaml", "--name", "betas", "--export-to", "betas", cwd=folder)
    assert "Mixture betas: 12 of 12 rows" in out.stdout
    assert "12 rows in betas" in out.stdout
    made = json.loads(gradsift("mix", "mix.yaml", "--name", "betas", "--json", cwd=folder).stdout)
    assert made["by_source"] == {"beta": 12}
    gradsift("export", "plain", "out", "--format", "jsonl", "--require-licence", cwd=folder)
    assert (folder / "out" / "data" / "train-00000-of-00001.jsonl").exists()
    out = gradsift("diff", "plain", "betas", cwd=folder)
    assert "only in b" in out.stdout
    assert "[bold]" in out.stdout, "dataset text is no markup"
    shared = json.loads(gradsift("overlap", "plain", "betas", "--json", cwd=folder).stdout)
    assert shared["scores"] == [
        {"selection": name, "with length": None, "plain": None, "betas": None} for name in ("plain", "betas")
    ]
    assert max(len(line) for line in out.stdout.splitlines()) <= 60
    by_folder = json.loads(gradsift("diff", "out", "betas", "--json", "--store", "nowhere", cwd=folder).stdout)
    assert by_folder["b"]["rows"] == 12


@pytest.mark.slow
def test_marks(folder):
    out = gradsift("marks", cwd=folder)
    assert "exact 1.00" in out.stdout
    assert "dedup.keep" in out.stdout
    found = json.loads(gradsift("marks", "--json", cwd=folder).stdout)
    assert found["pairs"][0]["text"].lower().split() == found["pairs"][0]["twin_text"].lower().split()


def test_status_shows_the_mixture(folder):
    found = json.loads(gradsift("status", "--json", cwd=folder).stdout)
    assert "plain" in {row["name"] for row in found["selections"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("examples: 99", "99 rows are asked for and there are 41"),
        ("examples: 5\nweight: uniform", "did you mean `weights`"),
        ("- 5", "must hold the fields of `mix`"),
        ("a: [", "mix2.yaml is not valid YAML"),
    ],
)
def test_bad_settings_are_explained(folder, text, message):
    (folder / "mix2.yaml").write_text(text)
    out = gradsift("mix", "mix2.yaml", cwd=folder, code=2, columns=200)
    assert message in out.stderr
    assert "Traceback" not in out.stderr


@pytest.mark.slow
def test_unlicensed_rows_and_unknown_names_are_explained(folder):
    (folder / "mix.yaml").write_text("examples: 41\n")
    gradsift("mix", "mix.yaml", "--name", "all", cwd=folder)
    out = gradsift("export", "all", "strict", "--require-licence", cwd=folder, code=2, columns=200)
    assert "1 rows have no licence, of sources alpha (1)" in out.stderr
    assert not (folder / "strict").exists()
    out = gradsift("export", "nobody", "x", cwd=folder, code=2, columns=200)
    assert "there are:" in out.stderr


def test_a_query_needs_gradients(folder):
    out = gradsift("query", "hello", cwd=folder, code=2, columns=200)
    assert "computed no gradients" in out.stderr
