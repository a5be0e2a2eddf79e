"""Exact search is the float64 reference, whatever the kernel, the dtype, the blocks and the shards."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import python

from gradsift.datastore import examples, features, mapped, nearest, products, search
from gradsift.datastore.compact import compact
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.rows import FeatureBlock, make_block
from gradsift.datastore.search import Neighbour, merge, neighbours, neighbours_combined
from gradsift.datastore.store import Store

KERNELS = ["int8", "int8_half", "f32", "numpy"]
SPEC = {"model": "m", "transform": "sgd"}


def some_examples(count):
    chats = [[{"role": "user", "content": f"q {k}"}, {"role": "assistant", "content": f"a {k}"}] for k in range(count)]
    return [Example(example_id(chat), chat, "made", "file.jsonl", k + 1) for k, chat in enumerate(chats)]


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A store with 400 examples; each test makes spaces of its own."""
    with Store(tmp_path_factory.mktemp("search") / "store") as store:
        batch = some_examples(400)
        examples.add(store, batch)
        yield store, [e.example_id for e in batch]


def new_space(store, blocks, spec=None):
    """A space of its own with a shard for each block."""
    known = len(store.catalog.rows("SELECT 1 FROM feature_space"))
    space = features.define_space(store, SPEC | {"number": known} | (spec or {}))
    for block in blocks:
        features.commit_rows(store, space, block, {})
    return space


def made(ids, rows, dtype):
    return make_block(ids, rows.astype(np.float32), signals(len(ids)), dtype)


def signals(size):
    return pa.table({"loss": pa.array(np.ones(size, np.float32))})


def written(ids, integers, scale=None):
    """int8 rows as they are given."""
    lengths = np.linalg.norm(integers.astype(np.float64), axis=1)
    with np.errstate(divide="ignore"):
        scale = (1 / lengths).astype(np.float32)  # infinite for a row of zeros
    return FeatureBlock(list(ids), integers.astype(np.int8), scale, np.ones(len(ids), np.float32), signals(len(ids)))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reference(blocks, queries, k, wanted=None):
    """All cosines in float64, sorted."""
    names = [i for b in blocks for i in b.example_ids]
    integers = np.concatenate([b.integers().astype(np.float64) for b in blocks])
    scale = np.concatenate([b.scale for b in blocks]).astype(np.float64)
    scale[~np.isfinite(scale)] = 0
    found = []
    for query in queries:
        cosines = (integers * query).sum(axis=1) * scale
        pairs = [(-c, i) for c, i in zip(cosines.tolist(), names, strict=True) if wanted is None or i in wanted]
        found.append([Neighbour(i, -c) for c, i in sorted(pairs)[:k]])
    return found


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "dtype": st.sampled_from(["int8", "int4", "f16"]),
    "sizes": st.lists(st.integers(1, 60), min_size=1, max_size=4),
    "dim": st.sampled_from([2, 8, 10, 64, 130]),
    "count": st.sampled_from([0, 1, 2, 9, 70]),
    "k": st.sampled_from([1, 2, 10, 500]),
    "kernel": st.sampled_from([None, *KERNELS]),
    "spread": st.sampled_from([1.0, 0.1, 0.0]),
    "share": st.sampled_from([None, 0.9, 0.2, 0.0]),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**CASES)
def test_search_equals_the_float64_reference(
    empty, monkeypatch, seed, dtype, sizes, dim, count, k, kernel, spread, share
):
    """Rows far apart, close together and equal; blocks of a few rows; pools that overflow."""
    store, ids = empty
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(nearest, "block_rows", lambda *_: int(rng.integers(1, 40)))
    monkeypatch.setattr(nearest, "ROOM", int(rng.choice([2, 4096])))
    names = rng.permutation(ids)[: sum(sizes)].tolist()
    centre = rng.normal(size=dim)
    ends = np.cumsum(sizes)
    blocks = [
        made(names[end - size : end], centre + spread * rng.normal(size=(size, dim)), dtype)
        if spread < 1
        else made(names[end - size : end], rng.normal(size=(size, dim)) ** 3, dtype)
        for size, end in zip(sizes, ends, strict=True)
    ]
    space = new_space(store, blocks)
    queries = unit(centre + rng.normal(size=(count, dim)))
    wanted = None if share is None else [i for i in names if rng.random() < share]
    kernel = "f32" if kernel and (dtype == "f16" or not products.is_right(kernel, max(count, 1), dim)) else kernel
    found = neighbours(store, space, queries, k, wanted, kernel=kernel)
    assert found == reference(blocks, queries, k, wanted)
    if wanted is not None:
        others = [i for i in names if i not in wanted]
        assert neighbours(store, space, queries, k, without=others, kernel=kernel) == found


