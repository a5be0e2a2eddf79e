"""The docs are true: every code block runs, the reference is current, links lead somewhere."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3
import yaml
from running import ROOT, executed, free_port, gradsift, gradsift_apart, python, run, start

from gradsift.datastore import selections
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)

# A temporary server takes some ten seconds of processor time for each run.
pytestmark = pytest.mark.usefixtures("on_server")


def blocks(page, language):
    return [text for found, text in BLOCK.findall(page.read_text("utf-8")) if found == language]


@pytest.mark.slow
def test_the_readme_works_as_written(model_dir, data_dir, tmp_path):
    """Its recipe, commands and Python, in order, in one folder, on a small pool and model."""
    page = ROOT / "README.md"
    shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())  # rotary positions: as many as are wanted
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    for name, source in (("pool", "small"), ("val", "val"), ("test", "test")):
        shutil.copy(data_dir / f"{source}.jsonl", tmp_path / f"{name}.jsonl")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (commands,) = blocks(page, "bash")
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "gradsift"
        gradsift(*arguments, cwd=tmp_path)
    for code in blocks(page, "python"):
        executed(code, tmp_path)


@pytest.mark.slow
def test_the_mixtures_page_works_as_written(recipe_data, finished, data_dir, tmp_path):
    """Its recipe without a model, then its other blocks on a store that has gradients of the same pool."""
    page = ROOT / "docs" / "mixtures.md"
    for name, source in (("pool", "small"), ("val", "val"), ("test", "test")):
        shutil.copy(data_dir / f"{source}.jsonl", tmp_path / f"{name}.jsonl")
    recipe, mix = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "mix.yaml").write_text(mix)
    shutil.copytree(finished[1], tmp_path / "computed")
    first, second, third = blocks(page, "bash")

    def run(commands, **more):
        for line in commands.splitlines():
            gradsift(*shlex.split(line)[1:], cwd=tmp_path, **more)

    run(first)
    computed = {"GRADSIFT_STORE": str(tmp_path / "computed")}
    (tmp_path / "plain.yaml").write_text("examples: 40\n")
    run("gradsift mix plain.yaml --name plain", **computed)
    run(second, **computed)
    run(third, **computed)
    for code in blocks(page, "python"):
        assert "'requested': 1000, 'realised': 1000" in executed(code, tmp_path)


@pytest.mark.slow
def test_the_versions_page_works_as_written(data_dir, tmp_path):
    """Its recipe on half of a small pool, then on all of it; what is checked out is what the first run exported."""
    page = ROOT / "docs" / "versions.md"
    lines = (data_dir / "small.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "pool.jsonl").write_bytes(b"".join(lines[:100]))
    (tmp_path / "more.jsonl").write_bytes(b"".join(lines[100:]))
    shutil.copy(data_dir / "val.jsonl", tmp_path / "val.jsonl")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (commands,) = blocks(page, "bash")
    exported = tmp_path / "store" / "exports" / "nightly" / "manifest.json"
    said, manifests = [], []
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        if program == "cat":
            with (tmp_path / arguments[2]).open("ab") as pool:
                pool.write((tmp_path / arguments[0]).read_bytes())
        else:
            said.append(gradsift(*arguments, cwd=tmp_path).stdout)
            manifests.append(exported.read_bytes())
    assert "Versions: pool@1 as before, nightly@1 as before" in said[1]
    assert re.search(r"pool@2 [\d,]+ in, 0 out, nightly@2 \d+ in, \d+ out", " ".join(said[2].split()))
    assert json.loads(said[4])[0]["report"]["version"] == "nightly@2"
    assert (tmp_path / "first" / "manifest.json").read_bytes() == manifests[0] != manifests[2]
    assert "Would drop" in said[-2]
    assert "Dropped" in said[-1]


@pytest.mark.slow
def test_the_page_on_deletion_works_as_written(data_dir, tmp_path):
    """Its recipe and commands on a pool with a person in it, who is in no byte of the store afterwards."""
    page = ROOT / "docs" / "delete.md"
    lines = (data_dir / "small.jsonl").read_text("utf-8").splitlines(keepends=True)[:100]
    wrote = {"prompt": "Please answer to Ann@Example.org as soon as you can.", "completion": "I shall."}
    (tmp_path / "pool.jsonl").write_text("".join([*lines, json.dumps(wrote) + "\n"]), "utf-8")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("examples: 60", "fraction: 1.0"))
    (commands,) = blocks(page, "bash")
    said = [gradsift(*shlex.split(line)[1:], cwd=tmp_path).stdout for line in commands.splitlines()]
    assert "Would delete" in said[1]
    assert re.search(r"examples +1\b", said[1])
    assert re.search(r"exports/nightly +1 +holds them", said[2])
    assert re.search(r"exports/nightly +1 +rewritten", said[3])
    assert "void: 1 example was deleted" in " ".join(said[4].split())
    assert "1 row was deleted before and stays out" in said[5]
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and b"Ann@Example" in path.read_bytes()]
    assert left == []


@pytest.mark.slow
def test_the_upkeep_page_works_as_written(finished, tmp_path):
    """Its commands on a store that holds a run, of which a file is damaged before the last of them."""
    shutil.copytree(finished[1], tmp_path / "store")
    (commands,) = blocks(ROOT / "docs" / "upkeep.md", "bash")
    *first, last = [shlex.split(line)[1:] for line in commands.splitlines()]
    said = [gradsift(*arguments, cwd=tmp_path).stdout for arguments in first]
    assert "Would merge" in said[1]
    assert "Merged" in said[2]
    assert "Damaged files: none" in said[4]
    merged = max((tmp_path / "store" / "features").iterdir(), key=lambda path: path.stat().st_size)
    merged.write_bytes(b"cut")
    assert "computed again" in " ".join(gradsift(*last, cwd=tmp_path).stdout.split())
    assert "Damaged files: none" in gradsift("verify", cwd=tmp_path).stdout


@pytest.mark.slow
def test_the_page_on_growth_works_as_written(model_dir, data_dir, tmp_path):
    """Its recipe, two nights of a small pool, and a new warm-up; the second night brings rows unlike the others."""
    page = ROOT / "docs" / "grow.md"
    lines = (data_dir / "small.jsonl").read_text("utf-8").splitlines(keepends=True)
    odd = [{"prompt": f"Spell number {k} backwards.", "completion": f"{k} rebmun"} for k in range(60)]
    shutil.copytree(model_dir, tmp_path / "model")
    shutil.copy(data_dir / "val.jsonl", tmp_path / "val.jsonl")
    for name, rows in (
        ("pool", lines[:110]),
        ("monday", lines[110:]),
        ("tuesday", [json.dumps(r) + "\n" for r in odd]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(rows), "utf-8")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    said = []
    for line in "".join(blocks(page, "bash")).splitlines():
        program, *arguments = shlex.split(line)
        if program == "cat":
            with (tmp_path / arguments[2]).open("a") as pool:
                pool.write((tmp_path / arguments[0]).read_text())
        else:
            said.append(" ".join(gradsift(*arguments, cwd=tmp_path, columns=200).stdout.split()))
    assert "Checkpoints:" not in said[0]
    assert "checkpoints 2, 2 of them kept" in said[2]
    assert re.search(
        r"Checkpoints: \d+ of \d+ rows \(\d+%\) came after the warm-up; drift 0\.0\d+ of at most 0\.1\. ", said[3]
    )
    assert "--new-warmup, computes all of them again." in said[4]
    assert re.search(r"nightly-sql@3 .* nightly-sql@1", said[6])
    assert "Checkpoints:" not in said[-1]


@pytest.mark.slow
def test_the_page_on_search_works_as_written(finished, recipe_data, tmp_path):
    """Its commands on a store that holds a run, with the starts of ids that are in it."""
    page = ROOT / "docs" / "search.md"
    shutil.copytree(finished[1], tmp_path / "store")
    write_questions(tmp_path / "questions.jsonl", recipe_data, 3)
    near, opposed, both, text, of_target, difference, of_file, words = [
        gradsift(*arguments, cwd=tmp_path).stdout for arguments in asked(tmp_path / "store", page)
    ]
    assert "Nearest in gradient space (checkpoint 1" in " ".join(near.split())
    cosines = [hit["similarity"] for hit in json.loads(opposed)["hits"]]
    assert cosines == sorted(cosines)
    assert "all checkpoints" in both
    assert "the highest 1 % above" in " ".join(text.split())
    assert "Opposed in gradient space" in of_target
    assert "capitals" in of_target
    assert "unlike" in difference
    assert of_file.count("Nearest in") == 3
    assert len(pq.read_table(tmp_path / "near.parquet")) == 9
    assert "Nearest in words" in words
    out = executed(blocks(page, "python")[0], tmp_path).splitlines()
    assert [line.count("(") for line in out[:3]] == [5, 5, 5]
    assert all(", 1.0)" in line for line in out[:3])
    assert "Typical(" in out[4]


def asked(root, page):
    """The arguments of a page's commands about two examples, with two of a store."""
    with Store(root) as store:
        first, second = selections.get(store, "small-sql").example_ids[:2]
    commands = "".join(blocks(page, "bash")).replace("3f9c2a1b", first[:10]).replace("7d20e5aa", second[:10])
    return [shlex.split(line)[1:] for line in commands.splitlines()]


