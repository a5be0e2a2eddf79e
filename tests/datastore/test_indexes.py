"""Search indexes: candidates by FAISS, answers by exact cosines; stale, altered and killed ones; promise 6."""

import re
import shutil
import weakref
from dataclasses import replace

import faiss
import numpy as np
import pyarrow as pa
import pytest
from running import python

from gradsift.datastore import (
    ann,
    examples,
    features,
    forget,
    free,
    index_build,
    index_search,
    indexes,
    leases,
    maintenance,
    mapped,
    prune,
    search,
)
from gradsift.datastore.compact import compact
from gradsift.datastore.errors import BusyError, CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.index_build import Wish, build, refresh
from gradsift.datastore.index_search import near
from gradsift.datastore.overview import overview
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store

DIMS, UNIT = 32, 100
SPEC = {"model": "m", "transform": "sgd", "projector": {"dim": DIMS}}


def chats(count, start=0):
    for k in range(start, start + count):
        chat = [{"role": "user", "content": f"question {k}"}, {"role": "assistant", "content": f"answer {k}"}]
        yield Example(example_id(chat), chat, "made", "file.jsonl", k + 1)


def clustered(count, seed, groups=12):
    """[n, D] rows around a few centres, as gradients of several kinds of chats are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(groups, DIMS))
    return (centres[rng.integers(0, groups, count)] + rng.normal(size=(count, DIMS)) * 0.7).astype(np.float32)


def grow(store, count, start=0, dtype="int8", spec=SPEC):
    """More examples with a row each, in units of their own; returns the space."""
    batch = list(chats(count, start))
    examples.add(store, batch)
    space = features.define_space(store, spec)
    pool = examples.define_dataset(store, "pool", f"p{start}", {e.example_id: "" for e in batch})
    features.plan(store, space, pool.example_ids, {}, UNIT)
    for unit in features.open_units(store, space, pool.dataset_id):
        ids = features.unit_ids(store, unit)
        signals = pa.table({"loss": pa.array(np.ones(len(ids), np.float32))})
        features.commit_unit(store, space, unit, make_block(ids, clustered(len(ids), start + unit), signals, dtype), {})
    return space


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A store of 600 rows. Copy it to change it."""
    root = tmp_path_factory.mktemp("grown") / "store"
    with Store(root) as store:
        grow(store, 600)
    return root


@pytest.fixture
def store(grown, tmp_path):
    shutil.copytree(grown, tmp_path / "store")
    with Store(tmp_path / "store") as opened:
        yield opened


SPACE = 1


def questions(count=20, seed=99):
    rows = clustered(count, seed)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def alike(found, exact):
    """The same rows with the same cosines; rows as near as each other may stand in another order."""
    for one, other in zip(found, exact, strict=True):
        assert [n.cosine for n in one] == [n.cosine for n in other]
        assert {n.example_id for n in one[:-1]} <= {n.example_id for n in other}


@pytest.mark.parametrize("kind", ann.KINDS)
def test_an_index_finds_what_exact_search_finds(store, kind):
    """Every row looked at, the answers are those of exact search; with the effort that was tuned, nearly all are."""
    asked = questions()
    exact = search.neighbours(store, SPACE, asked, 10)
    built = build(store, SPACE, Wish(kind, effort=1024 if kind == "hnsw" else 48))
    assert (built.rows, indexes.state(store, built)) == (600, "fresh")
    found = near(store, SPACE, asked, 10, kind=kind)
    assert (found.index, found.note) == (kind, "")
    alike(found.neighbours, exact)
    tuned = build(store, SPACE, Wish(kind))
    assert tuned.measured.recall >= 0.95
    assert tuned.measured.questions == 100
    answers = near(store, SPACE, asked, 10, kind=kind).neighbours
    reached = [n.cosine >= truth[-1].cosine - 1e-6 for one, truth in zip(answers, exact, strict=True) for n in one]
    assert np.mean(reached) >= 0.95


def test_a_question_of_another_width_is_refused(store):
    build(store, SPACE, Wish("flat"))
    with pytest.raises(InputError, match=r"\(5, 31\) do not fit rows of 32"):
        near(store, SPACE, questions(5)[:, :31], 7, kind="flat")


