"""Exports: what readers find, the same bytes everywhere, nothing half-written, hostile text kept in its cell."""

import csv
import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from running import PATIENCE, ROOT, start

from gradsift.datastore import runs, selections
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines import tables
from gradsift.pipelines.export import export as exporting
from gradsift.pipelines.export import rows as export_rows
from gradsift.pipelines.export.about import Told, pool_words
from gradsift.pipelines.export.atlas import components, neighbours
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.job import EXPORT_VERSION, UNSEALED
from gradsift.pipelines.export.whole import damaged
from gradsift.pipelines.pool import ingest
from gradsift.pipelines.recipe import Export, load_recipe, parse_recipe
from gradsift.pipelines.runs import reselect
from gradsift.pipelines.runs.curate import curate

EVIL = '=HYPERLINK("http://x","y")|<script>alert(1)</script>`a`\n## injected'


def rows(count=40, source="alpha", licence="apache-2.0", start=0):
    out = []
    for k in range(start, start + count):
        text = f"{source} {k} " + " ".join(f"w{k}x{j}" for j in range(6))
        row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        out.append(row | {"source": source} | ({"licence": licence} if licence else {}))
    return out


@pytest.fixture
def mixture(tmp_path, write_jsonl):
    """(rows, mix, options) → (open store, folder of the export)."""

    def make(content=None, mix=None, root="machine", **more):
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        (folder / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content or rows()), "utf-8")
        (folder / "recipe.yaml").write_text(
            yaml.safe_dump({"name": "mixed", "pool": [{"path": "pool.jsonl"}], "mix": mix or {"examples": 30}} | more)
        )
        store = Store(folder / "store")
        made = curate(load_recipe(folder / "recipe.yaml"), store, export_root=folder / "out")
        return store, Path(made.mixtures[0].export)

    return make