def write_questions(path, recipe_data, count):
    """Chats to ask with: the first of a target's."""
    lines = Path(recipe_data["targets"]["sql"]["val"]["path"]).read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:count]), "utf-8")


@pytest.mark.slow
def test_the_page_on_finding_works_as_written(finished, recipe_data, tmp_path):
    """Its commands and its code on a store that holds a run, whose texts are short."""
    page = ROOT / "docs" / "find.md"
    shutil.copytree(finished[1], tmp_path / "store")
    write_questions(tmp_path / "failures.jsonl", recipe_data, 2)
    (failure,) = blocks(page, "json")
    with (tmp_path / "failures.jsonl").open("a") as file:
        file.write(json.dumps(json.loads(failure)) + "\n")
    said = [
        gradsift(*("40.." if word == "200.." else word for word in arguments), cwd=tmp_path).stdout
        for arguments in asked(tmp_path / "store", page)
    ]
    assert len(said) == 8
    assert said[0].count("Nearest in gradient space") == said[1].count("Nearest in words") == 3
    assert all("Opposed in gradient space" in text for text in said[5:])
    (code,) = blocks(page, "python")
    assert "failures" in executed(code, tmp_path)
    near = pq.read_table(tmp_path / "near.parquet")
    assert set(near["source"].to_pylist()) == {"sql"}
    assert max(near["question"].to_pylist()) == 2
    assert pq.read_table(tmp_path / "against.parquet").num_rows > 0


