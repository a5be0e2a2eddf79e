"""Mending a store that a real run made: every kind of file, flipped, cut and missing; what falls, and kills on the way."""

import json

import pytest

from gradsift.datastore import examples, features, maintenance, runs, selections
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.repair import mend
from gradsift.pipelines.runs.reselect import reselect

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
    assert (done.state, done.done) == ("mended", "pruned-sql chosen again: its rows by their digest")
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
        assert kept.falls == (f"selection pruned-sql ({chosen.selection_id})",)
        assert selections.get(store, "pruned-sql") == chosen
        (gone,) = mend(store, accept_loss=True)
        assert gone.state == "lost"
        with pytest.raises(InputError, match="no selection 'pruned-sql'"):
            selections.get(store, "pruned-sql")
        assert maintenance.verify(store) == []
    with fresh(copy) as store:
        assert masked(store).digest == chosen.digest, "asked for again, it is chosen again"
