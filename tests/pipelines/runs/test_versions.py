"""Numbered versions of pools, selections and mixtures: counted, compared, exported again, pruned; from runs of recipes
without a model, which take a fraction of a second."""

import json
import re
import shutil
from dataclasses import asdict

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from running import gradsift

from gradsift.cli.tables import version_words
from gradsift.datastore import checkpoints, examples, features, files, leases, prune, runs, selections, versions
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.maintenance import verify
from gradsift.datastore.runs import Moved
from gradsift.datastore.store import Store
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.export.diff import diff
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.report import report, write_report
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.runs.reselect import remix, reselect


def chats(source, first, last):
    texts = [" ".join(f"{source}{k}w{j}" for j in range(8)) for k in range(first, last)]
    return [{"prompt": f"{source} {text}", "completion": f"say {text}", "source": source} for text in texts]


class Nightly:
    """A store, and runs on it of a recipe that changes."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.exported = folder, []
        self.store = Store(folder / "store")

    def run(self, rows, *, licence=None, name="mix", **more):
        """One run; keeps a copy of its export, whose number is that of the run."""
        pool = self.folder / "pool.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        source = {"path": str(pool)} | ({"licence": licence} if licence else {})
        data = {"name": name, "pool": [source], "mix": {"examples": 8}} | more
        result = curate(parse_recipe(data), self.store)
        copy = self.folder / f"then-{len(self.exported)}"
        shutil.copytree(result.mixtures[0].export, copy)
        self.exported.append(copy)
        return result


@pytest.fixture
def nightly(tmp_path):
    made = Nightly(tmp_path / "nightly")
    yield made
    made.store.close()


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def shown(result):
    return {v.version: (v.new, v.rows, v.before, v.came, v.left) for v in result.versions}


def test_a_run_numbers_what_changed_and_confirms_what_did_not(nightly):
    assert shown(nightly.run(chats("a", 0, 20))) == {
        "pool@1": (True, 20, None, None, None), "mix@1": (True, 8, None, None, None)
    }  # fmt: skip
    assert shown(nightly.run(chats("a", 0, 20))) == {"pool@1": (False, 20, 1, 0, 0), "mix@1": (False, 8, 1, 0, 0)}
    grown = nightly.run(chats("a", 5, 20) + chats("b", 0, 30))
    pool, mixture = grown.versions
    assert shown(grown)["pool@2"] == (True, 45, 1, 30, 5)
    assert pool.by_source == (Moved("b", 30, 0), Moved("a", 0, 5))
    had, has = (set(selections.get(nightly.store, f"mixture@{n}").example_ids) for n in (1, 2))
    assert (mixture.came, mixture.left) == (len(has - had), len(had - has))
    assert mixture.came
    back = nightly.run(chats("a", 0, 20))
    assert shown(back)["pool@3"] == (True, 20, 2, 5, 30), "a return is a new number, against the one before it"
    other = nightly.run(chats("a", 0, 20), mix={"examples": 8, "repeat": 2})
    assert shown(other)["pool@3"] == (False, 20, 3, 0, 0)
    assert "mix@4" in shown(other)


def test_the_log_lists_every_run_with_its_versions(nightly):
    for rows in (chats("a", 0, 20), chats("a", 0, 20), chats("a", 0, 25)):
        nightly.run(rows)
    entries = versions.log(nightly.store)
    listed = [(entry.run_id, entry.report.version, entry.report.new, entry.present) for entry in entries]
    assert listed == [
        (3, "pool@2", True, False), (3, "mix@2", True, True),
        (2, "pool@1", False, False), (2, "mix@1", False, False),
        (1, "pool@1", True, False), (1, "mix@1", True, False),
    ]  # fmt: skip
    assert [entry.report.version for entry in versions.log(nightly.store, "pool")] == ["pool@2", "pool@1", "pool@1"]
    with pytest.raises(InputError, match="nothing named 'x' has versions; there are mix"):
        versions.log(nightly.store, "x")
    table = gradsift("log", "--store", nightly.folder / "store", columns=80).stdout
    assert re.search(r"mix@1 .* 2 mix +8 +0 +0 +as @1", table)
    assert re.search(r"mix@2 .* 3 mix +8 .* in exports/mix", table)
    assert re.search(r"pool@1 .* 1 mix +20 +– +– +first", table)


def test_a_new_number_of_the_same_rows_says_what_changed(nightly):
    """And a comparison of the two says that it is the same."""
    nightly.run(chats("a", 0, 8))
    changed = nightly.run(chats("a", 0, 8), mix={"examples": 8, "repeat": 2})
    nightly.run(chats("a", 0, 8), mix={"examples": 8, "repeat": 2}, licence="mit")
    nightly.run(chats("a", 0, 9), mix={"examples": 9})
    said = [version_words(version) for version in changed.versions]
    assert said == ["pool@1 as before", "mix@2 0 in, 0 out (same rows; recipe mix changed)"]
    why = {entry.report.version: entry.why for entry in versions.log(nightly.store)}
    read = "where its rows were read, recipe pool changed"
    assert why == {
        "pool@1": "", "mix@1": "", "mix@2": "same rows; recipe mix changed", "mix@3": f"same rows; {read}",
        "pool@2": "", "mix@4": "",
    }  # fmt: skip
    assert diff(nightly.store, "mix@1", "mix@2").same == "the same rows in the same order; recipe mix changed"
    assert diff(nightly.store, "mix@3", "mix@4").same == ""
    assert diff(nightly.store, "mix@3", "mix@3").same == "the same rows in the same order"
    at = ("--store", nightly.folder / "store")
    pools = gradsift("diff", "pool@1", "pool@2", *at).stdout
    assert "Only in b: 1 of 1" in pools
    assert "score" not in pools.lower(), "a pool has none"
    assert "same rows; recipe mix changed" in gradsift("log", *at, columns=160).stdout
    assert "The same rows in the same order; recipe mix changed." in gradsift("diff", "mix@1", "mix@2", *at).stdout


def test_a_report_says_what_changed_since_the_last_version(nightly):
    def section():
        (found,) = [s for s in asdict(report(nightly.store))["sections"] if s["title"] == "Since the last version"]
        return [list(part["table"]) for part in found["parts"]]

    nightly.run(chats("a", 0, 20))
    assert [line["against"] for line in section()[0]] == ["the first version"] * 2
    nightly.run(chats("a", 5, 30))
    lines, of_pool, _ = section()
    assert lines[0] == {"version": "pool@2", "rows": 25, "in": 10, "out": 5, "against": "@1"}
    assert of_pool == [{"source": "a", "came": 10, "left": 5}]
    page = json.loads((nightly.folder / "store" / "reports" / "mix.json").read_text())
    assert "Since the last version" in [section["title"] for section in page["sections"]]
    nightly.run(chats("a", 5, 30))
    assert section()[0][1]["against"] == "as @2: nothing changed"


def test_versions_are_compared_by_number(nightly):
    nightly.run(chats("a", 0, 20))
    nightly.run(chats("a", 10, 30) + chats("b", 0, 5))
    found = diff(nightly.store, "pool@1", "pool@2")
    assert (found.in_both, found.only_a, found.only_b) == (10, 10, 15)
    assert {row["source"]: (row["left"], row["came"]) for row in found.by["source"]} == {"a": (10, 10), "b": (0, 5)}
    assert found.examples.only_b[0].user.startswith(("a ", "b "))
    mixtures = diff(nightly.store, "mixture@1", "mix@2")
    (last,) = [entry.report for entry in versions.log(nightly.store, "mixture") if entry.run_id == 2]
    assert (mixtures.only_b, mixtures.only_a) == (last.came, last.left)
    assert (mixtures.a.name, mixtures.b.name) == ("mix@1", "mix@2")


def test_a_reference_that_is_not_clear_is_refused(nightly):
    nightly.run(chats("a", 0, 20))
    nightly.run(chats("a", 0, 20), name="other")
    store = nightly.store
    assert versions.find(store, "other@1").kind == "mixture"
    assert str(versions.find(store, "pool:other@1")) == "pool:other@1"
    with pytest.raises(InputError, match=r"'pool@1' is any of several; say pool:mix@1, pool:other@1"):
        versions.find(store, "pool@1")
    with pytest.raises(InputError, match=r"names nothing .*mixture:mix, mixture:other, pool:mix, pool:other"):
        versions.find(store, "none@1")
    with pytest.raises(InputError, match=r"mixture 'mix' has versions 1 to 1, no 7"):
        selections.get(store, "mix@7")
    with pytest.raises(InputError, match="is a pool, not a selection"):
        selections.get(store, "pool:mix@1")
    digest = selections.get(store, "mix").digest
    assert selections.get(store, f"mix@{digest[:12]}").digest == digest


def test_an_old_version_is_checked_out_byte_for_byte(nightly, tmp_path):
    """After later runs had another pool, other names and licences of the same sources, and another recipe."""
    target = tmp_path / "val.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in chats("t", 0, 4)), "utf-8")
    chosen = {"targets": {"t": {"val": {"path": str(target)}}}, "select": {"method": "bm25", "examples": 6}}
    selected = []

    def run(*arguments, **more):
        result = nightly.run(*arguments, **chosen, **more)
        selected.append(content(nightly.folder / "store" / "exports" / "mix-t"))
        return result

    run(chats("a", 0, 20), licence="apache-2.0")
    run([row | {"source": "renamed"} for row in chats("a", 0, 20)], licence="mit")
    run(chats("a", 0, 30), mix={"examples": 8, "repeat": 2}, export={"format": "jsonl"}, seed=3)
    run(chats("b", 0, 9))
    then = [content(folder) for folder in nightly.exported]
    assert len({json.loads(files["manifest.json"])["key"] for files in then}) == 4
    for number, (mixture, selection) in enumerate(zip(then, selected, strict=True), 1):
        made = checkout(nightly.store, f"mixture@{number}", tmp_path / f"out-{number}")
        assert made.as_then
        assert content(tmp_path / f"out-{number}") == mixture
        of_selection = checkout(nightly.store, f"mix-t@{number}")
        assert of_selection.folder == str(nightly.folder / "store" / "exports" / f"mix-t@{number}")
        assert content(nightly.folder / "store" / "exports" / f"mix-t@{number}") == selection
    assert content(nightly.folder / "store" / "exports" / "mix") == then[-1], "the newest export stays where it is"
    again = checkout(nightly.store, "mixture@1", tmp_path / "out-1")
    assert again.manifest == checkout(nightly.store, "mixture:mix@1", tmp_path / "out-1").manifest


def test_a_check_out_that_would_differ_is_refused(nightly, tmp_path):
    nightly.run(chats("a", 0, 20))
    nightly.run(chats("a", 0, 30))
    with nightly.store.catalog.write() as db:  # its table of scores was damaged and dropped
        db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=1")
    with pytest.raises(InputError, match=r"mix@1 does not come out as its run exported it: something .* changed"):
        checkout(nightly.store, "mix@1", tmp_path / "out")
    assert not list(tmp_path.glob("*out*")), "nothing is left of it"
    with nightly.store.catalog.write() as db:
        db.execute('UPDATE run_version SET made_by=replace(made_by, \'"pyarrow":"\', \'"pyarrow":"1\')')
    with pytest.raises(InputError, match=r"it was written with gradsift .*, pyarrow 1.*check it out where that"):
        checkout(nightly.store, "mix@2", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a gradsift export"):
        checkout(nightly.store, "mix@2", tmp_path / "mine")


def test_a_name_that_is_a_path_is_no_folder(nightly):
    """A forged store may not make a check-out write elsewhere."""
    nightly.run(chats("a", 0, 20))
    versions.log(nightly.store)
    with nightly.store.catalog.write() as db:
        db.execute("PRAGMA defer_foreign_keys=ON")
        for table in ("version", "run_version"):
            db.execute(f"UPDATE {table} SET name='../../out' WHERE kind='mixture'")
    with pytest.raises(InputError, match="no name of a folder; give one with --out"):
        checkout(nightly.store, "mixture@1")
    assert not list(nightly.folder.glob("out*"))


def test_what_a_later_selection_or_mixture_made_has_versions(nightly, tmp_path):
    nightly.run(chats("a", 0, 20))
    remix(nightly.store, {"examples": 5}, name="few")
    entry = versions.log(nightly.store, "few")[0]
    assert (entry.report.version, entry.report.rows, entry.export) == ("few@1", 5, None)
    assert not checkout(nightly.store, "few@1", tmp_path / "few").as_then, "its run exported nothing"
    newest = versions.log(nightly.store, "pool")[0]
    assert (newest.run_id, newest.report.version, newest.report.new) == (2, "pool@1", False)


def test_an_export_by_number_has_the_recipe_of_that_version(nightly):
    """Also where a later run made the same rows under another recipe."""
    for kind in ("parquet", "jsonl"):
        nightly.run(chats("a", 0, 20), export={"format": kind})
    first, second = (selections.get(nightly.store, f"mix@{number}") for number in (1, 2))
    assert first.digest == second.digest
    for number, kind in ((1, "parquet"), (2, "jsonl")):
        folder = nightly.folder / f"by-number-{number}"
        gradsift("export", f"mix@{number}", folder, "--store", nightly.folder / "store")
        assert [path.suffix for path in (folder / "data").iterdir()] == [f".{kind}"]


def test_numbers_are_given_once_to_stores_that_have_none(nightly):
    """As in a store of an older version, and after a kill between a run's end and its numbers."""
    for count in (20, 20, 30):
        nightly.run(chats("a", 0, count))
    before = [asdict(entry) for entry in versions.log(nightly.store)]
    with nightly.store.catalog.write() as db:
        for text in ("DELETE FROM run_version", "DELETE FROM version", "UPDATE run SET numbered=0"):
            db.execute(text)
        db.execute("UPDATE run SET summary=replace(summary, '\"selection_id\"', '\"unknown_then\"')")
    again = [asdict(entry) for entry in versions.log(nightly.store)]
    for entries in (before, again):
        for entry in entries:
            entry.pop("present")  # the first run's export is another's by now
    assert again == before
    assert again[0]["report"]["version"] == "pool@2"


