"""Pushing an export to a hub: what arrives is the export, once, whole; what goes wrong on the way is told."""

import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import hub as hubs
import pytest
from datasets import load_dataset
from running import gradsift_apart

from gradsift import api
from gradsift.datastore.errors import BusyError, CorruptionError, InputError, UnavailableError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.push import Destination, destination, push
from gradsift.pipelines.export.whole import damaged, sealed
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

REPO = "ann/mixed"
# huggingface_hub 2.4 uploads by a way that its own HTTP client will drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


class Waited:
    """The clock of huggingface_hub, which does not wait before it asks again."""

    times = 0
    time = staticmethod(time.time)

    def sleep(self, _seconds):
        self.times += 1


WAITED = Waited()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Folder of a store with a mixture `mixed` of 30 rows, which its run exported."""
    root = tmp_path_factory.mktemp("mixed")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {k}"},
                {"role": "assistant", "content": f"answer {k} " * 9},
            ]
        }
        for k in range(40)
    ]
    (root / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = {"name": "mixed", "pool": [{"path": str(root / "pool.jsonl"), "licence": "mit"}], "mix": {"examples": 30}}
    with Store(root / "store") as store:
        curate(parse_recipe(recipe), store)
    return root / "store"


@pytest.fixture
def folder(mixed, tmp_path):
    """An export of it."""
    return Path(api.export("mixed", tmp_path / "out", store=mixed).folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hubs.serving() as server:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        pattern = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.utils._http.time", WAITED)
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        yield server


def written(folder):
    """{name: bytes} of what an export wrote."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return {name: (folder / name).read_bytes() for name in (*manifest["files"], "manifest.json")}


def pushed_files(hub, revision="main"):
    return {name: content for name, content in hub.files(REPO, revision).items() if name != ".gitattributes"}


def test_what_the_hub_holds_is_the_export_and_loads_as_it(hub, mixed, tmp_path):
    """The rows that `load_dataset` reads from the files that arrived, against those of the folder."""
    made = api.export("mixed", tmp_path / "out", push=REPO, store=mixed)
    assert pushed_files(hub) == written(tmp_path / "out")
    assert hub.repositories[REPO].private
    assert made.pushed.private
    assert made.pushed.commit == hub.commits(REPO)[-1][0]
    assert sorted(made.pushed.sent) == sorted(written(tmp_path / "out"))
    assert made.pushed.bytes == sum(map(len, written(tmp_path / "out").values()))
    assert len(hub.commits(REPO)) == 2, "one commit, after the one that makes the repository"
    for name, content in pushed_files(hub).items():
        (tmp_path / "received" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "received" / name).write_bytes(content)
    received, sent = (load_dataset(str(tmp_path / one), split="train") for one in ("received", "out"))
    assert received.to_list() == sent.to_list()
    assert len(received) == 30


