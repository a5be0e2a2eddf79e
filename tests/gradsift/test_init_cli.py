"""`gradsift init` as typed: it writes a recipe, and writes over nothing; examples are listed and copied."""

import json

import pytest
import yaml
from running import ROOT, gradsift

import gradsift as package
from gradsift.datastore.errors import InputError

EXAMPLE = ROOT / "examples" / "first-curation"


def test_a_recipe_is_written_once_and_dry_runs(tmp_path):
    out = gradsift("init", EXAMPLE / "pool", "--json", cwd=tmp_path)
    found = json.loads(out.stdout)
    assert found["recipe"] == "recipe.yaml"
    assert sum(sum(one["shapes"].values()) for one in found["pool"]["files"]) == 370
    plan = json.loads(gradsift("run", "recipe.yaml", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["pool_rows"] == found["screened"]["rows"]
    (tmp_path / "recipe.yaml").write_text("mine")
    refused = gradsift("init", EXAMPLE / "pool", cwd=tmp_path, code=2)
    assert "recipe.yaml is there already; --force" in refused.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    assert "gradsift run recipe.yaml" in gradsift("init", EXAMPLE / "pool", "--force", cwd=tmp_path).stdout
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text("utf-8"))["name"] == "first-curation"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the pool"),
        (("pool", "--target", "sql"), "give NAME=FILE"),
        (("pool", "--target", "a=x", "--target", "a=y"), "given twice"),
        (("pool", "--test", "sql=x"), "there is no target of that name"),
        (("pool",), "there is no file or folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, arguments, words):
    out = gradsift("init", *arguments, cwd=tmp_path, columns=400, code=2)
    assert words in out.stderr
    assert list(tmp_path.iterdir()) == []


def test_examples_are_listed_and_copied_into_an_empty_folder(tmp_path):
    assert [row["example"] for row in json.loads(gradsift("init", "--example", "--json").stdout)] == ["first-curation"]
    gradsift("init", "--example", "first-curation", cwd=tmp_path)
    copied = {path.relative_to(tmp_path / "first-curation") for path in (tmp_path / "first-curation").rglob("*")}
    assert copied == {path.relative_to(EXAMPLE) for path in EXAMPLE.rglob("*")}
    again = gradsift("init", "--example", "first-curation", cwd=tmp_path, code=2)
    assert "first-curation is there and not empty" in again.stderr
    wrong = gradsift("init", "--example", "frist-curation", "x", cwd=tmp_path, code=2)
    assert "first-curation" in wrong.stderr


def test_the_same_from_python(tmp_path):
    out = tmp_path / "recipe.yaml"
    found = package.init(EXAMPLE / "pool", target={"sql": EXAMPLE / "val.jsonl"}, out=out, store=tmp_path / "none")
    assert list(package.load_recipe(out).targets) == ["sql"]
    assert found.screened.targets == {"sql": 24}
    with pytest.raises(InputError, match="is there already"):
        package.init(EXAMPLE / "pool", out=out)