@pytest.mark.slow
def test_the_page_on_sql_and_lineage_works_as_written(model_dir, data_dir, tmp_path, monkeypatch):
    """Its recipe on a small pool with another column, its commands with the start of an id that is there, its Python."""
    page = ROOT / "docs" / "sql.md"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_dir, "model")
    shutil.copy(data_dir / "val.jsonl", "val.jsonl")
    lines = (data_dir / "small.jsonl").read_text("utf-8").splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}") and '"source": "' in line]
    rows = [row | {"quality": k % 5} for k, row in enumerate(whole)]
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, "no chat"]), "utf-8")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)

    def typed(line):
        return gradsift(*shlex.split(line)[1:], columns=120).stdout

    asked, traced, others = blocks(page, "bash")
    said = [typed(line) for line in asked.splitlines()]
    with Store("store") as store:
        chosen = selections.get(store, "nightly-sql").example_ids[0]
    assert re.search(r"^ capitals +\d+ +\d\.\d{4} +\d+", said[1], re.M), said[1]
    assert all(re.search(rf"^ {quality} +\d", said[2], re.M) for quality in range(5))
    assert sum(row["count"] for row in json.loads(said[3])) == 40
    assert pq.read_table("hard.parquet").column_names == ["id", "loss", "text"]
    assert "quarantine" in said[5]
    assert "grad_norm" in said[6]
    assert {row["name"] for row in csv.DictReader(said[7].splitlines())} == {"nightly", "nightly-sql"}
    by_folder, by_file = [typed(line) for line in traced.splitlines()]
    assert by_folder == by_file
    assert "quality" in by_folder
    of_id, at_line, of_file, rows_of = [typed(line) for line in others.replace("3f9c2a1b", chosen[:10]).splitlines()]
    assert all("Read from" in text for text in (of_id, at_line))
    assert chosen in of_id
    assert re.search(r"[1-9]\d* were refused", " ".join(of_file.split()))
    assert len(json.loads(rows_of)["files"][0]["lines"]) == len(rows) + 1
    for code in blocks(page, "python"):
        assert executed(code, tmp_path)


