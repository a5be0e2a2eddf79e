"""The command line as a person meets it: exit codes, one JSON document, clear errors."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import running
import yaml

gradsift = partial(running.gradsift, code=None)  # the tests below say which code they expect
apart = partial(running.gradsift_apart, code=None)


@pytest.fixture
def copied(finished, tmp_path):
    _, root, result = finished
    shutil.copytree(root, tmp_path / "store")
    return tmp_path / "store", result


@pytest.fixture
def recipe_file(recipe_data, tmp_path):
    def write(**changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_data | changes))
        return path

    return write


def assert_refused(out, code, *words):
    assert out.returncode == code, out.stderr
    assert "Traceback" not in out.stderr
    for word in words:
        assert word in " ".join(out.stderr.split())


def test_help_and_version():
    for command in ("run", "demo", "query", "export", "status", "doctor", "verify", "gc"):
        out = gradsift(command, "--help")
        assert out.returncode == 0
        assert out.stdout.startswith("Usage: gradsift")
    assert gradsift("--version").stdout.strip() == "0.1.0"


@pytest.mark.slow
def test_run_and_read_commands(recipe_file, tmp_path):
    path = recipe_file(validate=None)
    out = apart("run", path, "--store", tmp_path / "s", "--export-to", tmp_path / "out", "--no-prefect", "--json")
    assert out.returncode == 0, out.stderr
    result = json.loads(out.stdout)  # one document and nothing else
    assert result["selections"][0]["export"] == str(tmp_path / "out" / "small-sql")
    assert "gradients" in out.stderr  # progress, on the other stream
    status = json.loads(gradsift("status", "--json", GRADSIFT_STORE=str(tmp_path / "s")).stdout)
    assert {row["role"] for row in status["datasets"]} == {"pool", "target", "test"}
    assert status["live_work"] == []
    text = gradsift("run", path, "--store", tmp_path / "s", "--no-prefect")
    assert "small-sql" in text.stdout
    assert re.search(r"^Gradient rows: 0 computed, [1-9]\d* kept$", text.stdout, re.MULTILINE)


def test_dry_run_writes_nothing(recipe_file, tmp_path):
    out = gradsift("run", recipe_file(), "--dry-run", "--json", cwd=tmp_path)
    plan = json.loads(out.stdout)
    assert plan["pool_rows"] > 100
    assert plan["bytes_needed"] > 512 * 100
    assert plan["arms"] == 1 + 3 * 3  # the base, and three arms of three seeds
    assert all(minutes > 0 for minutes in plan["minutes"].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.slow
def test_query_export_verify_gc(copied, tmp_path):
    store, result = copied
    status = json.loads(gradsift("status", "--json", "-s", store).stdout)
    assert status["selections"][0]["examples"] == 12
    assert (status["selections"][0]["version"], status["selections"][0]["void"]) == (1, None)
    exported = json.loads(gradsift("export", "small-sql", tmp_path / "out", "-s", store, "--json").stdout)
    assert (Path(exported["folder"]) / "manifest.json").exists()
    import pyarrow.parquet as pq

    first = pq.read_table(tmp_path / "out" / "data")["example_id"][0].as_py()
    found = json.loads(gradsift("query", "--id", first, "-k", 3, "-s", store, "--json").stdout)
    assert [hit["rank"] for hit in found["hits"]] == [0, 1, 2]
    asked = gradsift("query", "What is 2 plus 2?", "--answer", "2 plus 2 is 4.", "-k", 2, "-s", store, columns=50)
    assert asked.returncode == 0, asked.stderr
    assert "Nearest in gradient space" in asked.stdout
    assert max(len(line) for line in asked.stdout.splitlines()) <= 50
    assert re.findall(r"^ *(\d+) +-?\d\.\d{4} ", asked.stdout, re.MULTILINE) == ["0", "1"], "as in JSON"
    assert json.loads(gradsift("verify", "-s", store, "--json").stdout) == []
    (store / "features" / "left.arrow").write_bytes(b"x")
    assert json.loads(gradsift("gc", "-s", store, "--json").stdout) == []
    listed = json.loads(gradsift("gc", "-s", store, "--grace-hours", -1, "--dry-run", "--json").stdout)
    assert listed == [{"file": "features/left.arrow", "bytes": 1}]
    assert (store / "features" / "left.arrow").exists()
    for command in ("gc", "compact"):
        assert_refused(
            gradsift(command, "-s", store, "--grace-hours", "nan", code=None), 2, "a number of hours, not NaN"
        )
    gradsift("gc", "-s", store, "--grace-hours", -1)
    assert not (store / "features" / "left.arrow").exists()


@pytest.mark.slow
def test_damage_is_reported_and_mended(copied, recipe_data, recipe_file):
    store, result = copied
    path = max((store / "features").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    spec = recipe_data | {"select": {"examples": 9}}  # must read the shards again
    refused = gradsift("run", recipe_file(**spec), "-s", store, "--no-prefect")
    assert_refused(refused, 4, "does not match its digest", "gradsift verify --repair")
    assert_refused(gradsift("verify", "-s", store), 4, "1 damaged file; next: gradsift verify --repair")
    (listed,) = json.loads(gradsift("verify", "-s", store, "--json").stdout)  # one document, though it fails
    assert listed["problem"].endswith("does not match its digest (changed bytes)")
    assert_refused(gradsift("verify", "--drop", "-s", store), 2, "`verify --drop` is `verify --repair` now")
    assert_refused(gradsift("verify", "--accept-loss", "-s", store), 2, "go with --repair")
    planned = gradsift("verify", "--repair", "--dry-run", "-s", store)
    assert_refused(planned, 4, "1 damaged file; next: gradsift verify --repair")
    assert "computed again" in " ".join(planned.stdout.split())
    (done,) = json.loads(gradsift("verify", "--repair", "-s", store, "--json").stdout)
    assert (done["kind"], done["state"], done["lost"]) == ("features", "mended", 0)
    assert gradsift("verify", "-s", store).returncode == 0
    out = gradsift("run", recipe_file(**spec), "-s", store, "--no-prefect", "--json")
    assert out.returncode == 0, out.stderr
    assert sum(row["computed"] for row in json.loads(out.stdout)["rows"]) == 0


@pytest.mark.slow
def test_clear_errors_and_exit_codes(recipe_file, recipe_data, tmp_path, copied):
    store, _ = copied
    run = lambda path: gradsift("run", path, "-s", tmp_path / "s", "--no-prefect")  # noqa: E731
    assert_refused(run(tmp_path / "none.yaml"), 2, "there is no recipe")
    assert_refused(run(recipe_file(modle={})), 2, "unknown key; did you mean `model`?")
    assert_refused(run(recipe_file(pool=[{"path": "missing.jsonl"}])), 2, "there is no file or folder")
    assert_refused(run(recipe_file(model={"path": str(tmp_path)})), 2, "is not a model")
    assert_refused(gradsift("status", "-s", tmp_path / "nowhere"), 2, "is not a store", "--store")
    assert_refused(gradsift("query", "-s", store), 2, "either a text or --id")
    assert_refused(gradsift("export", "nothing", tmp_path / "x", "-s", store), 2, "there are: small-sql")
    assert gradsift("run").returncode == 2
    assert gradsift("no-such-command").returncode == 2
    refused = gradsift("status", "-s", tmp_path / "nowhere", "--json")
    assert json.loads(refused.stdout)["exit_code"] == 2


@pytest.mark.slow
def test_a_full_disk_has_its_own_code(recipe_file, tmp_path):
    """The process may not write files over 100 KB, as on a disk that is full."""
    code = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from gradsift.__main__ import main\nsys.argv = ['gradsift', *sys.argv[1:]]\nmain()\n"
    )
    out = running.python("-c", code, "run", recipe_file(), "-s", tmp_path / "s", "--no-prefect", code=None)
    assert_refused(out, 6, "no space left", "free some space")
    again = gradsift("run", recipe_file(validate=None), "-s", tmp_path / "s", "--no-prefect", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(gradsift("verify", "-s", tmp_path / "s", "--json").stdout) == []


def test_exports_are_found_wherever_the_log_is_asked_for_from(tmp_path, write_jsonl):
    """A store named by a relative path, exports in it and beside it; and when the store was moved since."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_jsonl(*({"prompt": f"Ask {k}", "completion": f"say {k}"} for k in range(9)), name="here/pool.jsonl")
    recipe = {"name": "small", "pool": [{"path": "pool.jsonl"}], "mix": {"examples": 3}}
    (tmp_path / "here" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    running.gradsift("run", "recipe.yaml", "--no-prefect", cwd=tmp_path / "here")

    def listed(store, cwd):
        entries = json.loads(running.gradsift("log", "mixture", "--store", store, "--json", cwd=cwd).stdout)
        words = running.gradsift("log", "mixture", "--store", store, cwd=cwd, columns=300).stdout
        return [entry["present"] for entry in entries], " in exports/small" in " ".join(words.split())

    assert listed("store", tmp_path / "here") == ([True], True)
    assert listed(tmp_path / "here" / "store", tmp_path / "elsewhere") == ([True], True)
    (tmp_path / "here" / "store").rename(tmp_path / "moved")
    assert listed(tmp_path / "moved", tmp_path / "elsewhere") == ([True], True)


def test_busy_is_told(copied, recipe_file):
    from gradsift.datastore import leases
    from gradsift.datastore.store import Store

    store, _ = copied
    with Store(store) as opened, leases.held(opened, "run"):
        assert_refused(apart("run", recipe_file(), "-s", store, "--no-prefect"), 5, "another run is working")


def test_doctor(tmp_path):
    out = gradsift("doctor", "--json", cwd=tmp_path)
    rows = {row["check"]: row for row in json.loads(out.stdout)}
    assert out.returncode == 0
    assert rows["prefect with fastapi"]["state"] == "ok"
    assert rows["store"]["detail"].startswith("none at")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "catalog.sqlite").write_bytes(b"garbage, not a database" * 50)
    assert_refused(gradsift("doctor", cwd=tmp_path), 1, "something is wrong")


