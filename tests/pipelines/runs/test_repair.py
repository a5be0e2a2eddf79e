"""Mending a store that a real run made: every kind of file, flipped, cut and missing; what falls, and kills on the way."""

import errno
import json
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from gradsift.datastore import (
    checkpoints,
    compact,
    examples,
    features,
    files,
    forget,
    index_build,
    indexes,
    leases,
    maintenance,
    repair,
    runs,
    selections,
)
from gradsift.datastore.errors import BusyError, CorruptionError, InputError, StoreFullError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs import forget as delete
from gradsift.pipelines.runs import remake
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.runs.repair import mend
from gradsift.pipelines.runs.reselect import remix, reselect

DAMAGES = ["flipped", "cut", "missing"]


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def paths(store, kind):
    rows = store.catalog.rows("SELECT shard_id, name FROM shard WHERE kind=? ORDER BY shard_id", (kind,))
    return {row["shard_id"]: store.root / row["name"] for row in rows}


def fresh(store):
    """The store as another process would open it: what was checked before is checked again."""
    return Store(store.root)


def vectors(store):
    """{(space, example): bytes of the row} of all spaces."""
    found = {}
    for space in store.catalog.rows("SELECT space_id FROM feature_space"):
        for block in features.read(store, space["space_id"]):
            for k, name in enumerate(block.example_ids):
                found[space["space_id"], name] = (block.vectors[k].tobytes(), float(block.norm[k]))
    return found


@pytest.mark.parametrize("how", DAMAGES)
def test_every_file_of_every_kind_is_made_again_and_a_run_has_nothing_to_do(finished, copy, how):
    """All of them at once, in the order in which they are made from each other."""
    before = vectors(copy)
    digests = [point["digest"] for point in copy.catalog.rows("SELECT digest FROM checkpoint ORDER BY ordinal")]
    chosen = selections.details(copy, selections.get(copy, "small-sql"))
    texts = examples.get_messages(copy, list({name for _, name in before}))
    every = {shard: path for kind in maintenance.KINDS for shard, path in paths(copy, kind).items()}
    assert len(every) > 12
    for path in every.values():
        spoil(path, how)
    with fresh(copy) as store:
        planned = mend(store, dry_run=True)
        assert {one.state for one in planned} == {"mended", "later"}
        assert len(maintenance.verify(store)) == len(every), "a plan changes nothing"
        done = mend(store)
        assert [(one.file, one.kind, one.state, one.rows) for one in done] == [
            (one.file, one.kind, one.state, one.rows) for one in planned
        ]
        assert {one.kind for one in done} == {"examples", "features", "checkpoint", "scores"}
        assert all(one.done == "computed again: the same bytes" for one in done if one.kind == "features")
        assert maintenance.verify(store) == []
        assert mend(store) == []
        assert not maintenance.garbage(store, grace=-1)
    with fresh(copy) as store:
        assert vectors(store) == before
        assert [p["digest"] for p in store.catalog.rows("SELECT digest FROM checkpoint ORDER BY ordinal")] == digests
        assert selections.details(store, selections.get(store, "small-sql")).equals(chosen)
        assert examples.get_messages(store, list(texts)) == texts
        again = curate(parse_recipe(finished[0]), store)
        assert all(row.computed == 0 for row in again.rows)
        assert [s.digest for s in again.selections] == [s.digest for s in finished[2].selections]
        assert maintenance.verify(store) == []


def masked(copy):
    """A selection with loss masks, made from the store's rows."""
    reselect(copy, {"method": "qtuning", "fraction": 0.3}, name="pruned")
    return selections.get(copy, "pruned-sql")