def test_nothing_goes_that_the_export_did_not_write(hub, folder):
    """Neither what others put into the folder, nor what somebody wrote into its manifest."""
    (folder / "checkpoint.bin").write_text("of a trainer", "utf-8")
    (folder / "data" / "notes.txt").write_text("mine", "utf-8")
    outside = folder.parent / "outside.txt"
    outside.write_text("secret", "utf-8")
    expected = written(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["seal"]
    for name in ("../outside.txt", str(outside), "checkpoint.bin"):
        files = manifest["files"] | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        path.write_text(json.dumps(sealed(manifest | {"files": files})), "utf-8")
        if "outside" in name:
            with pytest.raises(CorruptionError, match=r"manifest\.json changed"):
                push(folder, Destination(REPO))
    push(folder, Destination(REPO))
    assert pushed_files(hub) == expected | {"manifest.json": path.read_bytes()}


def test_pushing_the_same_again_makes_no_commit(hub, folder):
    first = push(folder, Destination(REPO))
    asked = len(hub.log)
    again = push(folder, Destination(REPO))
    assert (again.sent, again.removed, again.bytes) == ([], [], 0)
    assert again.commit == first.commit
    assert len(hub.commits(REPO)) == 2
    assert {method for method, _, _ in hub.log[asked:]} == {"GET", "HEAD"}


def test_another_export_takes_the_place_of_the_first_in_one_commit(hub, mixed, folder, tmp_path):
    """Its files are sent, those of the first that it lacks are removed, those of others stay."""
    push(folder, Destination(REPO))
    repository = hub.repositories[REPO]
    repository.commit("main", repository.at("main")[1] | {"NOTES.md": (False, b"by hand")})
    made = api.export("mixed", folder, format="jsonl", push=REPO, store=mixed)
    assert made.pushed.removed == ["data/train-00000-of-00001.parquet"]
    assert "recipe.yaml" not in made.pushed.sent
    assert made.pushed.unchanged == len(written(folder)) - len(made.pushed.sent)
    assert pushed_files(hub) == written(folder) | {"NOTES.md": b"by hand"}
    assert len(hub.commits(REPO)) == 4


def test_a_dry_run_asks_and_sends_nothing(hub, mixed, folder, tmp_path):
    dry = api.export("mixed", folder, push=REPO, dry_run=True, store=mixed).pushed
    assert sorted(dry.sent) == sorted(written(folder))
    assert dry.commit is None
    assert hub.repositories == {}
    push(folder, Destination(REPO))
    asked = len(hub.log)
    made = api.export("mixed", folder, format="jsonl", push=REPO, dry_run=True, store=mixed)
    assert made.replaced == "mixed@1"  # on disk, in another format
    dry = made.pushed
    assert "data/train-00000-of-00001.jsonl" in dry.sent
    assert dry.removed == ["data/train-00000-of-00001.parquet"]
    assert {method for method, _, _ in hub.log[asked:]} == {"GET", "HEAD"}
    assert len(hub.commits(REPO)) == 2


def test_a_branch_is_made_and_the_main_one_stays(hub, mixed, folder):
    push(folder, Destination(REPO))
    before = pushed_files(hub)
    made = api.export("mixed", folder, format="jsonl", push=REPO, revision="lines", store=mixed)
    assert made.pushed.revision == "lines"
    assert pushed_files(hub) == before
    assert pushed_files(hub, "lines") == written(folder)
    push(folder, Destination(REPO, "lines"))
    assert len(hub.commits(REPO, "lines")) == 3, "that of the repository, the first export, this one"


def test_a_version_that_is_checked_out_is_pushed_as_it_was(hub, mixed, tmp_path):
    made = api.checkout("mixed@1", out=tmp_path / "then", push=REPO, private=False, store=mixed)
    assert made.as_then
    assert pushed_files(hub) == written(tmp_path / "then")
    assert not hub.repositories[REPO].private
    assert not made.pushed.private


def test_a_public_data_set_is_refused_unless_that_is_meant(hub, folder):
    push(folder, Destination(REPO, private=False))
    commits = len(hub.commits(REPO))
    with pytest.raises(InputError, match=r"ann/mixed is public .* Say --no-private .* The export is in "):
        push(folder, Destination(REPO))
    assert len(hub.commits(REPO)) == commits
    hub.repositories[REPO].private = True
    assert push(folder, Destination(REPO, private=False)).private, "what it is, not what was asked for"


@pytest.mark.parametrize("theirs", [{"data/train-00000-of-00001.parquet": b"theirs"}, {"manifest.json": b"[1]"}])
def test_a_data_set_of_others_is_left_alone(hub, folder, theirs):
    hub.repositories[REPO] = repository = hubs.Repository(private=True)
    repository.commit("main", {name: (False, content) for name, content in theirs.items()})
    with pytest.raises(InputError, match="ann/mixed holds something else than an export of gradsift"):
        push(folder, Destination(REPO))
    assert hub.files(REPO) == theirs


def test_an_export_of_another_name_is_replaced_on_no_branch(hub, folder):
    push(folder, Destination(REPO))
    before, path = pushed_files(hub), folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | {"name": "other"}
    del manifest["seal"]
    path.write_text(json.dumps(sealed(manifest)), "utf-8")
    with pytest.raises(InputError, match=r"ann/mixed \(main\) holds an export of 'mixed', which 'other' would"):
        push(folder, Destination(REPO))
    push(folder, Destination(REPO, "other"))
    push(folder, Destination(REPO, "other"))
    assert pushed_files(hub) == before
    assert pushed_files(hub, "other") == written(folder)


def test_a_repository_that_was_just_made_by_hand_is_filled(hub, folder):
    hub.repositories[REPO] = repository = hubs.Repository(private=True)
    repository.commit("main", {"README.md": (False, b"---\nlicense: mit\n---")})
    push(folder, Destination(REPO))
    assert pushed_files(hub) == written(folder)


@pytest.mark.parametrize("name", ["README.md", "manifest.json"])
def test_a_file_that_was_changed_is_not_pushed(hub, folder, name):
    (folder / name).write_text((folder / name).read_text("utf-8").replace("mixed", "other"), "utf-8")
    with pytest.raises(CorruptionError, match=rf"{name} changed since it was exported"):
        push(folder, Destination(REPO))
    assert hub.log == []


@pytest.mark.parametrize("token", [None, "hf_" + "wrong" * 7])
def test_without_a_token_that_may_write_the_error_says_where_one_is_taken_from(hub, folder, monkeypatch, token):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(
        InputError, match=r"Set HF_TOKEN, or run `hf auth login`, .* write to ann\. The export is in "
    ) as told:
        push(folder, Destination(REPO))
    assert str(token) not in str(told.value)
    assert hub.repositories == {}
    assert not damaged(folder)


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("POST", "/repos/create$", 500),
        ("POST", "/commit/", 500),
        ("POST", "/commit/", "cut"),
        ("POST", "/commit/", "answer"),
        ("GET", "/tree/", 404),
    ],
)
def test_a_push_that_breaks_off_is_told_and_the_same_call_does_the_rest(hub, folder, method, path, what):
    """What was uploaded is not sent again, and a commit whose answer was lost is not made twice."""
    if "tree" in path:
        push(folder, Destination(REPO))
    hub.faults.append(hubs.Fault(method, path, what))
    with pytest.raises((UnavailableError, InputError), match=re.escape(f"The export is in {folder}")) as told:
        push(folder, Destination(REPO))
    assert isinstance(told.value, InputError) == (what == 404)
    assert not damaged(folder)
    push(folder, Destination(REPO))
    assert pushed_files(hub) == written(folder)
    assert len(hub.commits(REPO)) == 2
    assert len(hub.asked("PUT", "^/lfs/")) == 1


