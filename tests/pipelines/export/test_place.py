"""Exports that take the place of others: whole at any time, and what others wrote into the folder is never lost."""

import json
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from running import ROOT, start

from gradsift.datastore import leases, runs, selections
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export import partial, place
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.whole import damaged
from gradsift.pipelines.recipe import Export, parse_recipe
from gradsift.pipelines.runs.curate import curate

THEIRS = {
    "OUT/checkpoint-2/model.safetensors": b"weights",
    "OUT/log.txt": b"steps",
    "data/more.txt": b"beside the rows",
    "notes.md": b"mine",
    ".cache/x": b"cached",
}


@pytest.fixture
def mixed(tmp_path, write_jsonl):
    """(open store, exported folder) of a mixture that needs no model."""
    rows = [{"prompt": f"question {k}", "completion": f"answer {k}"} for k in range(30)]
    path = str(write_jsonl(*rows))
    with Store(tmp_path / "store") as store:
        made = curate(
            parse_recipe({"name": "mixed", "pool": [{"path": path}], "mix": {"examples": 20}}),
            store,
            export_root=tmp_path / "out",
        )
        yield store, Path(made.mixtures[0].export)


def again(store, folder, **options):
    chosen = selections.get(store, "mixed")
    return export(store, chosen, runs.recipe_of(store, chosen), folder, Export(**options))


def others_write(folder):
    for name, content in THEIRS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "link").symlink_to("notes.md")


def assert_theirs(folder):
    assert {name: (folder / name).read_bytes() for name in THEIRS} == THEIRS
    assert (folder / "link").readlink() == Path("notes.md")


def names_in(folder):
    """Files of an export by its manifest."""
    return {"manifest.json", *json.loads((folder / "manifest.json").read_text("utf-8"))["files"]}


def test_what_others_wrote_stays_when_the_same_or_another_is_exported(mixed):
    store, folder = mixed
    others_write(folder)
    kept = (folder / "OUT" / "log.txt").stat().st_ino
    for options in ({}, {"format": "jsonl"}, {}):
        again(store, folder, **options)
        assert_theirs(folder)
        assert not damaged(folder)
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        assert there == names_in(folder) | set(THEIRS) | {"link"}, "nothing of the old export is left"
    assert (folder / "OUT" / "log.txt").stat().st_ino == kept, "moved, so that a trainer that writes goes on"
    assert [path.name for path in folder.parent.iterdir()] == ["mixed"]


def test_a_checkout_leaves_it_too(mixed, tmp_path):
    store, _ = mixed
    folder = tmp_path / "then"
    checkout(store, "mixed@1", folder)
    others_write(folder)
    (folder / "README.md").write_text("changed", "utf-8")
    checkout(store, "mixed@1", folder)
    assert_theirs(folder)
    assert not damaged(folder)


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.jsonl", "atlas.parquet"])
def test_a_file_of_others_in_the_way_is_refused_before_anything_moves(mixed, monkeypatch, name):
    store, folder = mixed
    (folder / name).write_bytes(b"mine")
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    made = folder.parent / "made"
    again(store, made, format="jsonl")
    (made / "atlas.parquet").write_bytes(b"as if asked for")
    with pytest.raises(InputError, match=rf"{name} is in the way of the export's {name}; move it away or rename it"):
        place.swap(store, made, folder)
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


def kill_at(monkeypatch, number):
    """Raise at the given step, counted from 1: before a rename or removal that `place` makes. Returns the counter."""
    steps = []
    for kind in ("rename", "unlink", "rmdir"):
        real = getattr(Path, kind)

        def stopped(self, *arguments, real=real, **options):
            before = self.name.startswith(".tmp-") or self.name == partial.NOTES
            if before or "store" in self.parts or "spill" in str(self):
                return real(self, *arguments, **options)  # of the data that is written before
            steps.append(self)
            if len(steps) == number:
                raise KeyboardInterrupt
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, kind, stopped)
    return steps


def whole(folder):
    """None without a folder; else the format of the export there, which is whole."""
    if not folder.exists():
        return None
    assert not damaged(folder)
    return "jsonl" if next((folder / "data").glob("train-*")).suffix == ".jsonl" else "parquet"