@pytest.mark.parametrize("kernel", [None, *KERNELS])
@pytest.mark.parametrize("count", [1, 3, 64, 300])
def test_extreme_numbers_do_not_overflow(empty, kernel, count):
    """±127 in every place, questions of the same: 16 bits overflow where a kernel adds in 16."""
    store, ids = empty
    rng = np.random.default_rng(count)
    integers = np.full((300, 1024), 127)
    integers[1:150] = rng.choice([-127, 127], (149, 1024))
    integers[200:] *= -1
    integers[7] = 0
    blocks = [written(ids[:300], integers)]
    space = new_space(store, blocks)
    queries = unit(np.vstack([np.ones((1, 1024)), rng.choice([-1.0, 1.0], (count, 1024))])[:count])
    if kernel and not products.is_right(kernel, count, 1024):
        kernel = "f32"
    assert neighbours(store, space, queries, 5, kernel=kernel) == reference(blocks, queries, 5)


def test_a_kernel_that_overflows_is_found_out(monkeypatch):
    """CPUs of before VNNI multiply rows + 128 with questions, and add two products in 16 bits."""

    def saturating(queries, rows, _):
        asked = queries.numpy().astype(int)[:, None]
        pairs = asked * (rows.numpy().astype(int) + 128)
        pairs = (pairs[..., ::2] + pairs[..., 1::2]).clip(-(2**15), 2**15 - 1)
        return torch.from_numpy((pairs.sum(2) - 128 * asked.sum(2)).astype(np.int32))

    assert products.is_right("f32", 2, 64)
    monkeypatch.setitem(products._SUMS, "int8", saturating)
    monkeypatch.setitem(products._SUMS, "int8_half", saturating)
    assert not products.is_right("int8", 2, 64)
    assert products.is_right("int8_half", 2, 64)
    products.best.cache_clear()
    assert products.best(2, 64) != "int8"
    products.best.cache_clear()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_product_is_within_its_bound(kernel, dtype):
    rng = np.random.default_rng(3)
    for dim, power in ((16, 1), (300, 1), (1024, 3), (4096, 1)):
        block = made([str(k) for k in range(40)], rng.normal(size=(40, dim)) ** power, dtype)
        queries = unit(rng.normal(size=(20, dim)) ** power)
        if not products.is_right(kernel, 20, dim):
            continue
        ready = products.prepare(queries, dtype, kernel)
        coarse = products.multiply(ready, block.vectors, block.scale, products.Buffers())
        exact = queries.astype(np.float64) @ (block.integers() * block.scale[:, None].astype(np.float64)).T
        off = np.abs(coarse * ready.step[:, None] - exact).max(axis=1)
        assert (off <= ready.error).all()
        assert (ready.error < 0.1).all()  # a bound that lets everything through would pass


def test_products_in_bfloat16_change_no_answer(empty):
    """Whoever lets torch round operands gets a wider bound, and the same rows."""
    store, ids = empty
    rng = np.random.default_rng(5)
    blocks = [made(ids[:200], 1 + 0.1 * rng.normal(size=(200, 256)), "f16")]
    space, queries = new_space(store, blocks), unit(1 + 0.1 * rng.normal(size=(20, 256)))
    before = torch.get_float32_matmul_precision()
    margin = products.prepare(queries, "f16").error
    try:
        torch.set_float32_matmul_precision("medium")
        assert (products.prepare(queries, "f16").error > 100 * margin).all()
        assert neighbours(store, space, queries, 5) == reference(blocks, queries, 5)
    finally:
        torch.set_float32_matmul_precision(before)


def test_equal_rows_go_by_their_ids_in_any_order_of_shards(empty):
    store, ids = empty
    names = sorted(ids[:90], reverse=True)
    row = np.random.default_rng(0).normal(size=(1, 64))
    blocks = [made(part, np.repeat(row, 30, 0), "int8") for part in (names[:30], names[30:60], names[60:])]
    space = new_space(store, blocks)
    found = neighbours(store, space, unit(row), 40)[0]
    assert [n.example_id for n in found] == sorted(names)[:40]
    assert len({n.cosine for n in found}) == 1