@pytest.mark.parametrize("dtype", ["int4", "f16"])
def test_rows_of_every_dtype_are_indexed(tmp_path, dtype):
    with Store(tmp_path / "other") as store:
        space = grow(store, 150, dtype=dtype)
        build(store, space, Wish("ivf_flat", effort=24))
        asked = questions(5)
        alike(near(store, space, asked, 7).neighbours, search.neighbours(store, space, asked, 7))


@pytest.mark.parametrize("kind", ann.KINDS)
def test_the_same_rows_and_seed_make_the_same_file(store, kind):
    before = faiss.omp_get_max_threads()
    try:
        digests = []
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            digests.append(build(store, SPACE, Wish(kind, effort=4)).sha256)
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert digests[0] == digests[1]
    if kind in ann.IVF:
        assert build(store, SPACE, Wish(kind, effort=4, seed=1)).sha256 != digests[0]


def test_more_lists_are_looked_at_for_more_rows(store):
    """The effort was tuned for the ten nearest; what a caller decided stays."""
    built = build(store, SPACE, Wish("ivf_sq8"))
    tuned = replace(built, measured=replace(built.measured, effort=3))
    assert [index_search.effort_for(tuned, k) for k in (1, 11, 44, 100_000)] == [3, 3, 15, 48]
    many = replace(tuned, rows=10**6)
    assert [index_search.effort_for(many, k) for k in (11, 44, 99)] == [3, 6, 9]
    assert index_search.effort_for(replace(tuned, plan=replace(tuned.plan, effort=3)), 44) == 3
    asked = questions(40)
    exact, found = search.neighbours(store, SPACE, asked, 100), near(store, SPACE, asked, 100, kind="ivf_sq8")
    pairs = zip(exact, found.neighbours, strict=True)
    assert np.mean([len({n.example_id for n in a} & {n.example_id for n in b}) / 100 for a, b in pairs]) > 0.95


def test_more_neighbours_than_rows_and_no_question(store):
    build(store, SPACE, Wish("ivf_sq8"))
    exact = search.neighbours(store, SPACE, questions(2), 1000)
    found = near(store, SPACE, questions(2), 1000).neighbours
    assert [len(one) for one in found] == [600, 600]
    alike(found, exact)
    assert near(store, SPACE, questions(0).reshape(0, DIMS), 5).neighbours == []


def adds_of(monkeypatch):
    counts = []
    add = ann.add

    def counting(index, kind, rows):
        counts.append(len(rows))
        add(index, kind, rows)

    monkeypatch.setattr(ann, "add", counting)
    return counts


@pytest.mark.parametrize("kind", ann.KINDS)
def test_new_rows_are_searched_exactly_and_a_refresh_adds_them_alone(store, kind, monkeypatch):
    first = build(store, SPACE, Wish(kind, effort=1024 if kind == "hnsw" else 48))
    grow(store, 150, 600)
    assert indexes.state(store, first) == "behind"
    asked = questions()
    exact = search.neighbours(store, SPACE, asked, 10)
    newest = set(features.ids_with_rows(store, SPACE)) & {e.example_id for e in chats(150, 600)}
    assert any(n.example_id in newest for one in exact for n in one)
    found = near(store, SPACE, asked, 10, kind=kind)
    assert "150 rows came since" in found.note
    alike(found.neighbours, exact)

    added = adds_of(monkeypatch)
    trained = []
    monkeypatch.setattr(ann, "make", lambda *_: trained.append(1))
    second = refresh(store, first)
    assert (sum(added), trained) == (150, [])
    assert (second.rows, indexes.state(store, second)) == (750, "fresh")
    assert second.plan == first.plan
    alike(near(store, SPACE, asked, 10, kind=kind).neighbours, exact)
    assert refresh(store, second) == second
    assert sum(added) == 150
    assert [file.name for file in store.backend.list("indexes")] == [second.name]


def centres(store, index):
    opened, _ = index_search.open_index(store, index)
    return opened.faiss.quantizer.reconstruct_n(0, index.plan.lists)


