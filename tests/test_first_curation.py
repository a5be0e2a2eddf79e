"""The tutorial works as written: its commands, recipe and Python are read out of the page and run in order."""

import json
import re
import shlex
import shutil
import sys

import pytest
import yaml
from running import ROOT, executed, gradsift, run

from gradsift.examples.make_first_curation import PLANTED
from gradsift.pipelines.demo.data import sql

# A temporary server takes some ten seconds of processor time for each run.
pytestmark = pytest.mark.usefixtures("on_server")
PAGE = ROOT / "docs" / "first-curation.md"
STEPS = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--save_strategy", "no",
         "--bf16", "false", "--use_cpu", "true", "--gradient_checkpointing", "false"]  # fmt: skip


@pytest.fixture
def folder(model_dir, tmp_path):
    """Where the tutorial begins: a model, and what comes on Monday."""
    import random

    shutil.copytree(model_dir, tmp_path / "model")
    rng = random.Random(7)
    rows = [dict(zip(("prompt", "completion"), sql(rng), strict=True)) for _ in range(12)]
    (tmp_path / "monday.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def blocks():
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_tutorial_works_as_written(folder):
    here, said = folder, {}
    for language, text in blocks():
        if language == "yaml":
            drafted = yaml.safe_load((here / "recipe.yaml").read_text("utf-8"))
            assert set(drafted["targets"]) == {"sql"}
            recipe = yaml.safe_load(text)
            recipe["validate"] |= {"seeds": [0], "epochs": 1, "test_rows": 8}  # the words are true of any numbers
            (here / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        elif language == "python":
            told = executed(text, here)
            assert re.search(r"^SELECT|^\w", told)
            assert re.search(r"^\S+\.(jsonl|json|csv|tsv|parquet|gz) \d+ ", told.splitlines()[-1])
        else:
            for line in text.splitlines():
                program, *words = shlex.split(line)
                if program == "cd":
                    here = (here / words[0]).resolve()
                elif program == "cp":
                    shutil.copy(here / words[0], here / words[1])
                elif program == "trl":
                    run([f"{sys.prefix}/bin/trl", *words, *STEPS], cwd=here, HF_DATASETS_CACHE=str(folder / "cache"))
                else:
                    said[line] = gradsift(*words, cwd=here, columns=100).stdout
    assert (folder / "first" / "out" / "trained").is_dir()
    listed = said["gradsift quarantine --file scraped.jsonl"]
    assert all(reason in listed for reason in PLANTED["quarantined"])
    assert "no_labels" in said["gradsift quarantine --reason no_labels"]
    assert "first-sql@2" in said["gradsift log selection"]