def forget(store, example, why="1 example was deleted"):
    """What a deletion does to versions, by hand."""
    with store.catalog.write() as db:
        db.execute(
            "UPDATE dataset SET void=? WHERE dataset_id IN (SELECT dataset_id FROM dataset_member WHERE example_id=?)",
            (why, example),
        )
        db.execute(
            "UPDATE selection SET void=? WHERE selection_id IN "
            "(SELECT selection_id FROM selection_item WHERE example_id=?)",
            (why, example),
        )
        db.execute("DELETE FROM selection_item WHERE example_id=?", (example,))
        db.execute("DELETE FROM example WHERE example_id=?", (example,))


def test_a_version_that_lost_an_example_is_void_and_what_is_left_stands_for_it(nightly, tmp_path):
    nightly.run(chats("a", 0, 20))
    store = nightly.store
    chosen = selections.get(store, "mix")
    gone = chosen.example_ids[0]
    forget(store, gone)
    with pytest.raises(InputError, match="no selection 'mix'"):
        selections.get(store, "mix")
    with pytest.raises(InputError, match=r"mix@1 is void: 1 example was deleted; run its recipe again"):
        checkout(store, "mix@1", tmp_path / "out")
    picks = selections.Picks(chosen.example_ids[1:], chosen.scores[1:], None, chosen.copies[1:])
    left = selections.save(store, "mix", "mixture", {**selections.spec_of(store, chosen), "left": 1}, picks)
    assert selections.get(store, "mix").digest == left.digest
    assert selections.newest(store) == [selections.get(store, "mix")]
    assert runs.recipe_of(store, left).resolved["name"] == "mix"
    material = material_of(store, runs.last_run(store))
    assert len(material.pool.example_ids) == 19
    assert gone not in material.pool.example_ids
    for reference, instead in (("mixture@1", "mix@2"), ("pool@1", "pool:mix@2")):
        with pytest.raises(InputError, match=rf"is void: 1 example was deleted; {instead} came after it"):
            versions.usable(store, versions.find(store, reference))
    second = versions.find(store, "mixture@2")
    assert (second.content, second.rows) == (left.selection_id, 7)
    states = {entry.report.version: entry.state for entry in versions.log(store)}
    assert states == {
        "pool@1": "void: 1 example was deleted", "pool@2": "", "mix@1": "void: 1 example was deleted", "mix@2": ""
    }  # fmt: skip
    assert not checkout(store, "mixture@2", tmp_path / "out").as_then
    write_report(store, tmp_path / "report.html")
    assert remix(store, {"examples": 19}, name="rest").examples == 19
    rerun = nightly.run(chats("a", 0, 20))  # asked for: its sources still hold the row
    assert gone in material_of(store, runs.last_run(store)).pool.example_ids
    assert selections.get(store, "mix").digest == chosen.digest
    assert shown(rerun)["pool@3"] == (True, 20, 2, 1, 0)