def test_a_refresh_keeps_what_was_trained(store):
    first = build(store, SPACE, Wish("ivf_sq8"))
    before = centres(store, first).copy()
    grow(store, 100, 600)
    assert np.array_equal(centres(store, refresh(store, first)), before)


def replace_shard(store):
    """A shard of the space in another file with the same rows, as a compaction or a deletion leaves it."""
    shard = indexes.shards_of(store.catalog, SPACE)[0]
    with store.map(shard.shard_id) as source:
        table = pa.ipc.open_file(source).read_all()
    table = table.replace_schema_metadata(table.schema.metadata | {"written": "again"})

    def record(db, new):
        db.execute("UPDATE unit SET shard_id=? WHERE shard_id=?", (new, shard.shard_id))

    def fill(handle):
        with pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_table(table)

    store.commit_file("features", ".arrow", shard.rows, fill, record, replaces=[shard.shard_id])


def test_a_stale_index_is_refused_and_refreshed(store, monkeypatch):
    built = build(store, SPACE, Wish("ivf_flat"))
    replace_shard(store)
    assert indexes.state(store, built) == "stale"
    assert overview(store)["indexes"][0]["state"] == "stale"
    with pytest.raises(InputError, match=r"replaced or deleted since it was built.*gradsift index refresh"):
        near(store, SPACE, questions(1), 5, kind="ivf_flat")
    found = near(store, SPACE, questions(1), 5)
    assert (found.index, "stale" in found.note) == ("", True)
    added = adds_of(monkeypatch)
    again = refresh(store, built)
    assert (sum(added), indexes.state(store, again)) == (600, "fresh")


def alter(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-9] if damage == "cut" else content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_an_altered_index_never_reaches_faiss(store, damage, monkeypatch):
    built = build(store, SPACE, Wish("ivf_sq8"))
    mapped._beside.clear()
    alter(store.root / built.name, damage)
    with monkeypatch.context() as patched:
        patched.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS was given bytes that nobody checked"))
        for kind in ("ivf_sq8", "auto"):
            with pytest.raises(CorruptionError, match=re.escape(built.name) + ".*gradsift index refresh"):
                near(store, SPACE, questions(1), 5, kind=kind)
    (damaged,) = maintenance.verify(store)
    assert (damaged.kind, damaged.name) == ("indexes", built.name)
    again = refresh(store, built)
    assert (again.sha256, maintenance.verify(store)) == (built.sha256, [])
    assert len(near(store, SPACE, questions(1), 5, kind="ivf_sq8").neighbours[0]) == 5


def test_bytes_that_changed_after_they_were_checked_are_not_read_again(store, monkeypatch):
    """FAISS reads from what was digested, not from the path."""
    built = build(store, SPACE, Wish("flat"))
    mapped._beside.clear()
    read = ann.read

    def moved(content, *more):
        (store.root / built.name).rename(store.root / "moved")
        return read(content, *more)

    monkeypatch.setattr(ann, "read", moved)
    assert near(store, SPACE, questions(1), 3, kind="flat").index == "flat"