def test_some_shards_alone_are_searched_and_merged(empty):
    store, ids = empty
    rng = np.random.default_rng(1)
    blocks = [made(ids[k : k + 50], rng.normal(size=(50, 64)), "int8") for k in (0, 50, 100)]
    space = new_space(store, blocks)
    queries = unit(rng.normal(size=(4, 64)))
    shards = features.shards_of(store, space)
    parts = [neighbours(store, space, queries, 9, shards=part) for part in (shards[:1], shards[1:])]
    assert parts[0] == reference(blocks[:1], queries, 9)
    assert neighbours(store, space, queries, 9, shards=[]) == [[]] * 4
    whole = neighbours(store, space, queries, 9)
    assert [merge(lists, 9) for lists in zip(*parts, strict=True)] == whole == reference(blocks, queries, 9)
    with pytest.raises(InputError, match="is not of feature space"):
        neighbours(store, space, queries, 9, shards=[10_000])


def test_rows_that_the_catalog_does_not_list_are_no_answer(empty):
    """A shard may hold a row that left the catalog, and one whose example has its row elsewhere."""
    store, ids = empty
    rng = np.random.default_rng(2)
    blocks = [made(ids[k : k + 20], rng.normal(size=(20, 64)), "int8") for k in (0, 20)]
    space = new_space(store, blocks)
    query = unit(blocks[0].unit()[3:4])
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE space_id=? AND example_id=?", (space, ids[3]))
    others = [i for i in ids[:40] if i != ids[3]]
    for k in (1, 39, 40):
        assert neighbours(store, space, query, k) == reference(blocks, query, k, others)


@pytest.mark.parametrize("weights", [(0.2, 0.8), (1.0, 1.0)])
def test_combined_spaces_are_the_cosine_of_rows_side_by_side(empty, weights):
    """Shards of the spaces are cut otherwise and ordered otherwise; some examples lack in one."""
    store, ids = empty
    rng = np.random.default_rng(4)
    one = [made(ids[k : k + 40], rng.normal(size=(40, 64)), "int8") for k in (0, 40, 80)]
    other = rng.permutation(ids[10:140]).tolist()
    two = [made(other[k : k + 65], rng.normal(size=(65, 32)), "int4") for k in (0, 65)]
    spaces = [new_space(store, one), new_space(store, two)]
    queries = [unit(rng.normal(size=(5, 64))), unit(rng.normal(size=(5, 32)))]
    of = [{i: r for b in blocks for i, r in zip(b.example_ids, b.unit(), strict=True)} for blocks in (one, two)]
    both = sorted(set(of[0]) & set(of[1]))
    rows = np.concatenate([np.sqrt(w) * np.stack([r[i] for i in both]) for w, r in zip(weights, of, strict=True)], 1)
    asked = np.concatenate([np.sqrt(w) * q for w, q in zip(weights, queries, strict=True)], 1)
    cosines = asked @ rows.T
    pairs = list(zip(spaces, weights, strict=True))
    wanted = [*both[::2], "nobody"]
    for kernel in (None, *KERNELS):
        if kernel and not all(products.is_right(kernel, 5, dim) for dim in (64, 32)):
            continue
        found = neighbours_combined(store, pairs, queries, 7, kernel=kernel)
        some = neighbours_combined(store, pairs, queries, 300, wanted, kernel=kernel)
        for q in range(5):
            best = sorted(range(len(both)), key=lambda n: -cosines[q, n])[:7]
            assert [n.example_id for n in found[q]] == [both[n] for n in best]
            assert [n.cosine for n in found[q]] == pytest.approx([cosines[q, n] for n in best], abs=1e-5)
            assert sorted(n.example_id for n in some[q]) == both[::2]
    one_alone = neighbours_combined(store, [(spaces[0], 1.0)], queries[:1], 7)
    assert one_alone == neighbours(store, spaces[0], queries[0], 7)
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE space_id=? AND example_id=?", (spaces[1], found[0][0].example_id))
    assert found[0][0].example_id not in [n.example_id for n in neighbours_combined(store, pairs, queries, 7)[0]]


@pytest.mark.parametrize(
    ("queries", "words"),
    [(np.zeros((2, 63), np.float32), "do not fit"), (np.full((1, 64), np.nan, np.float32), "not finite")],
)
def test_queries_that_cannot_be_asked_are_refused(empty, queries, words):
    store, ids = empty
    space = new_space(store, [made(ids[:5], np.eye(5, 64), "int8")])
    with pytest.raises(InputError, match=words):
        neighbours(store, space, queries, 3)