def test_the_page_of_indexes_works_as_written(finished, tmp_path):
    """Its commands, on a store that holds a run."""
    shutil.copytree(finished[1], tmp_path / "store")
    (commands,) = blocks(ROOT / "docs" / "indexes.md", "bash")
    said = [gradsift(*shlex.split(line)[1:], cwd=tmp_path).stdout for line in commands.splitlines()]
    assert "ivf_sq8" in said[0]
    assert "Nearest in gradient space" in said[3]
    assert "Dropped 1 index," in said[-1]


@pytest.mark.slow
def test_the_page_on_pushing_works_as_written(tmp_path):
    """Its commands, against a stand-in for the hub."""
    rows = [{"prompt": f"Ask {k} of many other things", "completion": f"say {k}"} for k in range(30)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text("name: nightly\npool: [{path: pool.jsonl}]\nmix: {examples: 20}\n")
    (commands,) = blocks(ROOT / "docs" / "push.md", "bash")
    gradsift("run", "recipe.yaml", "--no-prefect", cwd=tmp_path)
    with hub.serving() as server:
        variables = hub.variables(server, tmp_path)
        said = [
            gradsift_apart(*shlex.split(line)[1:], cwd=tmp_path, **variables).stdout for line in commands.splitlines()
        ]
    assert "Nothing was pushed" in said[0]
    repository = server.repositories["ann/nightly"]
    assert repository.private
    assert [len(repository.branches[name]) for name in ("main", "first")] == [2, 3]
    assert "manifest.json" in repository.at("main")[1]
    (section,) = blocks(ROOT / "docs" / "push.md", "yaml")
    whole = yaml.safe_load((tmp_path / "recipe.yaml").read_text()) | yaml.safe_load(section)
    whole |= {"model": {"path": "m"}, "targets": {"t": {"val": {"path": "v.jsonl"}, "test": {"path": "t.jsonl"}}}}
    assert parse_recipe(whole).validation.report_to == ["trackio"]
    (code,) = blocks(ROOT / "docs" / "push.md", "python")
    assert (
        "['user', 'assistant']"
        in python("-c", code + "\nprint([role.decode() for role in turns])", cwd=tmp_path).stdout
    )


@pytest.mark.slow
def test_the_memory_page_works_as_written(data_dir, tmp_path):
    """Its recipe and commands, the first of which says what each method will hold; less than that is refused."""
    page = ROOT / "docs" / "memory.md"
    for name, source in (("pool", "small"), ("val", "val")):
        shutil.copy(data_dir / f"{source}.jsonl", tmp_path / f"{name}.jsonl")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (commands,) = blocks(page, "bash")
    plan, *_, selected = [gradsift(*shlex.split(line)[1:], cwd=tmp_path).stdout for line in commands.splitlines()]
    assert re.search(r"method 'random' +\d+ KiB", plan)
    assert re.search(r"allowed +4\.0 GiB", plan)
    assert "random" in selected
    less = shlex.split(commands.splitlines()[-1].replace("500MB", "9KB").replace("20", "21"))[1:]
    refused = gradsift(*less, cwd=tmp_path, code=2)
    assert "`memory` allows 9 KiB" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_the_page_on_choosing_a_method_works_as_written(recipe_data, tmp_path):
    """Its recipe and commands; the first two candidates look at words alone, so no rows are computed."""
    page = ROOT / "docs" / "choosing-a-method.md"
    (section,) = blocks(page, "yaml")
    recipe = recipe_data | {"features": {}, "validate": None} | yaml.safe_load(section)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (commands,) = blocks(page, "bash")
    for line in commands.splitlines():
        shown = " ".join(gradsift(*shlex.split(line)[1:], cwd=tmp_path).stdout.split())
        assert re.search(r"auto for sql: (bm25|dsir) of 2 methods by \d+ trainings", shown)


@pytest.mark.slow
def test_the_page_on_clusters_works_as_written(recipe_data, finished, tmp_path):
    """Its first recipe is one; then its scheduler and its two workers, commands as on the page, do the work of a run."""
    page = ROOT / "docs" / "cluster.md"
    local, there = (yaml.safe_load(block) for block in blocks(page, "yaml"))
    assert parse_recipe(recipe_data | local).runner.kind == "dask"
    (commands,) = blocks(page, "bash")
    scheduler, workers, command = commands.splitlines()
    port = str(free_port())
    here = {"kind": "dask", "address": there["runner"]["address"].replace("8786", port)}
    small = {"features": {"projector": {"dim": 256}, "unit_rows": 16}, "validate": None, "runner": here}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(recipe_data | small))
    shutil.copytree(finished[1], tmp_path / "team")
    started = []
    try:
        for line in (scheduler, workers):
            program, *arguments = shlex.split(line.replace("8786", port))
            assert program == "dask"
            started.append(start("-m", "dask", *arguments, cwd=tmp_path, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, start_new_session=True))  # fmt: skip
        gradsift_apart(*shlex.split(command)[1:], cwd=tmp_path)
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with Store(tmp_path / "team") as store:
        result = last_run(store).result
    assert all(made.computed for made in result.rows)
    expected = parse_recipe(recipe_data | small | {"runner": "threads"})
    shutil.copytree(finished[1], tmp_path / "alone")
    with Store(tmp_path / "alone") as store:
        assert [s.digest for s in curate(expected, store).selections] == [s.digest for s in result.selections]


