"""The house rules: one import name, imports run one way, the core knows no Prefect, help is light, modules stay small."""

import ast
import json
import re

import pytest
from running import ROOT, python

FLOORS = ("sql", "datastore", "scorers", "pipelines", "flows", "gradsift")
LINKED = FLOORS[:-1]  # top-level folders, imported as gradsift.<name> through links


def modules_of(floor):
    found = (ROOT / floor).rglob("*.py") if floor != "gradsift" else (ROOT / "gradsift").glob("*.py")
    return sorted(found)


MODULES = [path for floor in FLOORS for path in modules_of(floor)]


def imported(path):
    """Dotted names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floors_imported(path):
    """Floors of the house that a file imports."""
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "gradsift":
            inner = rest.split(".")[0]
            yield inner if inner in LINKED else "gradsift"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    floor = path.relative_to(ROOT).parts[0]
    later = set(FLOORS[FLOORS.index(floor) + 1 :])
    assert not later & set(floors_imported(path)), "a floor may import only floors to its left"


def test_there_is_one_import_name():
    """From the repository's root, `pipelines` could be imported under a second name: nothing may."""
    bare = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(LINKED)})\b", re.M)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in (*FLOORS, "tests", "benchmarks", "docs", "examples"):
        pages += [p for p in (ROOT / folder).rglob("*.py") if not any(q.is_symlink() for q in p.parents)]
    for page in pages:
        assert not bare.search(page.read_text("utf-8")), f"a bare import in {page.relative_to(ROOT)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_fit_in_the_head(path):
    assert len(path.read_text("utf-8").splitlines()) <= 500
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def loaded_after(code):
    out = python("-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))", cwd=ROOT)
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_the_core_never_imports_prefect_and_no_module_is_loaded_twice():
    code = (
        "import gradsift.pipelines.curate, gradsift.pipelines.demo, gradsift.pipelines.query, "
        "gradsift.pipelines.dryrun, gradsift.scorers.less"
    )
    loaded = loaded_after(code)
    assert "prefect" not in loaded
    assert not {name.split(".")[0] for name in loaded} & set(LINKED)


def test_the_datastore_knows_no_models():
    names = [f"gradsift.datastore.{p.stem}" for p in (ROOT / "datastore").glob("*.py") if p.stem != "__init__"]
    assert not {"torch", "transformers", "prefect"} & loaded_after(f"import {', '.join(names)}")


def test_help_loads_neither_torch_nor_prefect():
    code = "from gradsift.cli import app\ntry:\n app(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "prefect", "transformers", "pyarrow"} & loaded_after(code)


def test_no_pickle_and_no_remote_code():
    """Promise 7: opening a store or a model runs no code from it."""
    for path in MODULES:
        text = path.read_text("utf-8")
        for word in ("import pickle", "torch.load(", "allow_pickle=True", "trust_remote_code=True", "cloudpickle"):
            assert word not in text, f"{word} in {path}"


def test_tests_run_commands_in_one_way():
    """With one environment and one patience: tests/running.py."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != "running.py":
            assert not re.search(r"subprocess\.(run|Popen|check_\w+)\(", path.read_text("utf-8")), path


def test_version_is_one():
    import tomllib

    from gradsift.pipelines.version import VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("path", sorted((ROOT / "scorers").glob("*.py")), ids=lambda p: p.name)
def test_scorers_touch_no_file_and_no_model(path):
    text = path.read_text("utf-8")
    assert "datastore" not in set(floors_imported(path))
    for word in ("open(", "Path(", "read_text", "from_pretrained", "import transformers", "requests"):
        assert word not in text, f"{word} in {path.name}"