def test_nothing_to_find(empty):
    store, ids = empty
    space = new_space(store, [])
    query = np.ones((2, 64), np.float32)
    assert neighbours(store, space, query, 3) == [[], []]
    space = new_space(store, [made(ids[:5], np.eye(5, 64), "int8")])
    assert neighbours(store, space, query, 0) == [[], []]
    assert neighbours(store, space, query[:0], 3) == []
    assert neighbours(store, space, query, 3, []) == [[], []]
    with pytest.raises(InputError, match="above 0"):
        neighbours_combined(store, [(space, -1.0)], [query], 3)
    with pytest.raises(InputError, match="one or more spaces"):
        neighbours_combined(store, [], [], 3)


def test_promise_3_a_changed_shard_is_reported_before_it_is_searched(tmp_path):
    with Store(tmp_path / "store") as store:
        batch = some_examples(20)
        examples.add(store, batch)
        space = new_space(store, [made([e.example_id for e in batch], np.eye(20, 64), "int8")])
    (file,) = (tmp_path / "store" / "features").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with Store(tmp_path / "store") as store, pytest.raises(CorruptionError, match="shard "):
        neighbours(store, space, np.ones((1, 64), np.float32), 3)


def test_a_shard_that_left_is_let_go(tmp_path):
    with Store(tmp_path / "store") as store:
        batch = some_examples(20)
        examples.add(store, batch)
        ids = [e.example_id for e in batch]
        space = new_space(store, [made(ids[:10], np.eye(10, 64), "int8"), made(ids[10:], np.eye(10, 64), "int8")])
        query = np.eye(1, 64, dtype=np.float32)
        assert {n.example_id for n in neighbours(store, space, query, 2)[0]} == {ids[0], ids[10]}
        assert len(mapped._open[store]) == 2
        first = features.shards_of(store, space)[0]
        with store.catalog.write() as db:
            units = db.rows("SELECT unit_id FROM unit WHERE shard_id=?", (first,))
            db.execute("DELETE FROM feature_row WHERE unit_id=?", (units[0]["unit_id"],))
            db.execute("DELETE FROM unit WHERE unit_id=?", (units[0]["unit_id"],))
            db.execute("DELETE FROM shard WHERE shard_id=?", (first,))
        assert [n.example_id for n in neighbours(store, space, query, 1)[0]] == [ids[10]]
        assert len(mapped._open[store]) == 1


THREADS = """
import os, sys
import numpy as np, torch
from gradsift.datastore.mapped import open_rows
from gradsift.datastore.search import neighbours
from gradsift.datastore.store import Store
with Store(sys.argv[1], create=False) as store:
    open_rows(store, 1)  # pyarrow has threads of its own, which wait
    before = len(os.listdir("/proc/self/task"))
    for count in (1, 64):
        neighbours(store, 1, np.ones((count, 64), np.float32) / 8, 10)
        neighbours(store, 1, np.ones((count, 64), np.float32) / 8, 10, kernel="f32")
    print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_takes_no_more_threads_than_it_is_given(tmp_path, threads):
    with Store(tmp_path / "store") as store:
        batch = some_examples(300)
        examples.add(store, batch)
        rows = np.random.default_rng(0).normal(size=(300, 64))
        new_space(store, [made([e.example_id for e in batch], rows, "int8")])
    out = python("-c", THREADS, tmp_path / "store", OMP_NUM_THREADS=str(threads)).stdout.split()
    assert int(out[0]) <= threads - 1
    assert int(out[1]) == threads


def test_what_is_usual_is_told_of_each_question(empty):
    """A row's own example says nothing of what is usual for it."""
    store, ids = empty
    space = new_space(store, [made(ids[:3], np.eye(3, 64), "f16")])
    queries = np.eye(2, 64, dtype=np.float32)
    first, second, none = search.typical(
        store, [(space, 1.0)], [np.vstack([queries, queries[:1]])], None, [ids[:1], (), ids[:3]]
    )
    assert (first.rows, first.highest, first.lowest) == (2, 0.0, 0.0)
    assert (second.rows, second.highest, second.median) == (3, 1.0, 0.0)
    assert none is None


def test_compacted_shards_give_the_same_answers(empty):
    """They hold a record batch for each shard that they were made of; the old ones are let go."""
    store, ids = empty
    rng = np.random.default_rng(6)
    blocks = [made(ids[k : k + 30], rng.normal(size=(30, 64)), "int8") for k in (0, 30, 60)]
    space = new_space(store, blocks)
    queries = unit(rng.normal(size=(3, 64)))
    assert neighbours(store, space, queries, 90) == reference(blocks, queries, 90)
    assert compact(store).merges
    assert len(features.shards_of(store, space)) == 1
    assert neighbours(store, space, queries, 90) == reference(blocks, queries, 90)
    assert neighbours(store, space, queries, 90, ids[20:40]) == reference(blocks, queries, 90, ids[20:40])


