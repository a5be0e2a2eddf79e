"""What somebody types, and what stands in the files that it names, ends in a line that says what is wrong: no traceback,
nothing that a terminal obeys."""

import os
import resource
import shutil
import socket
import sqlite3
import tempfile
import traceback
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from running import gradsift

from gradsift import api
from gradsift.datastore import files, sqlite
from gradsift.datastore.errors import CorruptionError, DiskError, InputError, StoreFullError
from gradsift.datastore.sqlite_errors import sound
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe.written import parse_yaml

ESC = "\x1b[31m"
HEAD = "name: odd\npool: [{path: pool.jsonl}]\n"
NESTED = "[" * 3_000 + "]" * 3_000
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{','.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = {
    "deep": (f"pool: {NESTED}", "nested too deeply"),
    "a number of 5,000 digits": (f"{HEAD}seed: {'9' * 5_000}\n", "not valid YAML"),
    "infinite": (f"{HEAD}mix: {{examples: .inf}}\n", "mix.examples: Input should be a finite number"),
    "not a number": (f"{HEAD}mix: {{examples: .nan}}\n", "mix.examples: Input should be a finite number"),
    "an infinite weight": (f"{HEAD}mix: {{examples: 3, weights: {{pool: .inf}}}}\n", "mix.weights.dict[str,"),
    "an infinite share": (f"{HEAD}mix: {{fraction: .inf}}\n", "mix.fraction: Input should be a finite number"),
    "an infinite exponent": (f"{HEAD}mix: {{examples: 3, temperature: .inf}}\n", "mix.temperature: Input should be"),
    "too many rows": (f"{HEAD}mix: {{examples: {10**27}}}\n", "mix.examples: a number is too large: at most 2^63"),
    "too many times the pool": (f"{HEAD}mix: {{fraction: 1.0e+300}}\n", "mix.fraction: Input should be less than"),
    "too many copies": (f"{HEAD}mix: {{examples: 3, repeat: {10**10}}}\n", "mix.repeat: Input should be less than"),
    "a seed that is too large": (f"{HEAD}seed: {10**25}\nmix: {{examples: 3}}\n", "seed: a number is too large"),
    "one of several seeds": (
        f"{HEAD}mix: {{examples: 3}}\nvalidate: {{seeds: [0, {10**25}]}}\n",
        "validate.seeds: a number",
    ),
    "no date": ("name: 2024-13-41\n", "not valid YAML: month must be"),
    "aliases of aliases": (ALIASES, "over 200,000 keys and values"),
    "merge keys of merge keys": (MERGED, "over 200,000 keys and values"),
    "sixties without end": (f"{HEAD}seed: {'1:' * 99_999}1\n", "a number has over 100 characters"),
    "no boolean": ("name: !!bool perhaps\n", "a value is not what its tag says"),
    "itself": ("pool: &a [*a]\n", "a part of it holds itself"),
    "code": ('!!python/object/apply:os.system ["true"]\n', "not valid YAML"),
    "a NUL in a path": ('name: odd\npool: [{path: "a\\0b"}]\nmix: {examples: 3}\n', "pool.0.path: "),
    "a loop of links": ("name: odd\npool: [{path: loop/x}]\nmix: {examples: 3}\n", "pool.0.path: "),
    "a key that clears the screen": (f'{HEAD}"m\\e[2Jix": 1\n', "m\\x1b[2Jix: unknown key"),
}


def refused(*arguments, code=2, **options):
    """What a command says that ends with this code: in lines, and in nothing that a terminal obeys."""
    out = gradsift(*arguments, code=code, **options)
    assert "Traceback" not in out.stderr
    assert not [c for c in out.stdout + out.stderr if not c.isprintable() and c != "\n"]
    return " ".join(out.stderr.replace("│", " ").split())


@pytest.fixture
def odd(tmp_path):
    """A folder with a loop of links."""
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def test_merge_keys_of_ordinary_recipes_work():
    text = "a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc: {<<: [*a, *b], y: 4}\nd:\n  <<: *a\n"
    assert parse_yaml(text, "it") == yaml.safe_load(text)
    assert parse_yaml(text, "it")["c"] == {"x": 1, "y": 4, "z": 3}
    assert parse_yaml("# nothing\n", "it") is None


@pytest.mark.parametrize("name", RECIPES)
def test_an_odd_recipe_is_refused_by_its_file_and_its_field(odd, name):
    text, words = RECIPES[name]
    (odd / "recipe.yaml").write_text(text)
    said = refused("run", "recipe.yaml", "--store", "s", "--no-prefect", cwd=odd)
    assert said.startswith("error: recipe.yaml")
    assert words in said
    assert not (odd / "s").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_recipe_that_is_no_file_is_not_waited_for(odd, make):
    make(odd / "recipe.yaml")
    assert "cannot read recipe.yaml" in refused("run", "recipe.yaml", "--store", "s", cwd=odd)


@pytest.mark.parametrize(
    "typed",
    [
        [f"no{ESC}"], ["log", f"--no{ESC}"], ["log", f"no{ESC}"], ["export", f"no{ESC}", "x"], ["diff", f"a{ESC}", f"a{ESC}"],
        ["sql", f"select {ESC}"], ["select", "--method", f"no{ESC}"], ["lineage", f"no{ESC}"], ["status", "--store", f"no{ESC}"]
    ],
)  # fmt: skip
def test_what_is_said_of_a_name_is_nothing_that_a_terminal_obeys(finished, monkeypatch, typed):
    monkeypatch.setenv("GRADSIFT_STORE", str(finished[1]))
    assert "x1b" in refused(*typed)


@pytest.mark.parametrize(
    "typed",
    [
        ["export", "small-sql", "loop"], ["export", "small-sql", "loop/x"], ["sql", "select 1", "--parquet", "loop"],
        ["report", "--out", "loop"], ["init", "loop"], ["status", "--store", "loop"], ["run", "loop"],
        ["report", "--run", "9" * 30], ["lineage", f"pool.jsonl:{'9' * 30}"], ["select", "--method", "random", "--fraction", "inf"],
        ["select", "--method", "less", "--examples", "3", "--option", "x=[["], ["explore", "--port", "99999999999"],
        ["explore", "--port", "-1"], ["sql", "select 1", "--limit", f"{10**22}"], ["quarantine", "--limit", f"{10**22}"],
        ["quarantine", "--json", "--limit", f"{10**22}"], ["sql", f"select 1 limit {10**22}"], ["sql", "select greatest()"],
        ["sql", "select least ( ) from examples"], ["select", "--method", "random", "--examples", "3", "--seed", f"{10**25}"],
        ["select", "--method", "random", "--examples", f"{10**27}"], ["mix", "mix.yaml", "--seed", f"{10**25}"],
    ],
)  # fmt: skip
def test_odd_paths_and_numbers_are_refused(odd, copy, monkeypatch, typed):
    monkeypatch.setenv("GRADSIFT_STORE", str(copy.root))
    assert refused(*typed, cwd=odd).startswith("error: ")


@pytest.mark.parametrize("side", ["small-sql", "small-sql@1", "pool@1"])
def test_a_selection_does_not_differ_from_itself(finished, side):
    out = gradsift("diff", side, side, "--store", finished[1])
    assert "The same rows in the same order." in out.stdout


def test_a_port_that_is_taken_is_told(finished):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("explore", "--no-browser", "--port", port, "--store", finished[1])
    assert f"cannot listen on 127.0.0.1, port {port}: " in said
    assert "--port 0 takes a free port" in said


def test_a_catalog_that_somebody_holds_is_busy(store, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with sqlite3.connect(store.root / "catalog.sqlite", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = refused("status", "--store", store.root, code=5)
        other.execute("ROLLBACK")
    assert "another process holds the catalog" in said


def test_a_disk_that_fails_is_no_full_one(tmp_path, monkeypatch):
    path = tmp_path / "catalog.sqlite"
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorname = "SQLITE_IOERR_WRITE"
    with pytest.raises(DiskError, match=r"SQLITE_IOERR_WRITE.*gradsift verify"), sound(path, 1):
        raise failed
    monkeypatch.setattr("gradsift.datastore.sqlite_errors.has_room", lambda *_: False)
    with pytest.raises(StoreFullError, match="no space left"), sound(path, 1):
        raise failed


def test_whether_there_is_room_is_tried(tmp_path):

    assert files.has_room(tmp_path / "file", 1 << 20)
    if not (child := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            os._exit(files.has_room(tmp_path / "file", 1 << 20))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(tmp_path.iterdir())


def test_a_shard_that_is_changed_after_its_first_use_is_told(copy):
    """In the same process, by which file it is, its size and its time; what was mapped is not used any more."""
    rows = copy.catalog.rows("SELECT shard_id, name FROM shard WHERE kind='features' ORDER BY shard_id")
    (example,) = copy.catalog.rows("SELECT example_id FROM feature_row WHERE row IS NOT NULL LIMIT 1")
    assert copy.neighbours(example["example_id"])
    for row in rows:
        with copy.map(row["shard_id"]):
            pass
        path = copy.root / row["name"]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        with pytest.raises(CorruptionError, match=f"shard {row['shard_id']} .*changed bytes"):
            copy.map(row["shard_id"])
    with pytest.raises(CorruptionError, match=r"shard \d+ .*changed bytes"):
        copy.neighbours(example["example_id"])


def test_a_store_that_cannot_be_written_to_is_read(finished):
    """By a user who may write neither its files nor its folders, as on a disk that is mounted read only."""
    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        root = base / "store"
        shutil.copytree(finished[1], root)
        expected = api.status(root), api.log(store=root)
        with closing(sqlite3.connect(root / "catalog.sqlite")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for path in [*root.rglob("*"), root]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if not (child := os.fork()):
            code = 1
            try:
                if not os.getuid():
                    os.setuid(65_534)
                with Store(root, create=False) as store:
                    read = (
                        api.log(store=store) == expected[1] and len(api.diff("small-sql", "pool@1", store=store).by) > 0
                    )
                    try:
                        api.gc(store)
                    except InputError as error:
                        code = 0 if read and "read only here" in str(error) else 3
                    else:
                        code = 0 if read else 4
                    try:
                        with store.catalog.write():
                            code = 5
                    except InputError:
                        pass
            except BaseException:  # noqa: BLE001 - the child of a fork must not go on as pytest
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(base)