@pytest.mark.slow
def test_hostile_text_is_shown_harmless(recipe_data, write_jsonl, tmp_path, recipe_file):
    """Markup and control characters of a data set reach neither the terminal nor the card as such."""
    rows = [
        {"prompt": f"[red]{k}[/red]", "completion": "\x1b[2Jgone <script>", "source": "a|b[bold]\x1b[31m<script>"}
        for k in range(30)
    ]
    path = recipe_file(pool=[{"path": str(write_jsonl(*rows))}], validate=None, select={"examples": 3})
    out = gradsift("run", path, "-s", tmp_path / "s", "--no-prefect", columns=200)
    assert out.returncode == 0, out.stderr
    assert "\x1b[31m" not in out.stdout
    assert "[bold]" in out.stdout
    card = (tmp_path / "s" / "exports" / "small-sql" / "README.md").read_text()
    assert "<script>" not in card
    assert "\x1b" not in card


def test_a_message_has_nothing_that_a_terminal_obeys(tmp_path):
    name = "a\x1b[2J\u202eb\u200b\rc"
    out = gradsift("status", "--store", tmp_path / name, "--json")
    assert out.returncode == 2
    assert r"a\x1b[2J\u202eb\u200b\rc" in out.stderr
    assert name in json.loads(out.stdout)["error"]


