"""The wheel, as a stranger installs it: one import name, all data files, types, and a whole run beside clashing names."""

import json
import shutil
import sysconfig
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from running import ROOT, python, run

LEFT_OUT = shutil.ignore_patterns("__pycache__")
LEFT_OUT_AT_TOP = shutil.ignore_patterns(
    ".*", "build", "dist", "demo", "nights", "*.egg-info", "tests", "docs", "benchmarks"
)
LARGE = ("torch", "transformers", "datasets", "peft", "prefect", "pyarrow", "safetensors")
CLASHING = ("pipelines", "flows", "sql", "datastore", "scorers")


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def build_wheel(source, out):
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, source)
    (wheel,) = out.glob("gradsift-*.whl")
    return wheel


def install(python_there, what):
    """Into another environment; without this checkout on the path, whose metadata would say that it is there already."""
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    python("-m", "pip", "--python", python_there, "install", "--quiet", *offline, what, PYTHONPATH="")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkout without what earlier builds left in it."""
    folder = tmp_path_factory.mktemp("source") / "gradsift"

    def left_out(path, names):
        return LEFT_OUT(path, names) | (LEFT_OUT_AT_TOP(path, names) if Path(path) == ROOT else set())

    return shutil.copytree(ROOT, folder, symlinks=True, ignore=left_out)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def clean_python(wheel, tmp_path_factory):
    """An environment with the wheel, and with this one's other packages: not with its editable gradsift."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    python_there = folder / "bin" / "python"
    install(python_there, wheel)
    packages = Path(run([python_there, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return python_there


@pytest.fixture
def folder(tmp_path, recipe_data):
    """A user's project, which has packages with the names of gradsift's parts."""
    for name in CLASHING:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of the user')\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_data | {"validate": None}))
    return tmp_path


def test_one_top_level_name_and_all_data_files(wheel):
    names = contents(wheel)
    assert {name.split("/")[0] for name in names} == {"gradsift", "gradsift-0.1.0.dist-info"}
    modules = {path.relative_to(ROOT) for part in CLASHING for path in (ROOT / part).rglob("*.py")}
    assert {f"gradsift/{path.as_posix()}" for path in modules} <= names
    data = {
        path.relative_to(ROOT) for kind in ("*.sql", "*.j2") for part in CLASHING for path in (ROOT / part).rglob(kind)
    }
    assert len(data) > 5
    assert {f"gradsift/{path.as_posix()}" for path in data} | {"gradsift/py.typed"} <= names
    assert any(name.endswith("report.html.j2") for name in names)
    example = ROOT / "examples" / "first-curation"
    shipped = {path.relative_to(ROOT).as_posix() for path in example.rglob("*") if path.is_file()}
    assert len(shipped) > 10
    assert {f"gradsift/{name}" for name in shipped} <= names
    assert not [name for name in names if name.startswith("gradsift/examples/nightly")]


def test_a_wheel_from_the_source_distribution_is_the_same(source, wheel, tmp_path):
    python(
        "-c", "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])", tmp_path, cwd=source
    )
    (sdist,) = tmp_path.glob("gradsift-*.tar.gz")
    assert contents(build_wheel(sdist, tmp_path / "again")) == contents(wheel)


@pytest.mark.slow
def test_it_runs_beside_packages_of_the_same_names(clean_python, folder):
    """The user's packages come first on the path."""
    where = run(
        [clean_python, "-c", "import gradsift.flows; print(gradsift.flows.__file__)"],
        cwd=folder,
        PYTHONPATH=str(folder),
    )
    assert Path(where.stdout.strip()).is_relative_to(clean_python.parent.parent)
    command = clean_python.parent / "gradsift"
    run([command, "run", "recipe.yaml", "--export-to", "out"], cwd=folder, PYTHONPATH=str(folder))
    manifest = json.loads((folder / "out" / "small-sql" / "manifest.json").read_text("utf-8"))
    assert manifest["selection"]["rows"] == 12
    assert (folder / "store" / "reports" / "small.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_examples_come_with_it(clean_python, tmp_path):
    command = clean_python.parent / "gradsift"
    run([command, "init", "--example", "first-curation", "here"], cwd=tmp_path, PYTHONPATH="")
    example = ROOT / "examples" / "first-curation"
    for path in (path for path in example.rglob("*") if path.is_file()):
        assert (tmp_path / "here" / path.relative_to(example)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_method_of_another_package(clean_python, folder):
    """The example's package is installed and nothing else is done; its recipe names no model."""
    package = shutil.copytree(ROOT / "examples" / "method-package", folder / "package")
    install(clean_python, package)
    command = clean_python.parent / "gradsift"
    listed = json.loads(run([command, "methods", "--json"], cwd=folder, PYTHONPATH="").stdout)
    (method,) = (row for row in listed if row["method"] == "shortest")
    assert method["needs"] == "texts"
    question = {"role": "user", "content": "?"}
    pool = [{"messages": [question, {"role": "assistant", "content": "a " * n}]} for n in range(1, 9)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    (folder / "val.jsonl").write_text(json.dumps(pool[4]) + "\n")
    recipe = {
        "name": "short",
        "pool": [{"path": "pool.jsonl"}],
        "targets": {"brief": {"val": {"path": "val.jsonl"}}},
        "decontaminate": None,
        "select": {"method": "shortest", "examples": 3},
    }
    (folder / "short.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("short.yaml", "--export-to", "out", "--no-prefect", "--json")
    out = run([command, "run", *arguments], cwd=folder, PYTHONPATH="")
    assert json.loads(out.stdout)["rows"] == []
    (data,) = (folder / "out" / "short-brief" / "data").glob("*.parquet")
    manifest = json.loads((folder / "out" / "short-brief" / "manifest.json").read_text())
    assert manifest["lineage"]["packages"] == ["gradsift-shortest 0.1.0"]
    exported = [row["messages"][1]["content"] for row in pq.read_table(data).to_pylist()]
    assert sorted(len(answer.split()) for answer in exported) == [1, 2, 3]


TYPES = {
    "gradsift.load_recipe": "def (path: pathlib.Path) -> gradsift.pipelines.recipe.recipe.Recipe",
    "gradsift.open_store(Path('store'))": "gradsift.datastore.store.Store",
    "gradsift.run('recipe.yaml')": "gradsift.datastore.runs.RunResult",
    "gradsift.run({'name': 'mine'}, Path('store')).selections[0].version": "str",
    "gradsift.query('hello', store='store').hits[0].cosine": "float",
    "gradsift.select('less', examples=3)[0]": "gradsift.datastore.runs.SelectionReport",
    "gradsift.diff('one@1', 'one@2').in_both": "int",
    "gradsift.log()[0].report": "gradsift.datastore.runs.VersionReport",
}
REFUSED = {"gradsift.qeury('hello')": "attr-defined", "gradsift.query(3)": "arg-type"}


@pytest.mark.slow
def test_a_users_type_checker_sees_types(clean_python, folder):
    """No function or value is Any, and a misspelt function is an error, though some names are loaded late."""
    lines = ["import gradsift", "from pathlib import Path", *(f"reveal_type({call})" for call in TYPES), *REFUSED]
    (folder / "mine.py").write_text("\n".join(lines) + "\n")
    ignored = ",".join(f"{name}.*" for name in LARGE)
    skipped = f"[mypy]\n[mypy-{ignored}]\nfollow_imports = skip\n"  # minutes, for nothing
    (folder / "mypy.ini").write_text(skipped)
    out = run([clean_python, "-m", "mypy", "--strict", "mine.py"], cwd=folder, code=1, PYTHONPATH="")
    seen = [
        line.split('"', 1)[1].rstrip('"').removeprefix("builtins.")
        for line in out.stdout.splitlines()
        if "Revealed type" in line
    ]
    assert dict(zip(TYPES, seen, strict=True)) == TYPES
    errors = [line for line in out.stdout.splitlines() if ": error: " in line]
    assert [line.rsplit("[", 1)[1].rstrip("]") for line in errors] == list(REFUSED.values())