def test_a_selection_with_loss_masks_is_never_exported_without_them(copy, tmp_path):
    """Its table was dropped as damaged: before this, it was exported with every token's loss."""
    chosen = masked(copy)
    table = selections.details(copy, chosen)
    recipes = runs.recipe_of(copy, chosen)
    with copy.catalog.write() as db:
        db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (chosen.selection_id,))
    with pytest.raises(CorruptionError, match=r"the loss masks of 'pruned-sql' are lost .* verify --repair"):
        export(copy, chosen, recipes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (damage,) = maintenance.verify(copy)
    assert damage.problem == "the table with the loss masks of pruned-sql is gone"
    (done,) = mend(copy)
    assert (done.state, done.done) == ("mended", "pruned-sql chosen again: the same choice")
    assert selections.details(copy, chosen).equals(table)
    manifest = json.loads((export(copy, chosen, recipes, tmp_path / "out") / "manifest.json").read_text())
    assert manifest["pruned_examples"] > 0


@pytest.mark.parametrize("how", DAMAGES)
def test_masks_that_cannot_be_made_again_void_their_selection(copy, how):
    chosen = masked(copy)
    (shard,) = copy.catalog.rows("SELECT scores_shard AS n FROM selection WHERE selection_id=?", (chosen.selection_id,))
    spoil(paths(copy, "scores")[shard["n"]], how)
    with copy.catalog.write() as db:
        db.execute("UPDATE run SET summary=replace(summary, ?, 'other')", (chosen.digest,))
    with fresh(copy) as store:
        (kept,) = mend(store)
        assert (kept.state, kept.done) == ("kept", "kept: no finished run made it")
        assert kept.falls == ("selection pruned-sql@1",)
        assert selections.get(store, "pruned-sql") == chosen
        (gone,) = mend(store, accept_loss=True)
        assert gone.state == "lost"
        with pytest.raises(InputError, match="no selection 'pruned-sql'"):
            selections.get(store, "pruned-sql")
        assert maintenance.verify(store) == []
    with fresh(copy) as store:
        assert masked(store).digest == chosen.digest, "asked for again, it is chosen again"


def test_a_mixture_never_loses_its_shares_in_silence(copy):
    """What was asked of it and what came out is in its table alone: before this, runs found it again without, as a
    mixture of nothing asked for, and exported it without its parts."""
    mix = {"examples": 12, "parts": [{"target": "sql", "share": 0.5}, {"name": "rest"}]}
    remix(copy, mix, name="mixed")
    chosen = selections.get(copy, "mixed")
    plan = selections.plan(copy, chosen)

    def forget_table():
        with copy.catalog.write() as db:
            db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (chosen.selection_id,))

    forget_table()
    (damage,) = maintenance.verify(copy)
    assert damage.problem == "the table with the shares of mixed is gone"
    (done,) = mend(copy)
    assert (done.state, done.done) == ("mended", "mixed chosen again: the same choice")
    assert selections.plan(copy, chosen) == plan
    forget_table()
    with copy.catalog.write() as db:
        db.execute("UPDATE run SET summary=replace(summary, ?, 'other')", (chosen.digest,))
    (kept,) = mend(copy)
    assert (kept.state, kept.falls) == ("kept", ("mixture mixed@1",))
    (gone,) = mend(copy, accept_loss=True)
    assert (gone.state, gone.falls) == ("lost", kept.falls)
    with pytest.raises(InputError, match="no selection 'mixed'"):
        selections.get(copy, "mixed")
    assert maintenance.verify(copy) == []
    assert remix(copy, mix, name="mixed").table == plan.table, "asked for again, it is made again"


@pytest.mark.parametrize("of", ["pool", "target"])
def test_nothing_is_chosen_in_silence_from_the_rows_that_are_left(copy, tmp_path, of):
    """Rows that a repair left to the next run: before this, `--fraction 1.0` took what there was."""
    last = runs.last_run(copy).result
    spaces = {row.space_id for row in last.rows if (row.role == "target") == (of == "target")}
    shards = [unit["shard_id"] for space in spaces for unit in units_in(copy, space)]
    whole = reselect(copy, {"method": "less", "fraction": 1.0}, name="whole")[0].examples
    without_model(copy, tmp_path)
    spoil(paths(copy, "features")[min(shards)], "cut")
    with fresh(copy) as store:
        (done,) = mend(store)
        assert done.state == "later"
        planned = count_planned(store)
        what = r"target 'sql'" if of == "target" else r"pool 'small'"
        with pytest.raises(InputError, match=rf"{what}: rows of {planned} of its examples .*`gradsift run`"):
            reselect(store, {"method": "less", "fraction": 1.0}, name="fewer")
        assert 0 < planned <= whole


def units_in(store, space):
    return store.catalog.rows("SELECT shard_id FROM unit WHERE space_id=? AND shard_id IS NOT NULL", (space,))


def count_planned(store):
    return store.catalog.one("SELECT count(DISTINCT example_id) AS n FROM feature_row WHERE status='planned'")["n"]