@pytest.mark.slow
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])  # to make one smaller takes minutes
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(12, 24), st.sampled_from([6, 9])), min_size=2, max_size=6),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_kept_version_checks_out_as_before_a_pruning(tmp_path_factory, history, keep, with_examples):
    nightly = Nightly(tmp_path_factory.mktemp("prune") / "nightly")
    store, out = nightly.store, nightly.folder / "out"
    then = {}
    for first, count, examples_wanted in history:
        result = nightly.run(chats("a", first, first + count), mix={"examples": examples_wanted})
        then.setdefault(result.versions[-1].version, content(nightly.exported[-1]))
    planned = prune.prune(store, keep, examples=with_examples, dry_run=True)
    assert [checkout(store, name, out / f"before-{name}").as_then for name in then] == [True] * len(then)
    done = prune.prune(store, keep, examples=with_examples)
    assert done == planned
    kept = [name for name in done.kept if not name.startswith("pool")]
    assert all(versions.find(store, name).content for name in kept)
    assert kept == list(then)[-keep:]
    for name, files_then in then.items():
        if versions.find(store, name).content is not None:  # kept, or the same as a kept one
            checkout(store, name, out / f"after-{name}")
            assert content(out / f"after-{name}") == files_then
        else:
            with pytest.raises(InputError, match="was pruned"):
                checkout(store, name, out / f"after-{name}")
    assert verify(store) == []
    for name in done.kept:
        if name.startswith("pool"):
            version = versions.find(store, name)
            assert len(examples.get_dataset(store, versions.usable(store, version)).example_ids) == version.rows
    assert prune.prune(store, keep, examples=with_examples).dropped == [], "a second time there is nothing left to drop"
    again = nightly.run(chats("a", 0, 30))
    assert again.versions[-1].rows == 8
    store.close()