@pytest.mark.slow
def test_methods_select_score_overlap(copied, tmp_path):
    root, _ = copied
    listed = json.loads(gradsift("methods", "--json").stdout)
    assert {"less", "tagcos", "gio", "qtuning", "rds", "random"} <= {row["method"] for row in listed}
    narrow = gradsift("methods", columns=60)
    assert narrow.returncode == 0
    assert max(map(len, narrow.stdout.splitlines())) <= 60
    made = gradsift("select", "--method", "qtuning", "--fraction", 0.3, "--picture", tmp_path / "plane.svg", "-s", root)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "plane.svg").read_text().startswith("<svg")
    clusters = gradsift("select", "--method", "tagcos", "--examples", 8, "--option", "clusters=4", "-s", root, "--json")
    assert json.loads(clusters.stdout)[0]["examples"] == 8
    out = gradsift("export", "small-tagcos-sql", tmp_path / "out", "-s", root)
    assert out.returncode == 0, out.stderr
    scored = gradsift("score", "--method", "less", "--out", tmp_path / "scores.parquet", "-s", root, "--json", "-k", 3)
    assert len(json.loads(scored.stdout)) == 3
    assert (tmp_path / "scores.parquet").stat().st_size > 0
    found = json.loads(gradsift("overlap", "-s", root, "--json").stdout)
    assert len(found["rows"]) == 3
    assert gradsift("overlap", "-s", root).returncode == 0
    for arguments, words in (
        (("select", "--method", "lss", "--examples", 3), "did you mean `less`"),
        (("select", "--method", "less"), "give exactly one of"),
        (("select", "--method", "less", "--examples", 3, "--option", "reduce"), "give NAME=VALUE"),
        (("select", "--method", "less", "--examples", 3, "--target", "x"), "there is no target 'x'"),
        (("score", "--method", "tagcos"), "gradsift select"),
        (("overlap", "nothing"), "no selection 'nothing'"),
    ):
        refused = gradsift(*arguments, "-s", root)
        assert refused.returncode == 2
        assert words in " ".join(refused.stderr.split())