def test_a_run_that_a_damaged_shard_of_examples_stops_goes_on_when_it_is_repaired(finished, copy):
    shard, _ = pool_shard(copy)
    spoil(paths(copy, "examples")[shard], "flipped")
    recipe = parse_recipe(finished[0] | {"select": {"examples": 13, "method": "bm25"}, "validate": None})
    with fresh(copy) as store:
        for _ in range(2):
            with pytest.raises(CorruptionError, match=rf"shard {shard}.*verify"):
                curate(recipe, store)
        assert [one.state for one in mend(store)] == ["mended"]
        assert curate(recipe, store).selections[0].examples == 13


@pytest.mark.parametrize("how", DAMAGES)
def test_embeddings_mixtures_indexes_and_merged_shards_are_made_again(copy, encoder_dir, how):
    """What a run of the small recipe does not have, after a compaction: one shard, many units."""
    reselect(copy, {"method": "embed", "encoder": str(encoder_dir), "examples": 9}, name="embedded")
    remix(copy, {"examples": 40, "parts": [{"target": "sql", "share": 0.5}, {"name": "rest"}]}, name="mixed")
    space = runs.last_run(copy).result.pool_rows[-1].space_id
    index = index_build.build(copy, space, index_build.Wish("flat"))
    compact.compact(copy, grace=0)
    index = index_build.refresh(copy, index)
    before, mixed = vectors(copy), selections.get(copy, "mixed")
    plan, table = selections.plan(copy, mixed), selections.details(copy, mixed)
    every = {shard: path for kind in maintenance.KINDS for shard, path in paths(copy, kind).items()}
    assert max(len(units) for units in unit_counts(copy).values()) > 2
    for path in [*every.values(), copy.root / index.name]:
        spoil(path, how)
    with fresh(copy) as store:
        done = mend(store)
        assert {one.state for one in done} == {"mended", "later"}
        assert [one.file for one in done if one.kind == "indexes"] == [index.name]
        assert maintenance.verify(store) == []
        assert vectors(store) == before
        assert (selections.plan(store, mixed), selections.details(store, mixed)) == (plan, table)
        assert not maintenance.garbage(store, grace=-1)


def unit_counts(store):
    found = {}
    for row in store.catalog.rows("SELECT unit_id, shard_id FROM unit WHERE shard_id IS NOT NULL"):
        found.setdefault(row["shard_id"], []).append(row["unit_id"])
    return found


def own_sources(copy, tmp_path, keep=lambda number: True):
    """Make the store's runs say that their pool was read from a file of this test, with some of its lines."""
    recipe, *_ = runs.recorded(copy)
    there = Path(recipe["pool"][0]["path"])
    lines = there.read_bytes().splitlines(keepends=True)
    own = tmp_path / "own.jsonl"
    own.write_bytes(b"".join(line for number, line in enumerate(lines) if keep(number)))
    with copy.catalog.write() as db:
        db.execute("UPDATE run SET recipe=replace(recipe, ?, ?)", (str(there), str(own)))
        db.execute("UPDATE run SET written=recipe")
        db.execute("UPDATE origin SET file=? WHERE file=?", (str(own), str(there)))
    return own


def pool_shard(copy):
    """The shard of examples with the pool's texts."""
    pool = material_of(copy, runs.last_run(copy)).pool
    shards = examples.shards_of(copy, pool.example_ids)
    (largest,) = [s for s in shards if s == min(shards)]
    return largest, pool


def test_texts_are_found_wherever_they_stand_in_their_sources(copy, tmp_path):
    """Another order, other lines between: a row counts by its digest."""
    own = own_sources(copy, tmp_path)
    shard, pool = pool_shard(copy)
    texts = examples.get_messages(copy, pool.example_ids)
    lines = own.read_bytes().splitlines(keepends=True)
    own.write_bytes(b"not JSON\n" + b"".join(reversed(lines)))
    spoil(paths(copy, "examples")[shard], "cut")
    with fresh(copy) as store:
        assert [(one.kind, one.state) for one in mend(store)] == [("examples", "mended")]
        assert examples.get_messages(store, pool.example_ids) == texts