def test_a_killed_pruning_goes_on(nightly, monkeypatch):
    for count in (20, 22, 24):
        nightly.run(chats("a", 0, count))
    store = nightly.store
    scores = nightly.folder / "store" / "scores"
    assert len(list(scores.iterdir())) == 3

    def stop(step):
        if step == "swept":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        prune.prune(store, 1)
    monkeypatch.setattr(files, "failpoint", lambda _step: None)
    assert len(list(scores.iterdir())) == 2, "one of two files is gone, and the catalog knows of the other"
    assert prune.prune(store, 1).dropped == []
    assert len(list(scores.iterdir())) == 1
    assert checkout(store, "mixture@3", nightly.folder / "out").as_then


def test_a_pruning_that_may_not_be_is_refused(nightly):
    nightly.run(chats("a", 0, 20))
    with pytest.raises(InputError, match="at least 1"):
        prune.prune(nightly.store, 0)
    holder = "elsewhere:1:1:1"
    assert leases.acquire(nightly.store, "run", holder)
    with pytest.raises(BusyError, match="a run is working"):
        prune.prune(nightly.store, 1)
    leases.release(nightly.store, "run", holder)


def test_what_an_interrupted_run_has_read_stays(nightly):
    nightly.run(chats("a", 0, 20))
    nightly.run(chats("a", 0, 21))
    recipes = runs.last_run(nightly.store).recipes
    runs.start(nightly.store, "mix", recipes)
    more = nightly.folder / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in chats("new", 0, 5)), "utf-8")
    from gradsift.pipelines.pool.ingest import ingest
    from gradsift.pipelines.recipe import Source

    read, _ = ingest(nightly.store, "pool", "elsewhere", [Source(path=str(more))])
    prune.prune(nightly.store, 1, examples=True)
    assert examples.get_dataset(nightly.store, read.dataset_id).example_ids == read.example_ids