def test_bytes_that_are_written_into_an_index_while_it_is_read_never_reach_faiss(store, monkeypatch):
    """Its digest was right, and somebody writes to the very file after that."""
    built = build(store, SPACE, Wish("ivf_sq8"))
    monkeypatch.setattr(indexes, "PIECE", 1 << 12)
    kept, checked = indexes.read(store, built, DIMS), indexes._check

    def written(file, index):
        known = checked(file, index)
        with (store.root / built.name).open("r+b") as other:
            other.seek(built.bytes // 2)
            other.write(bytes(64))
        return known

    monkeypatch.setattr(indexes, "_check", written)
    with pytest.raises(CorruptionError, match=r"was changed while it was read.*gradsift index refresh"):
        indexes.read(store, built, DIMS)
    assert kept.ntotal == 600


@pytest.mark.parametrize("name", ["../outside", "features/x", "indexes/../catalog.sqlite"])
def test_a_forged_name_leads_nowhere(store, name):
    built = build(store, SPACE, Wish("flat"))
    mapped._beside.clear()
    (store.root.parent / "outside").write_bytes(b"x")
    with store.catalog.write() as db:
        db.execute("UPDATE search_index SET name=?", (name,))
    with pytest.raises(CorruptionError):
        near(store, SPACE, questions(1), 3, kind="flat")
    indexes.drop(store)
    assert (store.root.parent / "outside").exists()
    assert (store.root / "catalog.sqlite").exists()
    assert built.rows == 600


def test_a_file_of_another_kind_is_no_index_of_this_one(store):
    flat, listed = build(store, SPACE, Wish("flat")), build(store, SPACE, Wish("ivf_flat"))
    mapped._beside.clear()
    with store.catalog.write() as db:
        db.execute("DELETE FROM search_index WHERE kind='flat'")
        db.execute("UPDATE search_index SET name=?, bytes=?, sha256=?", (flat.name, flat.bytes, flat.sha256))
    (store.root / listed.name).unlink()
    with pytest.raises(CorruptionError, match=r"IndexFlatIP.*not.*IndexIVFFlat"):
        near(store, SPACE, questions(1), 3, kind="ivf_flat")


def test_only_rows_that_are_asked_for_are_answered(store):
    """Never fewer than there are: by more candidates, and by exact search where few rows are wanted."""
    build(store, SPACE, Wish("ivf_sq8"))
    ids = features.ids_with_rows(store, SPACE)
    asked = questions(4)
    for share, by in ((0.9, "ivf_sq8"), (0.6, "ivf_sq8"), (0.1, ""), (0.0, "")):
        wanted = ids[: int(share * len(ids))]
        found = near(store, SPACE, asked, 20, wanted, kind="ivf_sq8")
        assert found.index == by
        assert all(len(one) == min(20, len(wanted)) for one in found.neighbours)
        assert {n.example_id for one in found.neighbours for n in one} <= set(wanted)
        apart = near(store, SPACE, asked, 20, without=ids[len(wanted) :], kind="ivf_sq8")
        assert (apart.index, apart.neighbours) == (by, found.neighbours)
    nearest = [n.example_id for n in search.neighbours(store, SPACE, asked[:1], 300)[0]]
    without = [name for name in ids if name not in nearest[:250]]  # no candidate of the first question is wanted
    found = near(store, SPACE, asked[:1], 20, without, kind="ivf_sq8")
    alike(found.neighbours, search.neighbours(store, SPACE, asked[:1], 20, without))


def test_few_of_the_index_and_new_rows_are_no_row_twice(store):
    build(store, SPACE, Wish("ivf_sq8"))
    grow(store, 100, 600)
    asked = questions(2)
    found = near(store, SPACE, asked, 690, kind="ivf_sq8")
    assert found.index == "ivf_sq8"
    assert found.neighbours == search.neighbours(store, SPACE, asked, 690)


def test_a_row_whose_example_was_dropped_is_no_answer(store):
    build(store, SPACE, Wish("flat"))
    (best, *_), *_ = search.neighbours(store, SPACE, questions(1), 1)
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE example_id=?", (best.example_id,))
    found = near(store, SPACE, questions(1), 600, kind="flat").neighbours[0]
    assert len(found) == 599
    assert best.example_id not in {n.example_id for n in found}


def test_compaction_keeps_an_index(store):
    """Also one that is open: the merged shard has another number, and its rows have other places."""
    asked = questions(3)
    build(store, SPACE, Wish("flat"))
    before = near(store, SPACE, asked, 5, kind="flat").neighbours
    compact(store, grace=0)
    assert len(indexes.shards_of(store.catalog, SPACE)) == 1
    index = indexes.get(store, SPACE, "flat")
    assert indexes.state(store, index) == "fresh"
    opened, _ = index_search.open_index(store, index)
    answers = index_search.search(store, SPACE, opened, asked, 5, 0)
    assert answers == before == search.neighbours(store, SPACE, asked, 5)


def leave_out(store):
    """A row leaves the catalog and the files: the index over it becomes stale."""
    first = features.ids_with_rows(store, SPACE)[0]
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE example_id=?", (first,))
    compact(store, grace=0)


def test_compaction_that_leaves_rows_out_makes_an_index_stale(store):
    """Its positions would be those of other rows."""
    build(store, SPACE, Wish("flat"))
    leave_out(store)
    assert indexes.state(store, indexes.get(store, SPACE, "flat")) == "stale"


def test_a_pruning_drops_the_indexes_whose_files_have_vectors_that_go(store):
    ids = features.ids_with_rows(store, SPACE)
    other = grow(store, 20, start=700, spec={**SPEC, "model": "other"})
    gone, kept = build(store, SPACE, Wish("flat")), build(store, other, Wish("flat"))
    examples.define_dataset(store, "pool", "p0", dict.fromkeys(ids[1:], ""))
    planned = prune.prune(store, 1, examples=True, dry_run=True)
    assert ("search indexes", 1, gone.bytes) in [(d.what, d.count, d.bytes) for d in planned.dropped]
    assert len(indexes.all_of(store)) == 2
    prune.prune(store, 1, examples=True)
    assert examples.known_ids(store, ids[:1]) == set()
    assert [path.name for path in (store.root / "indexes").iterdir()] == [kept.name.rpartition("/")[2]]
    assert indexes.all_of(store) == [kept]


def test_promise_8_a_deletion_drops_stale_indexes(store):
    """Those of whom an earlier pruning took the rows: they are in no table any more that could say so."""
    built = build(store, SPACE, Wish("flat"))
    leave_out(store)
    (asked,) = chats(1, start=900)
    examples.add(store, [asked])
    forget.begin(store, forget.Picked([asked.example_id]))
    forget.clear(store)
    forget.close(store)
    assert not (store.root / built.name).exists()
    assert indexes.all_of(store) == []


@pytest.mark.parametrize("change", [indexes.drop, leave_out])
@pytest.mark.parametrize("kind", ["", "auto", "flat"])
def test_what_was_opened_is_let_go_with_what_it_holds(store, change, kind):
    """Another process deletes an example: the next search of any kind keeps no copy of its row."""
    build(store, SPACE, Wish("flat"))
    near(store, SPACE, questions(1), 3, kind="flat")
    (opened,) = (weakref.ref(one) for one in mapped.beside(store).values())
    with Store(store.root) as other:
        change(other)
    if kind == "flat":
        with pytest.raises(InputError):
            near(store, SPACE, questions(1), 3, kind=kind)
    elif kind:
        near(store, SPACE, questions(1), 3, kind=kind)
    else:
        search.neighbours(store, SPACE, questions(1), 3)
    assert mapped.beside(store) == {}
    assert opened() is None


def test_auto_takes_the_fastest_good_index(store, monkeypatch):
    assert "no index" in near(store, SPACE, questions(1), 3).note
    measured = {"flat": (1.0, 2.0), "ivf_sq8": (0.96, 3.0), "hnsw": (0.5, 9.0)}
    for kind, (recall, speedup) in measured.items():
        index = build(store, SPACE, Wish(kind))
        poor = replace(index.measured, recall=recall, speedup=speedup)
        with store.catalog.write() as db:
            db.execute(
                "UPDATE search_index SET measured=json_set(measured, '$.recall', ?, '$.speedup', ?) WHERE index_id=?",
                (poor.recall, poor.speedup, index.index_id),
            )
    found = near(store, SPACE, questions(1), 3)
    assert (found.index, found.recall) == ("ivf_sq8", 0.96)
    indexes.drop(store, kind="ivf_sq8")
    assert near(store, SPACE, questions(1), 3).index == "flat"
    indexes.drop(store, kind="flat")
    found = near(store, SPACE, questions(1), 3)
    assert (found.index, found.note) == ("", "no index here finds 95 % of the nearest rows: searched exactly")
    with pytest.raises(InputError, match=r"no flat index over these rows.*gradsift index build --kind flat"):
        near(store, SPACE, questions(1), 3, kind="flat")


def test_questions_are_rows_of_targets_where_there_are_some(store):
    """Of the space that questions are of; rows of Adam's steps are not compared with each other."""
    adam = grow(store, 300, spec={**SPEC, "transform": "adam_exact"})
    ids = features.ids_with_rows(store, SPACE)[:60]
    examples.define_dataset(store, "target", "t", dict.fromkeys(ids, ""))
    assert build(store, SPACE, Wish("flat")).measured.of_targets == pytest.approx(30, abs=15)
    of_adam = build(store, adam, Wish("flat")).measured
    assert (of_adam.questions, of_adam.of_targets) == (30, 30)


def test_dropping_takes_row_and_file(store):
    build(store, SPACE, Wish("flat"))
    build(store, SPACE, Wish("ivf_sq8"))
    assert [index.kind for index in indexes.drop(store, [SPACE], "flat")] == ["flat"]
    assert len(list(store.backend.list("indexes"))) == 1
    assert indexes.drop(store, [99]) == []
    assert [index.kind for index in indexes.drop(store, [SPACE])] == ["ivf_sq8"]
    assert list(store.backend.list("indexes")) == []
    assert store.catalog.rows("SELECT * FROM search_index_shard") == store.catalog.rows("SELECT * FROM doomed") == []


def test_a_space_that_leaves_takes_its_indexes_along(store):
    """Whatever deletes the space: the catalog's trigger dooms the file."""
    space = grow(store, 30, spec={**SPEC, "model": "other"})
    built = build(store, space, Wish("flat"))
    with store.catalog.write() as db:
        for table in ("feature_row", "unit", "feature_space"):
            db.execute(f"DELETE FROM {table} WHERE space_id=?", (space,))
    assert store.sweep() == 1
    assert not (store.root / built.name).exists()


def test_collecting_garbage_knows_indexes(store):
    built = build(store, SPACE, Wish("flat"))
    (store.root / "indexes" / "lost.faiss").write_bytes(b"left by a writer that died")
    assert [name for name, _ in maintenance.collect(store, grace=-1)] == ["indexes/lost.faiss"]
    assert (store.root / built.name).exists()


def test_verify_finds_a_damaged_index_and_nothing_else(store):
    """Its number may be that of a shard."""
    built = build(store, SPACE, Wish("flat"))
    alter(store.root / built.name, "flipped")
    (damaged,) = maintenance.verify(store)
    assert (damaged.shard_id, damaged.kind, damaged.name) == (built.index_id, "indexes", built.name)


def test_promise_6_an_index_can_be_deleted_and_is_rebuilt(store):
    """The folder gone: exact search answers, the index says what to do, a refresh makes the same file again."""
    asked = questions(3)
    built = build(store, SPACE, Wish("ivf_sq8", effort=48))
    exact = search.neighbours(store, SPACE, asked, 10)
    mapped._beside.clear()
    shutil.rmtree(store.root / "indexes")
    assert search.neighbours(store, SPACE, asked, 10) == exact
    with pytest.raises(CorruptionError, match=r"missing.*gradsift index refresh"):
        near(store, SPACE, asked, 10, kind="ivf_sq8")
    again = refresh(store, built)
    assert again.sha256 == built.sha256
    alike(near(store, SPACE, asked, 10, kind="ivf_sq8").neighbours, exact)


def test_one_builds_at_a_time_and_a_change_meanwhile_is_noticed(store, monkeypatch):
    with leases.held(store, leases.RUN) as mine:
        assert mine
        monkeypatch.setattr(leases, "holder_name", lambda: "elsewhere:1:1:1")
        with pytest.raises(BusyError, match="build the index when it has ended"):
            build(store, SPACE)
    monkeypatch.undo()
    measure = index_build.measure

    def and_meanwhile(*given):
        replace_shard(store)
        return measure(*given)

    monkeypatch.setattr(index_build, "measure", and_meanwhile)
    with pytest.raises(BusyError, match="changed while the index was built"):
        build(store, SPACE)
    assert indexes.all_of(store) == []
    assert list(store.backend.list("indexes")) == []


def test_no_index_is_built_while_a_deletion_is_under_way(store):
    """Its rows have left the catalog and are still in shards: no new file may hold them."""
    built = build(store, SPACE, Wish("flat"))
    with store.catalog.write() as db:
        db.execute("INSERT INTO forgetting (examples, exports, started) VALUES (1, 0, 0)")
    for again in (lambda: build(store, SPACE), lambda: refresh(store, built)):
        with pytest.raises(BusyError, match="`gradsift delete` finishes it"):
            again()


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (Wish("ivf_sq8", lists=-1), "must be at least 1"),
        (Wish("ivf_sq8", effort=0), "must be at least 1"),
        (Wish("hnsw", lists=5), "a hnsw index has no lists; ivf_flat and ivf_sq8 have"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(store, wish, told):
    with pytest.raises(InputError, match=told):
        build(store, SPACE, wish)


def test_nothing_to_index_and_nothing_to_hold_it_in(store, monkeypatch):
    empty = features.define_space(store, {"model": "none"})
    with pytest.raises(InputError, match="no rows to index"):
        build(store, empty)
    monkeypatch.setattr(index_build, "free_bytes", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"need about 0.3 GiB of memory; 0.0 GiB are free. The kind ivf_sq8"):
        build(store, SPACE, Wish("hnsw"))


def test_an_index_is_refused_that_its_container_has_no_room_for(store, tmp_path, monkeypatch):
    """Not what the machine has, nor what the container might have: what it has left."""
    groups = tmp_path / "groups"
    groups.mkdir()
    (groups / "memory.max").write_text(str(2 << 30))
    (groups / "memory.current").write_text(str(7 << 28))
    monkeypatch.setattr(free, "GROUPS", groups)
    with pytest.raises(InputError, match=r"need about 0.3 GiB of memory; 0.2 GiB are free"):
        build(store, SPACE, Wish("flat"))
    (groups / "memory.current").write_text(str(1 << 30))
    build(store, SPACE, Wish("flat"))


def test_lists_and_new_rows_are_counted_before_they_take_memory(store, monkeypatch):
    """As many lists as rows take a sample of all rows; a refresh adds to an index that is held already."""
    built = build(store, SPACE, Wish("flat"))
    monkeypatch.setattr(index_build, "SAMPLE_BYTES", 1 << 10)
    monkeypatch.setattr(index_build, "free_bytes", lambda: 60_000)
    build(store, SPACE, Wish("ivf_sq8", lists=4))
    with pytest.raises(InputError, match="600 rows × 32 in a ivf_sq8 index need about"):
        build(store, SPACE, Wish("ivf_sq8", lists=500))
    grow(store, 600, 600)
    with pytest.raises(InputError, match="600 rows × 32 in a flat index need about"):
        refresh(store, built)
    monkeypatch.setattr(index_build, "free_bytes", lambda: 80_000)
    assert refresh(store, built).rows == 1200


CRASH = """
import os, sys
from gradsift.datastore import files, indexes
from gradsift.datastore.index_build import Wish, build
from gradsift.datastore.store import Store
store = Store({root!r})
def stop(step):
    if step == {step!r}:
        os._exit(137)
files.failpoint = stop
build(store, 1, Wish("ivf_sq8", lists=7))
"""


@pytest.mark.parametrize("step", ["synced", "renamed", "recorded", "committed", "swept"])
def test_promise_1_a_killed_build_leaves_the_old_index_or_the_new(store, step):
    old = build(store, SPACE, Wish("ivf_sq8"))
    store.close()
    died = python("-c", CRASH.format(root=str(store.root), step=step), code=137)
    assert died.returncode == 137
    (left,) = indexes.all_of(store)
    assert (left.plan.lists == 7) == (step in ("committed", "swept"))
    assert (left == old) == (step not in ("committed", "swept"))
    assert maintenance.verify(store) == []
    assert len(near(store, SPACE, questions(1), 5, kind="ivf_sq8").neighbours[0]) == 5
    store.sweep()
    maintenance.collect(store, grace=-1)
    assert [file.name for file in store.backend.list("indexes")] == [left.name]


def test_a_build_holds_a_block_of_rows_beside_the_index(store, monkeypatch):
    """Rows reach FAISS in blocks, and the sample has a bound."""
    monkeypatch.setattr(index_build, "BLOCK_ROWS", 32)
    monkeypatch.setattr(index_build, "SAMPLE_BYTES", 4 * DIMS * 60)
    added = adds_of(monkeypatch)
    built = build(store, SPACE, Wish("ivf_sq8", lists=10))
    assert (max(added), sum(added), built.plan.sample) == (32, 600, 60)
    told = []
    build(store, SPACE, Wish("flat"), lambda *line: told.append(line))
    assert told[-1] == ("adding rows to flat", 600, 600)
