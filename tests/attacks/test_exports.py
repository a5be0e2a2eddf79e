"""Damaged exports: what a killed one had finished is trusted no further than its digest, and `verify` finds the rest."""

import json
import shutil

import pytest

from gradsift import api
from gradsift.cli.store import verify
from gradsift.datastore import inside, leases, runs, selections
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.store import Store
from gradsift.pipelines.export import rows as export_rows
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.job import UNSEALED
from gradsift.pipelines.export.whole import damaged
from gradsift.pipelines.recipe import Export, parse_recipe
from gradsift.pipelines.runs.copies import damaged_exports
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.repair import mend


def rows(count):
    for k in range(count):
        text = f"row {k} " + " ".join(f"w{k}x{j}" for j in range(6))
        yield {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store with a mixture of forty rows, open."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)), "utf-8")
    with Store(folder / "store") as store:
        curate(
            parse_recipe({"name": "mixed", "pool": [{"path": str(folder / "pool.jsonl")}], "mix": {"examples": 40}}),
            store,
        )
        yield store


def exported(store, folder, progress=lambda *_: None, **options):
    chosen = selections.get(store, "mixed")
    return export(store, chosen, runs.recipe_of(store, chosen), folder, Export(**options), progress)


def half_made(store, folder, stage, done, **options):
    """What an export leaves that is killed when it says that this many parts of a stage are done."""

    def stop(name, number, total):
        if (name, number) == (stage, done if done > 0 else total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exported(store, folder, stop, **options)
    (left,) = folder.parent.iterdir()
    assert left.name.startswith(".partial-")
    return left


def files_of(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def content_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def flips(files, count):
    """(file, its bytes with one bit flipped) at so many places, evenly over all files."""
    places = [(path, at) for path in files for at in range(path.stat().st_size)]
    for number in range(count):
        path, at = places[len(places) * number // count]
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << number % 8
        yield path, bytes(data)


def cuts(files):
    """(file, what is left of it: nothing, half, None for no file) of each file."""
    for path in files:
        yield from ((path, left) for left in (b"", path.read_bytes()[: path.stat().st_size // 2], None))


@pytest.mark.parametrize(
    ("cwd", "store", "out"),
    [("store", ".", "../out"), ("", "store", "store/../out"), ("store", "../store", "exports/../../out")],
)
def test_an_export_goes_where_its_way_leads_through_the_store(mixed, tmp_path, monkeypatch, cwd, store, out):
    shutil.copytree(mixed.root, tmp_path / "store")
    monkeypatch.chdir(tmp_path / cwd)
    api.export("mixed", out, store=store)
    assert damaged(tmp_path / "out") == {}


def test_a_way_through_a_link_in_the_store_is_refused_wherever_it_leads(tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    for way in ("link", "link/out", "link/../out", "link/../../out", "../store/link/out"):
        with pytest.raises(CorruptionError, match="store/link leads out of the store"):
            inside.require(root, root / way)
    assert inside.require(root / ".." / "store", root / ".." / "out") == root / ".." / "out"


STAGES = {"one part": ("export: writing parts", 1), "all parts": ("export: writing parts", 0)}
LONG = [pytest.param(stage, suffix, 400, marks=pytest.mark.soak) for stage in STAGES for suffix in ("parquet", "jsonl")]


@pytest.mark.parametrize(("stage", "suffix", "count"), [("one part", "parquet", 30), ("all parts", "jsonl", 30), *LONG])
def test_a_half_made_export_with_any_damage_becomes_the_undisturbed_one(
    mixed, tmp_path, monkeypatch, tally, stage, suffix, count
):
    """Killed, then damaged, then called again; the parts that are whole are used."""
    monkeypatch.setattr(export_rows, "PART_CHARS", 1500)
    undisturbed = content_of(exported(mixed, tmp_path / "whole" / "out", format=suffix))
    (tmp_path / "left").mkdir()
    left = half_made(mixed, tmp_path / "left" / "out", *STAGES[stage], format=suffix)
    files = files_of(left)
    assert len(files) > 3
    flipped, cut = tally("flipped bits of half-made exports", 3), tally("cut and missing files of half-made exports", 3)
    for counts, attacks in ((flipped, flips(files, count)), (cut, cuts(files))):
        for path, data in attacks:
            shutil.copytree(left, tmp_path / "try" / left.name)
            there = tmp_path / "try" / left.name / path.relative_to(left)
            there.unlink() if data is None else there.write_bytes(data)
            made = exported(mixed, tmp_path / "try" / "out", format=suffix)
            same = content_of(made) == undisturbed and not damaged(made)
            counts.harmless() if same else counts.silent(f"{path.relative_to(left)}, {stage}")
            shutil.rmtree(tmp_path / "try")


def same_manifest(path, data):
    """Whether these bytes say what the manifest at a path says: white space may differ."""
    try:
        return path.name == "manifest.json" and json.loads(data) == json.loads(path.read_bytes())
    except ValueError:
        return False


@pytest.mark.parametrize("count", [120, pytest.param(4000, marks=pytest.mark.soak)])
def test_any_damage_to_an_export_is_found_and_named(mixed, tally, count):
    """The store's own, by the digests of its manifest, which seals itself."""
    folder = mixed.root / "exports" / "mixed"
    assert list(damaged_exports(mixed)) == []
    flipped, cut = tally("flipped bits of exports", 3), tally("cut and missing files of exports", 3)
    for counts, attacks in ((flipped, flips(files_of(folder), count)), (cut, cuts(files_of(folder)))):
        for path, data in attacks:
            before, harmless = path.read_bytes(), data is not None and same_manifest(path, data)
            path.unlink() if data is None else path.write_bytes(data)
            found = list(damaged_exports(mixed))
            path.write_bytes(before)
            name = path.relative_to(folder).as_posix()
            if harmless:
                counts.harmless()
            elif [one.name for one in found] == [str(folder)] and name in found[0].problem:
                counts.reported()
            else:
                counts.silent(f"{name}: {found}")


def test_a_damaged_export_of_the_store_is_written_again_as_it_was(mixed, tmp_path, tally):
    """As a run wrote it, and as a command did with options of its own; each file of it in turn."""
    lines = mixed.root / "exports" / "lines"
    api.export("mixed", lines, format="jsonl", store=mixed)
    repaired = tally("damaged exports that were repaired", 3)
    for folder in (mixed.root / "exports" / "mixed", lines):
        before = content_of(folder)
        for path in [path for path in files_of(folder) if path.name != "manifest.json"]:
            path.write_bytes(path.read_bytes()[:-1])
            (planned,) = mend(mixed, dry_run=True)
            (done,) = mend(mixed)
            assert (done.file, done.kind, done.problem) == (
                str(folder),
                "export",
                f"changed: {path.relative_to(folder)}",
            )
            same = (done.state, planned.state) == ("mended", "mended") and content_of(folder) == before
            repaired.harmless() if same else repaired.silent(f"{path}: {done}")
    shutil.rmtree(lines)
    assert mend(mixed) == []


def test_an_export_that_cannot_be_written_as_it_was_stays_and_says_what_to_do(mixed, tmp_path, capsys):
    """A manifest that is damaged; and an export elsewhere, where its owner may have written on the card."""
    away, kept = tmp_path / "away", mixed.root / "exports" / "kept"
    for folder, name in ((away, "README.md"), (kept, "manifest.json")):
        exported(mixed, folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data.replace(b"mixed", b"mingled"))
    left = {folder: content_of(folder) for folder in (away, kept)}
    done = {one.file: one for one in mend(mixed, accept_loss=True)}
    assert {name: (one.state, one.is_damage) for name, one in done.items()} == {
        str(away): ("noted", False), str(kept): ("kept", True)
    }  # fmt: skip
    assert done[str(away)].problem == "changed: README.md"
    assert "outside of the store" in done[str(away)].done
    assert done[str(kept)].problem == "changed: manifest.json"
    assert "remove the folder, and `gradsift export`" in done[str(kept)].done
    assert {folder: content_of(folder) for folder in left} == left
    with pytest.raises(CorruptionError, match="1 damaged file; next: what the list says of each"):
        verify(store=mixed.root)
    shutil.rmtree(kept)
    verify(store=mixed.root)
    assert "No damage" in capsys.readouterr().out
    verify(store=mixed.root, repair=True, json=True)
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["noted"]
    path = next((away / "data").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    for options in ({}, {"repair": True}, {"repair": True, "accept_loss": True}):
        with pytest.raises(CorruptionError, match="next: what the list says of each"):
            verify(store=mixed.root, **options)  # rows that somebody may train on are not its owner's words
    exported(mixed, away)
    assert api.verify(mixed) == []
    shutil.rmtree(away)
    assert api.verify(mixed) == [], "what its owner took away is no damage"


def test_gc_collects_what_killed_exports_left(copy):
    """After its grace, nothing that is written now, and no file of others."""
    exports = copy.root / "exports"
    (export,) = (path for path in exports.iterdir() if path.name == "small-sql")
    whole = files_of(export)
    key = "0123456789abcdef"
    for name in (f".partial-small-sql-{key}", f".partial-.checkout-small-sql@1-{key}", ".checkout-small-sql@1"):
        (exports / name / "data").mkdir(parents=True)
        (exports / name / "data" / "spill").write_text("half")
    shutil.copytree(export, exports / f".old-{key}")
    shutil.copytree(export, exports / ".gradsift-old-small-sql")
    shutil.copytree(export, exports / ".gradsift-old-gone")  # its successor never came
    (exports / ".gradsift-old-small-sql" / "notes.txt").write_text("mine")
    (exports / f".old-{key[::-1]}").symlink_to(export)
    for name in (".old-photos", ".partial-thesis"):
        (exports / name).mkdir()
    stays = {".gradsift-old-gone", f".old-{key[::-1]}", ".old-photos", ".partial-thesis"}
    before = {path.name for path in exports.iterdir()}
    assert not [one for one in api.gc(copy) if one.file.startswith("exports/")]  # too young
    leases.acquire(copy, f"export {key}", "elsewhere:1:1:1")
    listed = {one.file for one in api.gc(copy, grace_hours=-1, dry_run=True)}
    assert {f"exports/.old-{key}", "exports/.gradsift-old-small-sql", "exports/.checkout-small-sql@1"} == listed
    leases.release(copy, f"export {key}", "elsewhere:1:1:1")
    assert {path.name for path in exports.iterdir()} == before
    gone = {one.file: one.bytes for one in api.gc(copy, grace_hours=-1)}
    assert len(gone) == 5
    assert min(gone.values()) > 0
    after = {path.name for path in exports.iterdir()}
    assert before - after == {name.removeprefix("exports/") for name in gone}
    assert stays < after
    assert (export / "notes.txt").read_text() == "mine"
    (export / "notes.txt").unlink()
    assert files_of(export) == whole


def test_a_manifest_of_another_tool_in_the_place_of_an_export_is_not_looked_at(mixed, tmp_path):
    away = exported(mixed, tmp_path / "away")
    for text in ('{"files": {"README.md": "0"}}', "[]", "no JSON", '{"version": 3}'):
        (away / "manifest.json").write_text(text)
        assert api.verify(mixed) == []
    shutil.rmtree(away)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection": None}, "does not say what it was"), ({"selection": {}}, "does not say what it was"),
        ({"selection": {"target": [], "digest": {}}}, "does not say what it was"), ({"name": None}, "does not say what it was"),
        ({"name": ["mixed"]}, "does not say what it was"), ({"name": "other"}, "its selection is no longer in the store"),
        ({"key": None}, "written by another version"), ({"key": {}}, "written by another version"),
    ],
)  # fmt: skip
def test_an_older_manifest_that_lacks_what_it_should_say_is_told_in_words(mixed, changes, words):
    """Those of before the seal may have been edited, and nobody can tell."""
    folder = mixed.root / "exports" / "older"
    exported(mixed, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"gradsift_export": UNSEALED, **changes}
    said = {name: value for name, value in manifest.items() if name != "seal" and value is not None}
    (folder / "manifest.json").write_text(json.dumps(said))
    (folder / "README.md").write_text("changed")
    done = api.verify(mixed)
    shutil.rmtree(folder)
    (told,) = done
    assert (told.state, told.problem) == ("kept", "changed: README.md")
    assert words in told.done
