"""The house rules: imports run one way, the core knows no Prefect, help is light, modules stay small."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sql", "datastore", "scorers", "pipelines", "flows", "gradsift")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path):
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    assert not later & set(imported_rooms(path)), "a room may import only rooms to its left"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_fit_in_the_head(path):
    assert len(path.read_text("utf-8").splitlines()) <= 500
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def loaded_after(code):
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_the_core_never_imports_prefect():
    code = "import pipelines.curate, pipelines.demo, pipelines.query, pipelines.dryrun, scorers.less"
    assert "prefect" not in loaded_after(code)


def test_the_datastore_knows_no_models():
    names = [f"datastore.{p.stem}" for p in (ROOT / "datastore").glob("*.py") if p.stem != "__init__"]
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


def test_version_is_one():
    import tomllib

    from pipelines.version import VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("path", sorted((ROOT / "scorers").glob("*.py")), ids=lambda p: p.name)
def test_scorers_touch_no_file_and_no_model(path):
    text = path.read_text("utf-8")
    assert "datastore" not in set(imported_rooms(path))
    for word in ("open(", "Path(", "read_text", "from_pretrained", "import transformers", "requests"):
        assert word not in text, f"{word} in {path.name}"