def test_checkpoints_and_rows_that_nothing_kept_looks_at_go(copy):
    """A second warm-up, and rows at it, that no run which is kept has."""
    run = runs.last_run(copy)
    (point, *_) = [checkpoints.by_digest(copy, features.space_spec(copy, row.space_id)["checkpoint"])
                   for row in run.result.pool_rows]  # fmt: skip
    state = checkpoints.load(copy, point)
    moved = checkpoints.CheckpointState({k: v + 1 for k, v in state.adapter.items()}, state.exp_avg, state.exp_avg_sq)
    checkpoints.commit(copy, "old warm-up", 0, 1, 1.0, moved)
    (old,) = checkpoints.listed(copy, "old warm-up")
    spec = features.space_spec(copy, run.result.pool_rows[0].space_id)
    space = features.define_space(copy, spec | {"checkpoint": old.digest})
    ids = features.ids_with_rows(copy, run.result.pool_rows[0].space_id)
    block = features.read_all(copy, run.result.pool_rows[0].space_id, ids)
    features.commit_rows(copy, space, block, {})
    chosen = selections.get(copy, "small-sql")
    counts = {row.space_id: len(features.ids_with_rows(copy, row.space_id)) for row in run.result.rows}

    def dropped(**options):
        return {line.what: line.count for line in prune.prune(copy, 1, **options).dropped}

    assert dropped(dry_run=True) == {"checkpoints": 1}
    assert dropped(examples=True, dry_run=True) | {"examples": 0} == {
        "checkpoints": 1, "feature rows": len(ids), "examples": 0
    }  # fmt: skip
    assert checkpoints.listed(copy, "old warm-up"), "a dry run drops nothing"
    dropped(examples=True)
    assert not checkpoints.listed(copy, "old warm-up")
    assert features.space_by_fingerprint(copy, features.space_fingerprint(copy, space)) is None
    assert {row.space_id: len(features.ids_with_rows(copy, row.space_id)) for row in run.result.rows} == counts
    assert verify(copy) == []
    (again,) = reselect(copy, {"method": "less", "examples": 12})
    assert again.examples == len(chosen.example_ids)
    assert checkout(copy, "small-sql@1").as_then
