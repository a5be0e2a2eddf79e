"""The house rules: one import name, imports run one way, the core knows no Prefect, help is light, modules stay small."""

import ast
import json
import re
from graphlib import TopologicalSorter

import pytest
from running import ROOT, python

FLOORS = ("sql", "datastore", "scorers", "pipelines", "flows", "gradsift")
LINKED = FLOORS[:-1]  # top-level folders, imported as gradsift.<name> through links
ROOMS = (  # of pipelines/, in the order of the data
    "methods", "recipe", "model", "training", "features", "pool", "select", "mix", "export", "validate", "report",
    "runs", "query", "demo",
)  # fmt: skip


def modules_of(floor):
    paths = (ROOT / floor).rglob("*.py")
    return sorted(p for p in paths if not any(q.is_symlink() for q in p.parents))


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


def rooms_imported(path):
    """(room, module) of `pipelines/` that a file imports."""
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["gradsift", "pipelines"] and len(parts) > 3:
            yield parts[2], ".".join(parts[2:])


@pytest.mark.parametrize("path", modules_of("pipelines"), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_in_the_order_of_the_data(path):
    room = path.relative_to(ROOT / "pipelines").parts[0]
    imports = dict(rooms_imported(path))
    if room not in ROOMS:
        assert not set(imports) & set(ROOMS), "what every room uses knows no room"
        return
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    assert not later & set(imports), "a room may import only rooms to its left"


def test_every_folder_of_pipelines_is_a_room_and_says_what_it_is():
    folders = {p.parent.name: p for p in (ROOT / "pipelines").glob("*/__init__.py")}
    assert set(folders) == set(ROOMS)
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name, path in folders.items():
        assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert f"`{name}`" in page, f"docs/architecture.md does not name {name}"


def test_files_of_the_recipe_do_not_import_its_face():
    for path in (ROOT / "pipelines" / "recipe").glob("*.py"):
        names = {name.rpartition(".")[0] for name in imported(path)}
        assert "gradsift.pipelines.recipe" not in names, path.name


def test_modules_import_each_other_in_no_circle():
    """At import time and inside functions alike."""
    files = {_module(path): path for path in MODULES}
    graph = {name: {n for n in _modules_in(files, imported(path)) if n != name} for name, path in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _module(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "gradsift" else ["gradsift", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules_in(files, names):
    """The modules that dotted names stand for: the longest start of each that is one."""
    for name in names:
        parts = name.split(".")
        starts = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
        yield from [start for start in starts if start in files][:1]


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
        "import gradsift.pipelines.runs.curate, gradsift.pipelines.demo.demo, gradsift.pipelines.query.query, "
        "gradsift.pipelines.runs.dryrun, gradsift.scorers.less"
    )
    loaded = loaded_after(code)
    assert "prefect" not in loaded
    assert not {name.split(".")[0] for name in loaded} & set(LINKED)


def test_the_datastore_knows_no_models():
    modules = [p.stem for p in (ROOT / "datastore").glob("*.py") if p.stem not in ("__init__", "testing")]
    names = [f"gradsift.datastore.{name}" for name in modules]
    assert not {"torch", "transformers", "prefect"} & loaded_after(f"import {', '.join(names)}")


def test_help_loads_neither_torch_nor_prefect():
    code = "from gradsift.cli import app\ntry:\n app(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "prefect", "transformers", "pyarrow"} & loaded_after(code)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "--id", "zzzz"],
        ["delete", "--where", "nonsense = 1", "--yes"],
        ["revive", "0" * 32],
        ["compact"],
        ["export", "nothing", "out"],
        ["report"],
        ["checkout", "nothing@1"],
    ],
)
def test_what_refuses_an_argument_loads_no_model_library(arguments, tmp_path):
    """Wrong ids and predicates, and a busy store, are told at once, before what takes seconds to load."""
    code = (
        "from gradsift.cli import app\nfrom gradsift.datastore import leases\nfrom gradsift.datastore.store import Store\n"
        f"with Store({str(tmp_path / 'store')!r}) as store: leases.acquire(store, 'run', 'elsewhere:1:1:1')\n"
        f"try:\n app([*{arguments!r}, '--store', {str(tmp_path / 'store')!r}], exit_on_error=False)\n"
        "except Exception as error: print(repr(error))"
    )
    assert not {"torch", "transformers", "prefect"} & loaded_after(code)


@pytest.mark.parametrize("module", ["runs.reselect", "report.report", "pool.marked", "export.checkout", "query.query"])
def test_choosing_and_looking_load_no_torch(module):
    """Their commands take a second less, or two."""
    assert not {"torch", "transformers"} & loaded_after(f"import gradsift.pipelines.{module}")


@pytest.mark.parametrize(
    "arguments",
    [["query", "x"], ["run", "missing.yaml"], ["export", "nothing", "out"], ["select", "--method", "less"],
     ["score", "--method", "less"], ["mix", "missing.yaml"], ["diff", "a", "b"], ["report"], ["checkout", "a@1"],
     ["index", "build"], ["delete", "--id", "0" * 32], ["revive"], ["prune", "--keep", "1"], ["validate"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_store_or_file_that_is_not_there_is_told_at_once(arguments, tmp_path):
    code = (
        "from gradsift.cli import app\n"
        f"try:\n app([*{arguments!r}, '--store', {str(tmp_path / 'none')!r}], exit_on_error=False)\n"
        "except Exception as error: print(repr(error))"
    )
    slow = {"torch", "transformers", "prefect", "pandas", "pyarrow.dataset"}
    assert not slow & loaded_after(code)


PICKLES = (
    "import pickle", "from pickle", "cloudpickle", "allow_pickle=True", "pickle_module", "torch.load", "torch.jit.load",
    "from torch import load", "torch.serialization", "add_safe_globals", "weights_only=False",
)  # fmt: skip


def test_no_pickle_and_no_remote_code():
    """Promise 7: opening a store or a model runs no code from it. Optimizers' states of others are read by torch's
    restricted reader, in one module."""
    for path in MODULES:
        text = path.read_text("utf-8")
        if path.parts[-2:] == ("training", "adopted.py"):
            calls = re.findall(r"torch\.load\([^)]*\)", text)
            assert calls
            assert all("weights_only=True" in call for call in calls)
            text = re.sub(r"torch\.load\([^)]*\)", "", text)
        for word in (*PICKLES, "trust_remote_code=True"):
            assert word not in text, f"{word} in {path}"


BY_THEMSELVES = {  # name paths below a store's root, and open nothing there by them
    "datastore/inside.py", "datastore/store.py", "datastore/free.py", "pipelines/query/word_index.py",
    "datastore/prune.py", "pipelines/export/checkout.py", "pipelines/runs/curate.py",
}  # fmt: skip


def test_what_is_below_a_stores_root_is_opened_by_one_module():
    """Who makes a path below it opens that by `datastore/inside.py`, which follows no link, or says here why not."""
    for path in MODULES:
        text, name = path.read_text("utf-8"), path.relative_to(ROOT).as_posix()
        if re.search(r"\broot / ", text) and not name.startswith(("scorers", "gradsift/")):
            assert "inside." in text or name in BY_THEMSELVES, name


LOADS = {"from_pretrained", "from_config", "load_adapter", "SentenceTransformer", "pipeline"}


def test_one_module_loads_what_others_made():
    """Each of these follows what a folder says, unless it is told not to: `pretrained.py` tells it."""
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        named |= {name.rpartition(".")[2] for name in imported(path) if not name.startswith("gradsift.")}
        assert not LOADS & named or path.name == "pretrained.py", f"{LOADS & named} in {path}"


OUTSIDE_THE_STORE = [p for floor in ("scorers", "pipelines", "flows", "gradsift") for p in modules_of(floor)]
SQL = re.compile(
    r"\s*(SELECT\b.*\bFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|(CREATE|ALTER|DROP)\s+TABLE|"
    r"PRAGMA|VACUUM|BEGIN\s+IMMEDIATE)\b",
    re.S,
)


def texts_of(tree):
    """String literals of a module, of f-strings the text up to the first value, docstrings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "x" for v in node.values)


def leaks(tree):
    """What a module knows of the catalog and of files that only `datastore/` and `sql/` may know."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("catalog", "backend", "shard_path"):
            yield f".{node.attr}"
    yield from (text for text in texts_of(tree) if SQL.match(text))


@pytest.mark.parametrize("path", OUTSIDE_THE_STORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_datastore_knows_the_catalog_and_the_files(path):
    assert not {"sqlite3", "psycopg", "sqlalchemy"} & {name.split(".")[0] for name in imported(path)}
    own = ("engine", "sqlite", "postgres", "backend", "local", "objects", "testing")
    assert not {f"gradsift.datastore.{name}" for name in own} & {n.rpartition(".")[0] for n in imported(path)}
    if "demo" not in path.relative_to(ROOT).as_posix():  # the demo's chats teach SQL
        assert not list(leaks(ast.parse(path.read_text("utf-8"))))


@pytest.mark.parametrize(
    "code",
    [
        "store.catalog.rows(text)",
        "store.backend.open(name)",
        "'SELECT spec FROM selection'",
        "f'INSERT INTO {table} VALUES (?)'",
        "f'SELECT a FROM example WHERE b IN ({marks})'",
        "'UPDATE run SET name=?'",
        "'delete'.join('DELETE FROM run')",
    ],
)
def test_a_leak_is_seen(code):
    assert list(leaks(ast.parse(code)))


def test_only_tests_need_the_testing_module():
    names = {name for path in MODULES if not path.stem.startswith("testing") for name in imported(path)}
    assert not {n for n in names if n.startswith(("gradsift.datastore.testing", "pytest"))}


def test_tests_run_commands_in_one_way():
    """With one environment and one patience: tests/running.py."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name not in ("running.py", "postgres.py"):  # the latter runs a server, as another user
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