def test_the_memory_page_lists_what_every_score_and_rule_declares():
    from gradsift.pipelines.methods.registry import methods, rules, scores

    page = (ROOT / "docs" / "memory.md").read_text("utf-8")
    for kind, parts in (("score", scores()), ("rule", rules())):
        for name, part in parts.items():
            of = [method for method, preset in methods().items() if getattr(preset, kind) == name]
            used = ", ".join(f"`{method}`" for method in of) or "by name"
            assert f"| {kind} `{name}` | {used} | {part.memory.holds} | {part.memory.less} |" in page


@pytest.mark.slow
def test_the_object_store_page_works_as_written(s3_server, data_dir, tmp_path, monkeypatch):
    """Its recipe and commands, on a server that is not Amazon's."""
    page = ROOT / "docs" / "object-store.md"
    bucket = s3.Bucket(s3_server, "team-data", prefix="gradsift")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    shutil.copy(data_dir / "small.jsonl", tmp_path / "pool.jsonl")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (commands,) = blocks(page, "bash")
    install, *lines = commands.splitlines()
    assert install == "pip install 'gradsift[s3]'"
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "gradsift"
        gradsift_apart(*arguments, cwd=tmp_path)
    assert {name.partition("/")[0] for name in bucket.content()} == {"owner", "examples", "scores"}
    assert sum(len(pq.read_table(path)) for path in (tmp_path / "exported" / "data").glob("*.parquet")) == 20


@pytest.mark.slow
def test_the_team_page_works_as_written(data_dir, tmp_path, postgres):
    """Its SQL on a server, its recipe and commands on two hosts' folders, and its backup."""
    page = ROOT / "docs" / "team.md"
    (statements,) = blocks(page, "sql")
    with postgres.connect() as server:
        for statement in statements.split(";")[:-1]:
            server.execute(statement)

    def here(text):
        there = f"{postgres.address}:{postgres.port}"
        return (
            text.replace("db.example", there)
            .replace("/shared", str(tmp_path))
            .replace("pg_dump", f"{postgres.bin}/pg_dump")
        )

    shutil.copy(data_dir / "small.jsonl", tmp_path / "pool.jsonl")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(here(recipe))
    install, first, second, backup = blocks(page, "bash")
    assert install == "pip install 'gradsift[postgres]'\n"
    for line in here(first + second + backup).splitlines():
        program, *arguments = shlex.split(line)
        if program == "gradsift":
            gradsift(*arguments, cwd=tmp_path)
        else:
            run([program, *arguments], cwd=tmp_path)
    assert sum(len(pq.read_table(path)) for path in (tmp_path / "exported" / "data").glob("*.parquet")) == 20
    assert "CREATE TABLE night.example (" in (tmp_path / "night.sql").read_text()


@pytest.mark.slow
def test_the_validation_page_works_as_written(finished, tmp_path):
    """Its settings and commands on a store that holds a run."""
    page = ROOT / "docs" / "validation.md"
    shutil.copytree(finished[1], tmp_path / "store")
    (settings,) = blocks(page, "yaml")
    few = yaml.safe_load(settings) | {"seeds": [0], "arms": ["random", "length"]}  # the words are true of any numbers
    (tmp_path / "validate.yaml").write_text(yaml.safe_dump(few))
    (commands,) = blocks(page, "bash")
    for line in commands.splitlines():
        gradsift(*shlex.split(line)[1:], cwd=tmp_path)
    assert (tmp_path / "report.html").exists()
    (code,) = blocks(page, "python")
    executed(code, tmp_path)