def test_texts_that_are_gone_are_kept_until_their_loss_is_accepted(finished, copy, tmp_path):
    own_sources(copy, tmp_path, keep=lambda number: number % 3)
    shard, pool = pool_shard(copy)
    (unit_shard, *_), name = (paths(copy, "features"), "small-sql")
    for kind, number in (("examples", shard), ("features", unit_shard)):
        spoil(paths(copy, kind)[number], "missing")
    with fresh(copy) as store:
        counts = {table: count(store, table) for table in ("example", "feature_row", "selection_item", "membership")}
        kept = {one.kind: one for one in mend(store)}
        assert kept["examples"].state == "kept"
        assert "rows are no longer in their sources (the first: " in kept["examples"].done
        lost = kept["examples"].lost
        assert lost > 10
        falls = " ".join(kept["examples"].falls)
        for word in ("pool small", "feature rows", f"selection {name}@1", "exports/small-sql"):
            assert word in falls
        assert counts == {table: count(store, table) for table in counts}, "nothing was changed"
        planned = mend(store, accept_loss=True, dry_run=True)
        assert counts == {table: count(store, table) for table in counts}, "nor by a plan"
        done = mend(store, accept_loss=True)
        assert [(one.state, one.lost, one.rows, one.falls) for one in done] == [
            (one.state, one.lost, one.rows, one.falls) for one in planned
        ]
        assert done[0].state == "lost"
        assert maintenance.verify(store) == []
        assert count(store, "example") == counts["example"] - lost
        with pytest.raises(InputError, match="no selection 'small-sql'"):
            selections.get(store, name)
        left = material_of(store, runs.last_run(store)).pool
        assert 0 < len(left.example_ids) < len(pool.example_ids)
        assert len(examples.get_messages(store, left.example_ids)) == len(left.example_ids)
        recipe = parse_recipe(runs.recorded(store)[0] | {"validate": None})
        again = curate(recipe, store)
        assert all(row.computed == 0 for row in again.rows)
        assert again.selections[0].examples == 12
        assert maintenance.verify(store) == []


OF_A_KIND = ("examples", "values", "checkpoint", "features", "table", "masks", "index")


def spoil_kinds(store, kinds, *, rows=None):
    """Spoil all files of these kinds (so many of feature rows) but the masks' table, which the catalog lacks then."""
    chosen, values = selections.get(store, "pruned-sql"), store.catalog.rows("SELECT shard_id FROM attribute")
    scores = paths(store, "scores")
    of_kind = {kind: list(paths(store, kind).values()) for kind in ("examples", "checkpoint", "features")}
    of_kind["values"] = [scores.pop(row["shard_id"]) for row in values]
    of_kind["table"] = list(scores.values())
    of_kind["index"] = [store.root / index.name for index in indexes.all_of(store)]
    of_kind["features"] = of_kind["features"][:rows]
    for kind in kinds:
        for path in of_kind.get(kind, ()):
            spoil(path, "missing")
    if "masks" in kinds:
        with store.catalog.write() as db:
            db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (chosen.selection_id,))


@pytest.fixture(scope="module")
def lossy(finished, tmp_path_factory):
    """A store with every kind of file, whose sources lack some texts now."""
    folder = tmp_path_factory.mktemp("lossy")
    shutil.copytree(finished[1], folder / "store", ignore=shutil.ignore_patterns("kept"))  # what other tests asked for
    with Store(folder / "store") as store:
        masked(store)
        for space in {row.space_id for row in runs.last_run(store).result.pool_rows}:
            index_build.build(store, space, index_build.Wish("flat"))
        own_sources(store, folder, keep=lambda number: number > 5)
    return folder / "store"


