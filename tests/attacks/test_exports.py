"""Damaged exports: what a killed one had finished is trusted no further than its digest, and `verify` finds the rest."""

import json
import shutil

import pytest

from gradsift.datastore import runs, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.export import rows as export_rows
from gradsift.pipelines.export.export import damaged, export
from gradsift.pipelines.recipe import Export, parse_recipe
from gradsift.pipelines.runs.curate import curate


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
    files = [path for path in sorted(left.rglob("*")) if path.is_file()]
    assert len(files) > 3
    flipped, cut = tally("flipped bits of half-made exports", 3), tally("cut and missing files of half-made exports", 3)
    for counts, attacks in ((flipped, flips(files, count)), (cut, cuts(files))):
        for path, data in attacks:
            shutil.copytree(left, tmp_path / "try" / left.name)
            there = tmp_path / "try" / left.name / path.relative_to(left)
            there.unlink() if data is None else there.write_bytes(data)
            made = exported(mixed, tmp_path / "try" / "out", format=suffix)
            same = content_of(made) == undisturbed and damaged(made) == []
            counts.harmless() if same else counts.silent(f"{path.relative_to(left)}, {stage}")
            shutil.rmtree(tmp_path / "try")