def test_shards_that_are_merged_during_a_search_are_searched_again(empty, monkeypatch):
    store, ids = empty
    rng = np.random.default_rng(7)
    blocks = [made(ids[k : k + 30], rng.normal(size=(30, 64)), "int8") for k in (0, 30)]
    space = new_space(store, blocks)
    queries = unit(rng.normal(size=(1, 64)))
    looked, place = [], mapped.places

    def slow(*arguments):
        looked.append(compact(store))
        return place(*arguments)

    monkeypatch.setattr(mapped, "places", slow)
    assert neighbours(store, space, queries, 50, ids[:60]) == reference(blocks, queries, 50)
    assert [bool(done.merges) for done in looked] == [True, False]  # the first answer was stale


def test_embeddings_beside_the_rows_are_searched_like_rows(empty):
    """Stored as float16 of any length: a cosine is that of what is stored, and a row that is too long for float16 is
    no answer but the last."""
    store, ids = empty
    rng = np.random.default_rng(3)
    kept = (rng.standard_normal((60, 24)) * rng.uniform(0.01, 300, (60, 1))).astype(np.float16)
    kept[7], kept[30] = 0, np.inf
    kept[11] = kept[4]
    blocks = []
    for part in np.array_split(np.arange(60), 3):
        flat = pa.array(kept[part].reshape(-1), pa.float16())
        table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, 24)})
        rows = rng.standard_normal((len(part), 64)).astype(np.float32)
        blocks.append(make_block([ids[k] for k in part], rows, table, "int8"))
    space = new_space(store, blocks)
    exact = np.where(np.isfinite(kept), kept, 0).astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
    units = mapped.units(store, space, ids[:60], "embedding")
    assert {i for i, row in units.items() if not row.any()} == {ids[7], ids[30]}
    questions = np.stack([units[ids[k]] for k in (4, 20, 59)])
    for sign in (1, -1):
        found = neighbours(store, space, np.float32(sign) * questions, 25, column="embedding")
        for q, best in zip(questions, found, strict=True):
            cosines = sign * (exact @ q.astype(np.float64))
            order = sorted(range(60), key=lambda n: (-round(cosines[n], 6), ids[n]))[:25]
            assert [n.example_id for n in best] == [ids[n] for n in order]
            assert [n.cosine for n in best] == pytest.approx([cosines[n] for n in order], abs=1e-6)
    same = neighbours(store, space, questions[:1], 2, column="embedding")[0]
    assert [n.example_id for n in same] == sorted([ids[4], ids[11]])
    assert same[0].cosine == same[1].cosine == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match=r"features\.signals\.embedding: true"):
        neighbours(store, new_space(store, [made(ids[:5], np.eye(5, 64), "int8")]), questions, 3, column="embedding")


def test_many_ids_are_looked_for_in_the_shards_and_few_in_the_catalog(empty, monkeypatch):
    """With the same answer, also where a shard holds rows that the catalog lists no more."""
    store, ids = empty
    rng = np.random.default_rng(11)
    blocks = [made(ids[n : n + 30], rng.standard_normal((30, 64)), "int8") for n in range(0, 120, 30)]
    space = new_space(store, blocks)
    queries = unit(rng.standard_normal((3, 64)))
    chosen, out = ids[20:100], ids[60:75]
    best = neighbours(store, space, queries, 1)[0][0].example_id
    for gone in (None, best):
        if gone is not None:
            with store.catalog.write() as db:
                db.execute("DELETE FROM feature_row WHERE space_id=? AND example_id=?", (space, gone))
        wanted = set(chosen) - set(out) - {gone}
        found = {}
        for many in (1, 10_000):
            monkeypatch.setattr(search, "MANY", many)
            found[many] = neighbours(store, space, queries, 12, [*chosen, best], without=out)
        assert found[1] == found[10_000] == reference(blocks, queries, 12, wanted | ({best} - {gone}))


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60))
def test_what_is_ordinary_are_quantiles(cosines):
    found = search.quantiles(np.array(cosines, np.float32))
    places = {"lowest": 0, "p1": 0.01, "p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99, "highest": 1}
    for name, place in places.items():
        assert getattr(found, name) == pytest.approx(np.quantile(np.array(cosines, np.float64), place), abs=1e-4)
    assert found.rows == len(cosines)