@pytest.mark.parametrize("pair", list(combinations(OF_A_KIND, 2)), ids="-".join)
def test_every_two_kinds_of_damage_are_mended_though_one_falls_with_the_other(lossy, tmp_path, pair):
    shutil.copytree(lossy, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        spoil_kinds(store, pair, rows=2)
    with Store(tmp_path / "copy") as store:
        planned, done = mend(store, accept_loss=True, dry_run=True), mend(store, accept_loss=True)
        assert as_planned(done) == as_planned(planned)
        assert not [one for one in done if one.state == "kept"]
        assert maintenance.verify(store) == []
        assert mend(store) == []
        assert not maintenance.garbage(store, grace=-1)


def as_planned(done):
    return [(one.file, one.kind, one.state, one.rows, one.lost, one.falls) for one in done]


def test_the_plan_of_a_loss_says_what_is_lost_with_it(lossy, tmp_path):
    """All kinds at once: without texts no checkpoint is trained, without checkpoints no row is computed, without rows
    nothing is chosen, and no index built."""
    shutil.copytree(lossy, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        spoil_kinds(store, OF_A_KIND)
    with Store(tmp_path / "copy") as store:
        planned, done = mend(store, accept_loss=True, dry_run=True), mend(store, accept_loss=True)
        assert as_planned(done) == as_planned(planned)
        assert {one.state for one in done if one.kind == "checkpoint"} == {"lost"}
        assert {one.state for one in done if one.kind == "features"} == {"lost"}
        assert maintenance.verify(store) == []


def test_a_full_disk_loses_nothing(copy):
    """Also where a loss would be accepted."""
    every = [path for kind in maintenance.KINDS for path in paths(copy, kind).values()]
    for path in every:
        spoil(path, "cut")

    def fail(step):
        if step == "written":
            raise OSError(errno.ENOSPC, "no space left")

    with fresh(copy) as store:
        damaged, rows = maintenance.verify(store), count(store, "feature_row")
        files.failpoint = fail
        with pytest.raises(StoreFullError, match="Nothing committed is lost"):
            mend(store, accept_loss=True)
        files.failpoint = lambda _step: None
        assert maintenance.verify(store) == damaged
        assert count(store, "feature_row") == rows


def test_sources_that_cannot_be_read_now_are_named(copy, tmp_path):
    own = own_sources(copy, tmp_path)
    own.rename(tmp_path / "elsewhere.jsonl")
    shard, _ = pool_shard(copy)
    spoil(paths(copy, "examples")[shard], "missing")
    with fresh(copy) as store:
        kept = next(one for one in mend(store) if one.kind == "examples")
        assert (kept.state, kept.waits) == ("kept", True)
        assert (
            f"rows are in sources that cannot be read now (the first: {kept.done.split('first: ')[1][:8]}" in kept.done
        )
        assert f"{own}; repair again when they are back, or `gradsift delete`" in kept.done
        (tmp_path / "elsewhere.jsonl").rename(own)
        assert [one.state for one in mend(store)] == ["mended"]


def test_what_is_only_out_of_reach_is_never_lost(copy, tmp_path):
    """A disk that is not mounted: neither texts nor what is made from them leave, though their loss was accepted."""
    own = own_sources(copy, tmp_path)
    own.rename(tmp_path / "elsewhere.jsonl")
    shard, _ = pool_shard(copy)
    every = [paths(copy, "examples")[shard], *paths(copy, "checkpoint").values(), *paths(copy, "features").values()]
    every += [path for number, path in paths(copy, "scores").items() if repair.selection_of(copy, number)]
    for path in every:
        spoil(path, "missing")
    tables = ("example", "feature_row", "checkpoint", "selection_item", "selection", "membership")
    with fresh(copy) as store:
        before = {table: count(store, table) for table in tables}
        planned = mend(store, accept_loss=True, dry_run=True)
        done = mend(store, accept_loss=True)
        assert [(one.file, one.state, one.waits) for one in done[:3]] == [
            (one.file, one.state, one.waits) for one in planned[:3]
        ]
        assert {one.state for one in done} <= {"kept", "mended"}
        assert {one.kind for one in done if one.waits} == {"examples", "checkpoint", "features", "scores"}
        assert before == {table: count(store, table) for table in tables}
        (tmp_path / "elsewhere.jsonl").rename(own)
        assert {one.state for one in mend(store)} == {"mended"}
        assert maintenance.verify(store) == []


def test_masks_whose_model_is_away_are_never_lost(copy, tmp_path):
    """The rows that they were chosen by are damaged too, and planned again: it takes the model, then a run."""
    chosen = masked(copy)
    there = without_model(copy, tmp_path)
    (row,) = copy.catalog.rows("SELECT scores_shard AS n FROM selection WHERE selection_id=?", (chosen.selection_id,))
    for path in [paths(copy, "scores")[row["n"]], *paths(copy, "features").values()]:
        spoil(path, "cut")
    with fresh(copy) as store:
        *rows, kept = mend(store, accept_loss=True)
        assert {one.state for one in rows} == {"later"}
        assert (kept.state, kept.waits, kept.falls) == ("kept", True, ("selection pruned-sql@1",))
        assert "repair again when its model is back" in kept.done
        shutil.copytree(there, tmp_path / "away")
        (kept,) = mend(store, accept_loss=True)
        assert (kept.state, kept.waits) == ("kept", True)
        assert "`gradsift run` computes them" in kept.done
        assert selections.get(store, "pruned-sql") == chosen


def count(store, table):
    return store.catalog.one(f"SELECT count(*) AS n FROM {table}")["n"]


def test_a_deletion_that_a_damaged_file_stopped_goes_on_and_nothing_of_it_comes_back(copy, tmp_path):
    """Deleted from the catalog, and not yet out of its shard when that was damaged: its source still has it."""
    own_sources(copy, tmp_path)
    shard, pool = pool_shard(copy)
    gone, *others = pool.example_ids
    forget.begin(copy, forget.Picked([gone]))
    spoil(paths(copy, "examples")[shard], "missing")
    with fresh(copy) as store:
        with pytest.raises(CorruptionError):
            delete.finish(store)
        done = mend(store)
        assert (done[0].kind, done[0].state, done[0].lost) == ("examples", "mended", 0)
        assert not forget.pending(store)
        assert examples.get_messages(store, pool.example_ids).keys() == set(others)
        assert maintenance.verify(store) == []


@pytest.mark.parametrize("stays", [False, True], ids=["finished", "stopped"])
def test_a_damaged_index_does_not_stop_the_end_of_a_deletion(copy, tmp_path, stays):
    """No index is built while rows of deleted examples are in files: the deletion ends first, or the index goes."""
    own = own_sources(copy, tmp_path)
    shard, pool = pool_shard(copy)
    of_pool = features.ids_with_rows(copy, runs.last_run(copy).result.pool_rows[-1].space_id)
    space = next(row.space_id for row in runs.last_run(copy).result.rows if row.role == "target")
    gone = next(name for name in of_pool if name not in features.ids_with_rows(copy, space))
    index = index_build.build(copy, space, index_build.Wish("flat"))
    spoil(copy.root / index.name, "flipped")
    spoil(paths(copy, "examples")[shard], "missing")
    forget.begin(copy, forget.Picked([gone]))
    if stays:
        own.rename(tmp_path / "elsewhere.jsonl")
    with fresh(copy) as store:
        planned, done = mend(store, dry_run=True), mend(store)
        assert [(one.kind, one.state) for one in done] == [(one.kind, one.state) for one in planned]
        assert [one.state for one in done] == (["kept", "later"] if stays else ["mended", "mended"])
        assert forget.pending(store) is stays
        if stays:
            (tmp_path / "elsewhere.jsonl").rename(own)
            assert [one.state for one in mend(store)] == ["mended"]
            assert not forget.pending(store)
        assert maintenance.verify(store) == []


def without_model(copy, tmp_path):
    """Make the store's runs name a model that is not there."""
    recipe, *_ = runs.recorded(copy)
    there = recipe["model"]["path"]
    with copy.catalog.write() as db:
        db.execute("UPDATE run SET recipe=replace(recipe, ?, ?)", (there, str(tmp_path / "away")))
    return there


def test_rows_are_planned_again_where_the_model_is_away(finished, copy, tmp_path):
    without_model(copy, tmp_path)
    shard = max(paths(copy, "features"))
    spoil(paths(copy, "features")[shard], "cut")
    with fresh(copy) as store:
        (done,) = mend(store)
        assert (done.state, done.rows) == ("later", 0)
        assert "there is no model folder" in done.done
        assert "rows planned again, for `gradsift run`" in done.done
        assert maintenance.verify(store) == []
        again = curate(parse_recipe(finished[0]), store)
        assert f"{sum(row.computed for row in again.rows)} rows planned again" in done.done
        assert maintenance.verify(store) == []


def test_a_checkpoint_that_cannot_be_trained_again_waits_for_its_model(finished, copy, tmp_path):
    there = without_model(copy, tmp_path)
    spoil(list(paths(copy, "checkpoint").values())[1], "flipped")
    with fresh(copy) as store:
        (kept,) = mend(store)
        (again,) = mend(store, accept_loss=True)
        assert (again.state, again.waits, again.falls) == ("kept", True, kept.falls)
        assert count(store, "checkpoint") == 2
        assert (kept.state, kept.waits) == ("kept", True)
        assert "repair again when its model is back: " in kept.done
        assert [fall.split(" (")[0].rstrip("0123456789 ") for fall in kept.falls] == ["checkpoint"] + 3 * [
            "feature space"
        ]
        shutil.copytree(there, tmp_path / "away")
        assert [one.state for one in mend(store)] == ["mended"]


def test_a_checkpoint_that_comes_out_otherwise_is_kept_until_its_loss_is_accepted(finished, copy, monkeypatch):
    """As on other hardware: the later ones go with it, their rows stay, and a run trains and computes again."""
    first, second = paths(copy, "checkpoint").values()
    spoil(first, "cut")
    train = remake.checkpoint

    def otherwise(*args):
        made = train(*args)()
        moved = {name: value + 1e-7 for name, value in made.adapter.items()}
        return lambda: checkpoints.CheckpointState(moved, made.exp_avg, made.exp_avg_sq)

    monkeypatch.setattr(remake, "checkpoint", otherwise)
    with fresh(copy) as store:
        (kept,) = mend(store)
        assert kept.state == "kept"
        assert "its tensors are others" in kept.done
        assert {"checkpoint 0", "checkpoint 1"} <= set(kept.falls)
        assert second.exists()
        rows = count(store, "feature_row")
        (gone,) = mend(store, accept_loss=True)
        assert (gone.state, gone.falls) == ("lost", kept.falls)
        assert count(store, "checkpoint") == 0
        assert not second.exists()
        assert count(store, "feature_row") == rows
        assert maintenance.verify(store) == []
        again = curate(parse_recipe(finished[0]), store)
        assert [s.digest for s in again.selections] == [s.digest for s in finished[2].selections]


def test_what_waits_for_something_that_was_kept_is_kept(copy, tmp_path):
    """No row is computed from a damaged text."""
    own_sources(copy, tmp_path, keep=lambda number: number > 5)
    shard, _ = pool_shard(copy)
    spoil(paths(copy, "examples")[shard], "missing")
    for path in [*paths(copy, "features").values(), *paths(copy, "checkpoint").values()]:
        spoil(path, "missing")
    with fresh(copy) as store:
        done = mend(store)
        assert [one.state for one in done if one.kind == "checkpoint"] == ["kept", "kept"]
        assert {one.done for one in done if one.kind == "features"} == {
            "kept: what they are computed from is damaged, too"
        }
        assert [(one.file, one.state) for one in mend(store, dry_run=True)] == [(one.file, one.state) for one in done]


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_report_is_written_again(copy, how):
    page = copy.root / "reports" / "small.html"
    spoil(page, how)
    (done,) = mend(copy, dry_run=True)
    assert (done.kind, done.state, done.is_damage) == ("report", "mended", False)
    assert done.problem == {"missing": "missing: small.html", "cut": "cut"}[how]
    assert maintenance.verify(copy) == []
    mend(copy)
    assert page.read_text().rstrip().endswith("</html>")
    assert mend(copy) == []


def test_a_repair_waits_for_no_run_and_changes_nothing_beside_one(copy):
    spoil(max(paths(copy, "features").values()), "cut")
    holder = "elsewhere:1:1:1"
    assert leases.acquire(copy, leases.RUN, holder)
    assert len(mend(copy, dry_run=True)) == 1, "a plan may look"
    with pytest.raises(BusyError, match="repair it when it has ended"):
        mend(copy)
    assert len(maintenance.verify(copy)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["written", "synced", "renamed", "recorded", "committed", "swept"])
def test_a_killed_repair_goes_on(finished, copy, step):
    """Killed at this step of its first commit, the next of its second, and so on, until one comes to its end."""
    before = vectors(copy)
    for path in [path for kind in maintenance.KINDS for path in paths(copy, kind).values()]:
        spoil(path, "flipped")
    killed = 0
    while True:
        reached = []

        def stop(now, reached=reached, last=killed + 1):
            reached.extend([now] if now == step else [])
            if len(reached) == last:
                raise KeyboardInterrupt

        with fresh(copy) as store:
            left = len(maintenance.verify(store))
            files.failpoint = stop
            try:
                mend(store)
            except KeyboardInterrupt:
                killed += 1
            else:
                break
            finally:
                files.failpoint = lambda _step: None
            assert left - len(maintenance.verify(store)) >= killed - 2, "what was mended before the kill stays mended"
    assert killed > 3
    with fresh(copy) as store:
        assert maintenance.verify(store) == []
        assert vectors(store) == before
        maintenance.collect(store, grace=-1)
        for kind in ("examples", "features", "checkpoint", "scores"):
            assert set((store.root / kind).iterdir()) == set(paths(store, kind).values())
        again = curate(parse_recipe(finished[0]), store)
        assert all(row.computed == 0 for row in again.rows)