def test_killed_at_any_step_nothing_is_lost_and_the_next_call_finishes(mixed, tmp_path):
    """A reader sees the old or the new export, or for the moment between two renames none; files of others are on the
    disk at every step, and in their place after the next call, whichever export that call writes."""
    store, folder = mixed
    others_write(folder)
    seen, number = [], 0
    while True:
        number += 1
        again(store, folder, format="parquet")
        with pytest.MonkeyPatch.context() as patch:
            steps = kill_at(patch, number)
            with suppress(KeyboardInterrupt):
                again(store, folder, format="jsonl")
        if len(steps) < number:
            break
        seen.append(whole(folder))
        found = [p.read_bytes() for p in folder.parent.rglob("*") if p.is_file() and p.read_bytes() in THEIRS.values()]
        assert set(found) == set(THEIRS.values())
        again(store, folder, format=("jsonl", "parquet")[number % 2])
        assert_theirs(folder)
        assert whole(folder) == ("jsonl", "parquet")[number % 2]
        left = [
            path.name for path in folder.parent.iterdir() if path != folder and not path.name.startswith(".partial-")
        ]
        assert left == []
    assert seen[:2] == ["parquet", None], "before the first rename the old one, before the second none"
    assert set(seen[2:]) == {"jsonl"}
    assert len(seen) > 12


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 9])
def test_killed_for_real_nothing_is_lost(mixed, step):
    """The process ends by SIGKILL before the given rename or removal: its leases too are taken over."""
    store, folder = mixed
    others_write(folder)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from gradsift.datastore import runs, selections; from gradsift.datastore.store import Store\n"
        "from gradsift.pipelines.export import place; from gradsift.pipelines.export.export import export\n"
        "from gradsift.pipelines.recipe import Export\n"
        "s = Store(sys.argv[1]); c = selections.get(s, 'mixed'); steps = []\n"
        "def counted(real):\n"
        "    def step(self, *a, **k):\n"
        "        steps.append(self)\n"
        "        if len(steps) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return real(self, *a, **k)\n"
        "    return step\n"
        "swap = place._swap\n"
        "def begin(*a):\n"
        "    for kind in ('rename', 'unlink', 'rmdir'): setattr(Path, kind, counted(getattr(Path, kind)))\n"
        "    swap(*a)\n"
        "place._swap = begin\n"
        "export(s, c, runs.recipe_of(s, c), Path(sys.argv[2]), Export(format='jsonl'))\n"
    )
    process = start("-c", code, store.root, folder, step, cwd=ROOT)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert whole(folder) == (None if step == 2 else "jsonl")
    again(store, folder, format="jsonl")
    assert whole(folder) == "jsonl"
    assert_theirs(folder)
    assert [path.name for path in folder.parent.iterdir() if path != folder] == []


def test_a_trainer_that_writes_meanwhile_loses_nothing(mixed, monkeypatch):
    """What appears under the new name before the old files are back is merged; two files of one name are refused."""
    store, folder = mixed
    others_write(folder)
    real = place.fsync_folder

    def meanwhile(parent):
        if not (folder / "OUT").exists():
            (folder / "OUT").mkdir()
            (folder / "OUT" / "new.txt").write_bytes(b"written meanwhile")
        real(parent)

    monkeypatch.setattr(place, "fsync_folder", meanwhile)
    again(store, folder, format="jsonl")
    assert_theirs(folder)
    assert (folder / "OUT" / "new.txt").read_bytes() == b"written meanwhile"
    monkeypatch.setattr(place, "fsync_folder", lambda _: (folder / "notes.md").write_bytes(b"another"))
    with pytest.raises(InputError, match=r"notes\.md belongs at .*notes\.md, where another file is by now"):
        again(store, folder)
    monkeypatch.setattr(place, "fsync_folder", real)
    old = folder.parent / ".gradsift-old-mixed"
    assert (old / "notes.md").read_bytes() == THEIRS["notes.md"]
    (folder / "notes.md").unlink()
    again(store, folder)
    assert_theirs(folder)
    assert not old.exists()


def test_two_at_once_do_not_take_one_place(mixed):
    store, folder = mixed
    name = f"export to {place.fingerprint(str(folder.resolve()))[:16]}"
    assert leases.acquire(store, name, "elsewhere:1:1:1")
    with pytest.raises(BusyError, match="another process is writing to"):
        again(store, folder, format="jsonl")
    assert whole(folder) == "parquet"


@pytest.mark.parametrize("damage", [None, '{"files": ["../../kept.txt", "README.md"]}', "{"])
def test_an_export_is_removed_without_what_others_wrote(mixed, damage):
    """Also one whose manifest is damaged, by the names of exports, or says that something elsewhere is the export's."""
    _, folder = mixed
    (folder.parent.parent / "kept.txt").write_text("not of it")
    others_write(folder)
    if damage:
        (folder / "manifest.json").write_text(damage, "utf-8")
    assert place.remove(folder) is False
    assert_theirs(folder)
    assert (folder.parent.parent / "kept.txt").exists()
    assert not (folder / "README.md").exists()
    if damage is None or damage == "{":
        assert sorted(p.name for p in folder.iterdir()) == [".cache", "OUT", "data", "link", "notes.md"]


def test_an_export_alone_is_removed_whole(mixed):
    _, folder = mixed
    assert place.remove(folder) is True
    assert not folder.exists()