@pytest.mark.slow
def test_the_page_on_the_report_works_as_written(finished, tmp_path):
    """Its commands on a store that holds a run; the sizes and sentences that it names are those of the report."""
    from gradsift.pipelines.report.effects import WORDS

    page = ROOT / "docs" / "reading-the-report.md"
    shutil.copytree(finished[1], tmp_path / "store")
    (commands,) = blocks(page, "bash")
    listed, written, document = [
        gradsift(*shlex.split(line)[1:], cwd=tmp_path).stdout for line in commands.splitlines()
    ]
    assert "Runs and their reports" in listed
    assert "reports/small.html" in "".join(written.split()), "its name has no later run"
    assert (tmp_path / "store" / "reports" / "small.run1.html").exists()
    assert json.loads(document)["run"] == 1
    text = " ".join(page.read_text("utf-8").split())
    assert "under 1 % is negligible, under 5 % small, under 15 % moderate, above that large" in text
    assert [limit for limit, _ in WORDS] == [1, 5, 15]


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)\b(?! it| them| again| two)", "\n".join(_code(page))):
            assert re.search(rf"^{target}:", makefile, re.M), f"make {target} in {page.name}"


def _code(page):
    text = page.read_text("utf-8")
    return [*re.findall(r"`([^`\n]+)`", text), *(body for _, body in BLOCK.findall(text))]


def test_no_other_code_block_goes_untested():
    allowed = {"every-night.md": {"bash", "yaml", "ini", "text", "python"},  # tests/flows/test_deployments.py
               "README.md": {"", "mermaid", "yaml", "bash", "python"}, "reference.md": {"text"}, "architecture.md": {"mermaid"},
               "choosing-a-method.md": {"yaml", "bash"}, "mixtures.md": {"yaml", "bash", "python"}, "validation.md": {"yaml", "bash", "python"},
               "versions.md": {"yaml", "bash"}, "upkeep.md": {"bash"}, "delete.md": {"yaml", "bash"}, "grow.md": {"yaml", "bash"},
               "search.md": {"bash", "python", "json"}, "find.md": {"json", "bash", "python"}, "api.md": {"text", "python"}, "indexes.md": {"bash"}, "memory.md": {"yaml", "bash"},
               "reading-the-report.md": {"bash"}, "sql.md": {"yaml", "bash", "python"},
               "data.md": {"jsonl", "json", "yaml", "csv", "text"}, "where-did-it-go.md": {"yaml", "bash"},
               "object-store.md": {"yaml", "bash"}, "cluster.md": {"yaml", "bash"}, "cascade.md": {"yaml"}, "team.md": {"yaml", "bash", "sql"},
               "push.md": {"bash", "python", "yaml"}, "explore.md": {"bash"},  # tests/explorer/test_shell.py

               "format.md": {"text", "python"},  # tests/test_format.py
               "notebook.md": {"bash"},  # in tests/test_notebook.py
               "way-back.md": {"yaml", "bash", "python"}, "training.md": {"bash", "python"},
               "first-curation.md": {"yaml", "bash", "python"}}  # the last in tests/test_first_curation.py  # fmt: skip
    for page in PAGES:
        assert {language for language, _ in BLOCK.findall(page.read_text("utf-8"))} <= allowed.get(page.name, set())


def test_the_reference_is_current():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_reference

        assert make_reference.page() == (ROOT / "docs" / "reference.md").read_text("utf-8"), (
            "run: python docs/make_reference.py"
        )
    finally:
        sys.path.pop(0)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{link} in {page.name}"


def test_promises_of_the_readme_have_tests():
    tests = "".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for number in re.findall(r"^(\d)\. ", (ROOT / "README.md").read_text("utf-8"), re.M):
        assert f"test_promise_{number}_" in tests or f"Promise {number}" in tests


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_valid_recipes(path):
    from gradsift.pipelines.recipe import load_recipe

    assert load_recipe(path).name
    assert yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.slow