def content_of(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def again(store, folder, **options):
    """As a run writes it."""
    chosen = selections.get(store, "mixed")
    told = Told(pool=pool_words(runs.last_run(store).result))
    return export(store, chosen, runs.recipe_of(store, chosen), folder, Export(**options), told=told)


def test_datasets_reads_the_mixture(mixture):
    store, folder = mixture(mix={"examples": 70, "repeat": 2})
    found = load_dataset(str(folder), split="train")
    assert len(found) == 70
    assert found.column_names == [
        "messages", "example_id", "source", "licence", "rank", "score", "part", "file", "line", "extra", "copy", "weight",
    ]  # fmt: skip
    counts = {}
    for row in found:
        counts[row["example_id"]] = counts.get(row["example_id"], 0) + 1
    chosen = selections.get(store, "mixed")
    assert counts == dict(zip(chosen.example_ids, chosen.copies, strict=True))
    assert sorted(found["copy"]) == [0] * 40 + [1] * 30
    assert found["rank"] != sorted(found["rank"]), "a mixture is shuffled"
    first = found[0]["messages"]
    assert [turn["role"] for turn in first] == ["user", "assistant"]
    assert first[0]["content"] == first[1]["content"][::-1]


def test_a_new_export_into_the_same_folder_is_not_served_from_an_old_cache(mixture, monkeypatch, tmp_path):
    """`datasets` keys its cache by the card, not by the files: same name, same pattern, other rows."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    seen = []
    for number, mix in enumerate(({"examples": 10}, {"examples": 10, "parts": [{"name": "other"}]}, {"examples": 12})):
        _, folder = mixture(mix=mix, root=f"machine{number}")
        out = tmp_path / "out"
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(folder, out)
        seen.append(load_dataset(str(out), split="train")["example_id"])
        stored = pq.read_table(next((out / "data").iterdir()))["example_id"].to_pylist()
        assert list(seen[-1]) == stored
    assert len(seen[2]) == 12
    assert list(seen[0]) != list(seen[1])


def test_promise_5_two_machines_write_the_same_bytes(mixture, monkeypatch):
    """Other folders, other order of rows, other batches, other parts of the first pass: the same digests. (With places,
    rows in another order are other lines.)"""
    mix = {"examples": 60, "repeat": 2, "weights": "uniform"}
    content = [*rows(), *rows(20, "beta")]
    monkeypatch.setattr(ingest, "BATCH_ROWS", 7)
    _, placed = mixture(content, mix, "placed")
    monkeypatch.undo()
    assert content_of(placed) == content_of(mixture(content, mix, "elsewhere")[1])
    _, one = mixture(content, mix, "one", export={"places": False})
    monkeypatch.setattr(ingest, "BATCH_ROWS", 7)
    _, two = mixture(content[::-1], mix, "two", export={"places": False})
    first, second = (json.loads((f / "manifest.json").read_text("utf-8")) for f in (one, two))
    assert first == second
    assert content_of(one) == content_of(two)


def test_the_recipe_of_an_export_makes_it_again(mixture, tmp_path):
    _, folder = mixture()
    written = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    assert written["pool"][0]["path"] == "pool.jsonl", "as its author wrote it: no path of this machine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, path in (("recipe.yaml", folder / "recipe.yaml"), ("pool.jsonl", tmp_path / "machine" / "pool.jsonl")):
        (elsewhere / name).write_bytes(path.read_bytes())
    with Store(elsewhere / "store") as store:
        made = curate(load_recipe(elsewhere / "recipe.yaml"), store)
    assert (Path(made.mixtures[0].export) / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_large_exports_are_parts_of_one_order(mixture, monkeypatch):
    _, whole = mixture(root="one")
    monkeypatch.setattr(export_rows, "PART_CHARS", 1000)
    _, parts = mixture(root="two")
    names = sorted(p.name for p in (parts / "data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    a, b = (load_dataset(str(f), split="train") for f in (whole, parts))
    assert a["example_id"] == b["example_id"]
    assert a["messages"] == b["messages"]


def test_parts_are_bounded_by_their_text_where_some_rows_are_huge(mixture, monkeypatch, tmp_path):
    """Equal rows would put two huge ones into a part; versions that were exported so come out so."""
    content = rows(200)
    for k in range(3, 200, 25):
        content[k]["messages"][1]["content"] = "word " * 2_400
    store, folder = mixture(content, {"examples": 200})
    chosen = selections.get(store, "mixed")
    limit = 10_000
    monkeypatch.setattr(export_rows, "PART_CHARS", limit)

    def parts(name, layout):
        made = export(store, chosen, runs.recipe_of(store, chosen), tmp_path / name, layout=layout)
        return [pq.read_table(path) for path in sorted((made / "data").iterdir())]

    def text(rows):
        return sum(len(turn["content"]) for chat in rows["messages"].to_pylist() for turn in chat)

    equal, bounded = parts("equal", UNSEALED), parts("bounded", EXPORT_VERSION)
    assert len({part.num_rows for part in equal[:-1]}) == 1
    assert max(map(text, equal)) > 2 * limit >= max(map(text, bounded))
    assert len(bounded) > len(equal)
    whole = pq.read_table(folder / "data")
    for found in (equal, bounded):
        assert [row for part in found for row in part.to_pylist()] == whole.to_pylist()


def test_json_lines_are_made_in_batches_bounded_by_their_text(mixture, monkeypatch, tmp_path):
    store, _ = mixture()
    usual = content_of(again(store, tmp_path / "usual", format="jsonl"))
    made, spans = [], export_rows.groups.spans

    def counted(sizes, rows, total):
        for first, end in spans(sizes, rows, total):
            made.append(sum(sizes[first:end]))
            yield first, end

    monkeypatch.setattr(export_rows.groups, "spans", counted)
    monkeypatch.setattr(export_rows, "LINES_CHARS", 500)
    assert content_of(again(store, tmp_path / "few", format="jsonl")) == usual
    assert len(made) > 5
    assert max(made) <= 500


def test_a_killed_export_shows_nothing_and_goes_on(mixture, monkeypatch, tmp_path):
    """Stopped after the first part: no folder; the next call reads no shard again and keeps that part."""
    monkeypatch.setattr(export_rows, "PART_CHARS", 1000)
    store, done = mixture()
    target = tmp_path / "fresh" / "mixed"
    real, written = export_rows._write_part, []

    def stop_at_second(plan, staging, number, path, labels, **more):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(number)
        real(plan, staging, number, path, labels, **more)

    monkeypatch.setattr(export_rows, "_write_part", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        again(store, target)
    assert not target.exists()
    monkeypatch.setattr(export_rows, "_write_part", lambda *a, **more: written.append(a[2]) or real(*a, **more))
    monkeypatch.setattr(export_rows.examples, "read_shard", lambda *_: pytest.fail("the first pass was done"))
    again(store, target)
    assert sorted(written) == sorted(set(written)), "no part twice"
    assert (target / "manifest.json").read_bytes() == (done / "manifest.json").read_bytes()
    assert [p.name for p in target.parent.iterdir()] == ["mixed"], "nothing is left beside it"


@pytest.mark.slow
def test_an_export_survives_kill_9_at_any_time(mixture, tmp_path, monkeypatch):
    """Killed in a real process at growing delays until one call gets through: never half a folder, the same bytes."""
    store, done = mixture(rows(400), {"examples": 400})
    target = tmp_path / "killed" / "mixed"
    code = (
        "import sys; from pathlib import Path\n"
        "from gradsift.datastore import runs, selections; from gradsift.datastore.store import Store\n"
        "from gradsift.pipelines.export import rows; from gradsift.pipelines.export.export import export\n"
        "rows.PART_CHARS = 2000\n"
        "s = Store(sys.argv[1]); c = selections.get(s, 'mixed'); print('go', flush=True)\n"
        "export(s, c, runs.recipe_of(s, c), Path(sys.argv[2]))\n"
    )
    kills = 0
    for delay in [0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.8, PATIENCE]:
        process = start("-c", code, store.root, target, cwd=ROOT)
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert not target.exists() or not damaged(target)
            continue
        finally:
            process.stdout.close()
            process.stderr.close()
        if process.returncode == 0:
            break
    assert kills
    assert not damaged(target)
    a, b = (load_dataset(str(f), split="train") for f in (done, target))
    assert a["example_id"] == b["example_id"]


def test_two_processes_do_not_write_the_same_export(mixture, tmp_path, monkeypatch):
    store, _ = mixture()
    real = exporting.spill

    def other():
        with Store(store.root) as opened:
            return again(opened, tmp_path / "x" / "mixed")

    def meanwhile(*arguments):
        with ThreadPoolExecutor(1) as threads, pytest.raises(BusyError, match="another process is writing this export"):
            threads.submit(other).result()
        real(*arguments)

    monkeypatch.setattr(exporting, "spill", meanwhile)
    again(store, tmp_path / "x" / "mixed")


def test_other_options_replace_an_export_and_damage_is_mended(mixture):
    store, folder = mixture()
    before = (folder / "manifest.json").read_bytes()
    again(store, folder, format="jsonl")
    assert [p.name for p in (folder / "data").iterdir()] == ["train-00000-of-00001.jsonl"]
    assert len(load_dataset(str(folder), split="train")) == 30
    again(store, folder)
    assert (folder / "manifest.json").read_bytes() == before
    (folder / "README.md").write_text("gone", "utf-8")
    assert damaged(folder) == {"README.md": "changed"}
    again(store, folder)
    assert not damaged(folder)


def test_a_folder_that_is_no_export_is_left_alone(mixture, tmp_path):
    store, _ = mixture()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", "utf-8")
    with pytest.raises(InputError, match="is not a gradsift export"):
        again(store, tmp_path / "mine")


def test_a_later_recipe_does_not_rewrite_the_licences_of_an_earlier_selection(tmp_path, write_jsonl):
    """The same rows under another licence: the first selection says what was true of it, the second what is now."""
    from gradsift.datastore import runs
    from gradsift.pipelines.export.export import export
    from gradsift.pipelines.recipe import parse_recipe

    path = str(write_jsonl(*rows(licence=None)))

    def run(store, run_name, **source):
        recipe = {"name": run_name, "pool": [{"path": path, **source}], "mix": {"examples": 10}}
        return Path(curate(parse_recipe(recipe), store, export_root=tmp_path / "out").mixtures[0].export)

    def said(folder):
        return json.loads((folder / "manifest.json").read_text())["licences"]

    with Store(tmp_path / "store") as store:
        first = run(store, "first", licence="mit", name="one")
        assert said(first) == {"mit": 10}
        assert said(run(store, "second", licence="cc-by-4.0", name="other")) == {"cc-by-4.0": 10}
        chosen = selections.get(store, "first")
        again = export(store, chosen, runs.recipe_of(store, chosen), tmp_path / "again")
        assert said(again) == {"mit": 10}
        assert set(load_dataset(str(again), split="train")["source"]) == {"one"}
        assert said(run(store, "first", licence="cc-by-4.0", name="one")) == {"cc-by-4.0": 10}  # under the same name
        assert said(run(store, "first", licence="mit", name="one")) == {"mit": 10}  # and back: found again
        chosen = selections.get(store, "first")
        again = export(store, chosen, runs.recipe_of(store, chosen), tmp_path / "again")
        assert said(again) == {"mit": 10}


def test_licences_are_those_of_the_sources(mixture, tmp_path):
    content = [
        *rows(10, "a", "Apache 2.0"),
        *rows(10, "b", "cc-by-nc-4.0"),
        *rows(10, "c", "House rules"),
        *rows(10, "d", None),
    ]
    store, folder = mixture(content, {"examples": 40})
    text = (folder / "README.md").read_text("utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == ["apache-2.0", "cc-by-nc-4.0", "other", "unknown"]
    assert "| House rules | 10 | other |" in text
    assert json.loads((folder / "manifest.json").read_text("utf-8"))["licences"]["unknown"] == 10
    with pytest.raises(
        InputError, match=r"10 rows have no licence, of sources d \(10\). Give these sources a `licence`"
    ):
        again(store, tmp_path / "strict" / "x", require_licence=True)


def test_hostile_names_stay_in_their_cells(mixture):
    _, folder = mixture([*rows(10, EVIL, EVIL), *rows(30)], {"examples": 20})
    text = (folder / "README.md").read_text("utf-8")
    assert "<script" not in text
    assert "\n## injected" not in text
    assert yaml.safe_load(text.split("---")[1])["license"] == ["apache-2.0", "other"]
    with (folder / "composition.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert all(not cell.startswith(tables.FORMULA) for row in table for cell in row.values())
    assert any(row["source"].startswith("'=HYPERLINK") for row in table)
    assert sum(int(row["rows"]) for row in table) == 20


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "a\n=1"])
def test_no_cell_is_a_formula(name):
    assert not str(tables.safe_csv(name)).lstrip().startswith(tables.FORMULA)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "x" * 65, "Ä", "-a"])
def test_names_cannot_leave_the_folder(name, recipe_data):
    with pytest.raises(InputError, match="name"):
        parse_recipe(recipe_data | {"name": name})


def test_pages_have_checksums(mixture):
    _, folder = mixture()
    path = next((folder / "data").iterdir())
    data = bytearray(path.read_bytes())
    texts = pq.ParquetFile(path).metadata.row_group(0).column(1)  # contents of the turns
    data[texts.dictionary_page_offset + texts.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"[Cc]hecksum|CRC|corrupt|invalid|Unexpected|decompress"):
        pq.read_table(path, page_checksum_verification=True)


def test_labels_on_request(copy, tmp_path):
    chosen = selections.newest(copy)[0]
    folder = export(copy, chosen, runs.recipe_of(copy, chosen), tmp_path / "x", Export(labels=True))
    found = load_dataset(str(folder), split="train")
    for row in found:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["attention_mask"])
        assert any(label != export_rows.IGNORED for label in row["labels"])
        assert all(x in (t, export_rows.IGNORED) for x, t in zip(row["labels"], row["input_ids"], strict=True))


def test_the_atlas(copy, tmp_path):
    chosen = selections.newest(copy)[0]
    folder = export(copy, chosen, runs.recipe_of(copy, chosen), tmp_path / "x", Export(atlas=True))
    table = pq.read_table(folder / "atlas.parquet")
    assert table.num_rows == len(chosen.example_ids)
    for k, near in enumerate(table["neighbors"].to_pylist()):
        assert k not in near["ids"]
        assert near["distances"] == sorted(near["distances"])
        assert len(near["ids"]) == len(near["distances"]) == len(set(near["ids"])) == 11
    assert json.loads((folder / "manifest.json").read_text("utf-8"))["files"]["atlas.parquet"]


def test_an_atlas_is_not_made_of_rows_that_are_all_alike(copy, tmp_path):
    """Without plain rows there are Adam's alone, which are near each other whatever they are about."""
    for row in runs.last_run(copy).result.rows:
        if row.role == "plain":
            with copy.catalog.write() as db:
                db.execute("DELETE FROM feature_row WHERE space_id=?", (row.space_id,))
    chosen = selections.newest(copy)[0]
    with pytest.raises(InputError, match=r"plain gradient of every example; 12 of 12 .*plain_rows: true"):
        export(copy, chosen, runs.recipe_of(copy, chosen), tmp_path / "x", Export(atlas=True))


def test_an_atlas_needs_rows(mixture, tmp_path):
    store, _ = mixture()
    with pytest.raises(InputError, match="chosen without gradient rows"):
        again(store, tmp_path / "x", atlas=True)


def test_components_of_rows_whose_mean_is_exact():
    """Centred rows take a constant vector to exactly zero, which is no start for an iteration."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (16, 200)).astype(np.float32)
    places = components(np.concatenate([signs, -signs]))
    assert np.isfinite(places).all()
    assert places.std(axis=0).min() > 1


def test_components_and_neighbours_by_hand():
    rng = np.random.default_rng(0)
    rows_ = (rng.normal(size=(40, 2)) * [5, 1]) @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 3
    xy = components(rows_.astype(np.float32))
    centred = rows_ - rows_.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(u[:, :2] * s[:2]), atol=1e-3)
    unit = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    near, apart = neighbours(unit, 2, lambda *_: None)
    assert near.tolist() == [[1, 2], [0, 2], [1, 0]]
    np.testing.assert_allclose(apart, [[0.2, 1], [0.2, 0.4], [0.4, 1]], atol=1e-6)


def test_an_old_selection_is_exported_by_its_digest(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        digests = []
        for count in (5, 6):
            made = reselect.remix(store, {"examples": count}, name="same")
            digests.append(made.digest)
        assert selections.get(store, "same").digest == digests[1]
        old = selections.get(store, f"same@{digests[0][:12]}")
        assert old.rows == 5
        export(store, old, runs.recipe_of(store, old), tmp_path / "old")
        with pytest.raises(InputError, match="no selection 'same@ffff'"):
            selections.get(store, "same@ffff")
    assert len(load_dataset(str(tmp_path / "old"), split="train")) == 5
