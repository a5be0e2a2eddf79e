"""`gradsift quarantine`, as typed."""

import csv
import io
import json
import shutil
from functools import partial

import pytest
import running
import yaml

from gradsift.datastore import runs
from gradsift.datastore.store import Store
from gradsift.pipelines.report.funnel import funnel, left_over
from gradsift.pipelines.runs.stayed_out import kinds, stayed_out

gradsift = partial(running.gradsift, columns=50)
BAD = ['{"prompt": 1', '{"prompt": 7, "completion": "[bold]x"}', '=1+1"', "[]"]


def good(k):
    return json.dumps({"prompt": f"Question {k} of many", "completion": f"{k}", "source": "made"})


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe without a model over a folder of files, already run."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "good.jsonl").write_text("".join(f"{good(k)}\n" for k in range(10)))
    (pool / "bad.jsonl").write_text("".join(f"{line}\n" for line in [*BAD, BAD[0], good(1)]))
    (pool / "notes.md").write_text("not rows")
    recipe = {"name": "plain", "pool": [{"path": "pool"}], "mix": {"examples": 5}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def words(done):
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_what_stayed_out_is_shown_counted_and_gone_when_it_is_mended(folder):
    ran = words(gradsift("run", "recipe.yaml", "--no-prefect", cwd=folder, columns=200))
    assert "1 file in" in ran
    assert "1 of no known kind (.md): notes.md" in ran
    assert "Where the rows went" in ran
    shown = words(gradsift("quarantine", cwd=folder))
    assert "Rows that stayed out" in shown
    assert "bad.jsonl:2 bad_field" in shown
    assert '| {"prompt": 1' in shown
    found = json.loads(gradsift("quarantine", "--json", cwd=folder).stdout)
    assert [(row["line"], row["role"], row["dataset"]) for row in found["rows"]] == [
        (line, "pool", "plain") for line in range(1, 6)
    ]
    assert sum(kind["rows"] for kind in found["kinds"]) == 5
    of_one = ["quarantine", "--reason", "broken_json", "--file", "bad.jsonl", "--source", "bad"]
    only = json.loads(gradsift(*of_one, "--limit", "2", "--json", cwd=folder).stdout)
    assert [row["line"] for row in only["rows"]] == [1, 3]
    assert [kind["rows"] for kind in only["kinds"]] == [3]
    assert "2 of 3 rows" in words(gradsift(*of_one, "--limit", "2", cwd=folder))
    table = list(csv.DictReader(io.StringIO(gradsift("quarantine", "--csv", cwd=folder).stdout)))
    assert [row["reason"] for row in table] == [row["reason"] for row in found["rows"]]
    assert table[2]["excerpt"].startswith("'="), "no formula"
    assert "there are bad_field, broken_json, not_an_object" in words(
        gradsift("quarantine", "--reason", "x", cwd=folder)
    )
    assert gradsift("quarantine", "--json", "--csv", cwd=folder, code=2).stderr.startswith("error: give either")

    (folder / "pool" / "bad.jsonl").write_text("".join(f"{good(k)}\n" for k in range(20, 26)))
    again = json.loads(gradsift("run", "recipe.yaml", "--no-prefect", "--json", cwd=folder).stdout)
    assert again["funnel"]["read"] == again["funnel"]["used"] == 16
    assert [text.split(": ")[-1] for text in again["warnings"]] == ["notes.md"]
    assert words(gradsift("quarantine", cwd=folder)) == "Nothing stayed out."
    assert json.loads(gradsift("quarantine", "--json", cwd=folder).stdout) == {"kinds": [], "rows": []}


@pytest.mark.slow
def test_rows_that_the_model_cannot_use_are_listed_with_what_to_do(recipe_data, data_dir, tmp_path):
    """A row of which the prompt fills `max_length` has no label."""
    long = {"prompt": "why " * 400, "completion": "so", "source": "long"}
    lines = (data_dir / "small.jsonl").read_text("utf-8").splitlines()[:40]
    (tmp_path / "pool.jsonl").write_text("\n".join([*lines, json.dumps(long)]) + "\n", "utf-8")
    recipe = json.loads(json.dumps(recipe_data)) | {"pool": [{"path": str(tmp_path / "pool.jsonl")}]}
    recipe.pop("validate", None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    gradsift("run", "recipe.yaml", "--no-prefect", cwd=tmp_path)
    with Store(tmp_path / "store", create=False) as store:
        counted = funnel(runs.last_run(store).result)
        (kind,) = [kind for kind in kinds(store) if kind.reason == "no_labels"]
        (one,) = [row for row in stayed_out(store) if row.reason == "no_labels"]
        page = (store.root / "reports" / f"{recipe['name']}.json").read_text("utf-8")
    assert (kind.rows, kind.source, one.source, one.line) == (1, "long", "long", 41)
    assert left_over(counted) == 0
    assert [(line.reason, dict(line.by_source)) for line in counted.out if line.outcome == "unusable"] == [
        ("no_labels", {"long": 1})
    ]
    assert f"{counted.used:,} of {counted.read:,} pool rows used" in page
    assert "Where the rows of each source went" in page
    said = words(gradsift("quarantine", "--reason", "no_labels", cwd=tmp_path, columns=200))
    assert f"encoding.max_length ({recipe['encoding']['max_length']}): raise it" in said
    assert one.example_id in said
    assert "why why" in said
    shutil.rmtree(tmp_path / "store")