def test_the_page_on_where_rows_went_works_as_written(tmp_path):
    """Its recipe and commands on a folder with a file of broken rows, one that is no data, and good rows."""
    page = ROOT / "docs" / "where-did-it-go.md"
    (tmp_path / "pool").mkdir()
    good = [{"prompt": f"Ask {k} of many other things", "completion": f"say {k}"} for k in range(30)]
    (tmp_path / "pool" / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*good, good[0]]))
    (tmp_path / "pool" / "bad.jsonl").write_text('{"prompt": \n[]\n')
    (tmp_path / "pool" / "README.md").write_text("about it")
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (commands,) = blocks(page, "bash")
    said = [
        " ".join(gradsift(*shlex.split(line)[1:], cwd=tmp_path, columns=200).stdout.split())
        for line in commands.splitlines()
    ]
    assert "README.md" in said[0]
    assert re.search(r"read 33 33 .*refused 2 31 .*repeat another row's chat 1 30 .*used 30 30", said[0])
    assert "bad.jsonl:1 broken_json" in said[1]
    assert "not_an_object" not in said[2]
    assert said[3].startswith("role,dataset,file,line,source,reason,detail,excerpt,example_id pool,nightly,")


@pytest.mark.slow
def test_the_page_on_the_way_back_works_as_written(tmp_path):
    """Its recipe, commands and Python on a pool of JSONL, CSV with lines in cells, and Parquet."""
    page = ROOT / "docs" / "way-back.md"
    pool = tmp_path / "pool"
    (pool / "deep").mkdir(parents=True)

    def rows(kind, author="ben"):
        return [
            {
                "id": f"{kind}-{k}",
                "prompt": f"{kind} asks\n{k}",
                "completion": f'{kind} "says" {k}',
                "quality": k,
                "author": author,
            }
            for k in range(7)
        ]

    (pool / "a.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows("a", "ann")), "utf-8")
    with (pool / "deep" / "b.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "completion", "quality", "author"])
        writer.writeheader()
        writer.writerows(rows("b"))
    pq.write_table(pa.Table.from_pylist(rows("c")), pool / "c.parquet")
    (recipe,) = blocks(page, "yaml")
    (commands,) = blocks(page, "bash")
    (code,) = blocks(page, "python")

    def said(recipe):
        (tmp_path / "recipe.yaml").write_text(recipe)
        lines = [gradsift(*shlex.split(line)[1:], cwd=tmp_path, columns=200).stdout for line in commands.splitlines()]
        return [" ".join(one.split()) for one in lines], executed(code, tmp_path).splitlines()

    (ran, deleted), back = said(recipe)
    assert "left out by `where` 9 12" in ran
    assert "examples 4 " in deleted
    places = sorted(line.split(maxsplit=1)[1] for line in back)
    assert places == sorted(
        [*(f"a.jsonl {k + 2} a-{k}" for k in range(3, 7)), *(f"deep/b.csv {2 * k + 2} b-{k}" for k in range(3, 7)),
         *(f"c.parquet {k + 1} c-{k}" for k in range(3, 7))]
    )  # fmt: skip
    text = " ".join(page.read_text("utf-8").split())
    assert "`extra->>'quality' + 0 >= 3`" in text
    (pool / "deep" / "b.csv").unlink()
    (ran, _), back = said(recipe.replace("examples: 12", "examples: 8").replace("'quality' + 0", "'quality'"))
    assert "left out by `where` 6 8" in ran
    assert len(back) == 8


@pytest.mark.slow
def test_the_page_on_training_works_as_written(model_dir, data_dir, tmp_path):
    """Its command, with two steps, and its Python, beside an export whose rows hold labels."""
    page = ROOT / "docs" / "training.md"
    shutil.copytree(model_dir, tmp_path / "model")
    recipe = {
        "name": "train",
        "pool": [{"path": str(data_dir / "small.jsonl")}],
        "model": {"path": "model"},
        "encoding": {"max_length": 128},
        "mix": {"examples": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    gradsift("run", "recipe.yaml", "--no-prefect", cwd=tmp_path)
    gradsift("export", "train", "out", cwd=tmp_path)
    (command,) = blocks(page, "bash")
    steps = ["--max_steps", "1", "--report_to", "none", "--bf16", "false", "--use_cpu", "true", "--save_strategy", "no"]
    program, *words = shlex.split(command)
    run(
        [f"{sys.prefix}/bin/{program}", *words, *steps], cwd=tmp_path / "out", HF_DATASETS_CACHE=str(tmp_path / "cache")
    )
    assert (tmp_path / "out" / "trained").is_dir()
    (code,) = blocks(page, "python")
    assert "train_loss" in python("-c", code, cwd=tmp_path, HF_DATASETS_CACHE=str(tmp_path / "cache")).stdout