@pytest.mark.parametrize(
    ("method", "path", "what"), [("POST", "/preupload/", 500), ("POST", "objects/batch", 503), ("PUT", "/lfs/", "cut")]
)
def test_a_hub_that_fails_once_while_files_are_sent_is_asked_again(hub, folder, method, path, what):
    before = WAITED.times
    hub.faults.append(hubs.Fault(method, path, what))
    push(folder, Destination(REPO))
    assert WAITED.times == before + 1
    assert pushed_files(hub) == written(folder)


def test_somebody_who_commits_meanwhile_is_not_overwritten(hub, folder, monkeypatch):
    push(folder, Destination(REPO))
    (folder / "NOTES").write_text("", "utf-8")
    repository = hub.repositories[REPO]
    theirs = repository.at("main")[1] | {"README.md": (False, b"theirs")}
    repository.commit("main", theirs)
    from huggingface_hub import HfApi

    real = HfApi.create_commit

    def late(*arguments, **more):
        repository.commit("main", theirs | {"NOTES.md": (False, b"")})
        return real(*arguments, **more)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(BusyError, match=r"somebody else changed ann/mixed meanwhile"):
        push(folder, Destination(REPO))
    assert hub.files(REPO)["README.md"] == b"theirs"


def test_a_password_in_the_address_of_the_hub_and_control_characters_of_its_answer_are_not_shown(
    hub, folder, monkeypatch
):
    address = hub.url.replace("http://", "http://user:geheim@")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    hub.faults.append(hubs.Fault("GET", "/api/datasets", 418, text="no\x1b[31m tea"))
    with pytest.raises(InputError, match=r"refuses ann/mixed: 418, no \[31m tea") as told:
        push(folder, Destination(REPO))
    assert "geheim" not in str(told.value)


def test_a_file_that_a_gitignore_leaves_out_is_told(hub, folder):
    hub.ignored = ("composition.csv",)
    with pytest.raises(InputError, match=r"does not have composition\.csv as it was pushed .* \.gitignore"):
        push(folder, Destination(REPO))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repo": "a b/c"}, "--push a b/c: Repo id must use alphanumeric"),
        ({"repo": "datasets/ann/x"}, "Repo id must be in the form"),
        ({"repo": "mixed"}, "as in `--push owner/mixed`"),
        ({"repo": None, "dry_run": True}, "give it, too"),
        ({"repo": None, "private": False}, "give it, too"),
        ({"repo": None, "revision": "x"}, "give it, too"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(mixed, tmp_path, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        destination(**options)
    options["push"] = options.pop("repo")
    with pytest.raises(InputError, match=re.escape(said)):
        api.export("mixed", tmp_path / "out", store=mixed, **options)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_the_hub_and_the_token_from_the_environment(hub, mixed, tmp_path):
    """A real process: what it prints, its errors, and that the token is nowhere."""
    shutil.copytree(mixed, tmp_path / "store")
    variables = hubs.variables(hub, tmp_path)
    done = gradsift_apart("export", "mixed", "out", "--push", REPO, cwd=tmp_path, columns=200, **variables)
    assert (
        f"went to {hub.url}/datasets/ann/mixed (main, private), commit {hub.commits(REPO)[-1][0][:12]}" in done.stdout
    )
    assert re.search(r"data/train-00000-of-00001.parquet +sent", done.stdout)
    assert pushed_files(hub) == written(tmp_path / "out")
    assert all(known for _, path, known in hub.log if REPO in path)
    offline = gradsift_apart("export", "mixed", "elsewhere", "--push", REPO, cwd=tmp_path, code=2,
                       **variables | {"HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert "HF_HUB_OFFLINE is set, and --push asks the hub" in offline.stderr
    said = done.stdout + done.stderr + offline.stdout + offline.stderr
    assert hubs.TOKEN not in said
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(hubs.TOKEN.encode() in content for content in everything)
