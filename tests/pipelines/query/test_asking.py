"""Ways to ask: what a question may be made of, what may be an answer, and what is said of a wrong one."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from running import ROOT, python

import gradsift
from gradsift.cli.asking import agreeing, short_names
from gradsift.datastore import examples, features, mapped, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.query import computed
from gradsift.pipelines.query.filters import Filter, Of, Range, filter_of, matching, range_of
from gradsift.pipelines.query.gradients import open_gradients
from gradsift.pipelines.query.query import Question, Where, ask
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate


@pytest.fixture(scope="module")
def store(finished):
    with Store(finished[1]) as opened:
        yield opened


@pytest.fixture(scope="module")
def pool(store):
    return examples.get_dataset(store, runs.last_run(store).result.ingest.pool.used_dataset_id).example_ids


@pytest.fixture(scope="module")
def plain(store, pool):
    """{example: its plain unit row}, at the last checkpoint."""
    space = open_gradients(store).places[-1].space
    block = features.read_all(store, space, pool)
    return dict(zip(block.example_ids, block.unit(), strict=True))


def by_hand(question, rows, without=(), k=10):
    cosines = {i: float(row @ question) for i, row in rows.items() if i not in without}
    return sorted(cosines.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def test_the_mean_of_a_target_is_asked(store, plain):
    targets = next(row for row in runs.last_run(store).result.rows if row.role == "target" and row.checkpoint == 1)
    ids = features.ids_with_rows(store, targets.space_id)
    mean = features.read_all(store, targets.space_id, ids).unit().mean(axis=0)
    found = ask(store, Question(target="sql"))
    assert [(h.example_id, pytest.approx(h.similarity, abs=1e-4)) for h in found.hits] == by_hand(
        mean / np.linalg.norm(mean), plain
    )
    assert found.question == f"mean of {len(ids)} examples of target sql"
    with pytest.raises(InputError, match="no target 'xsl'; the last run has sql"):
        ask(store, Question(target="xsl"))


def test_vectors_are_asked_one_after_the_other(store, plain, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 512)) * np.array([[1e-150], [1], [1e150]])  # of any length
    np.save(tmp_path / "v.npy", vectors)
    found = ask(store, Question(vectors=tmp_path / "v.npy"), 4)
    assert len(found.more) == 2
    for vector, one in zip(vectors, [found, *found.more], strict=True):
        expected = by_hand((vector / np.linalg.norm(vector)).astype(np.float32), plain, k=4)
        assert [(h.example_id, pytest.approx(h.similarity, abs=1e-4)) for h in one.hits] == expected
    alone = ask(store, Question(vectors=vectors[1]), 4)
    assert (alone.hits, alone.more) == (found.more[0].hits, [])


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones(511), "do not fit rows of 512 numbers"),
        (np.zeros(512), "all zeros"),
        (np.full(512, np.nan), "not finite"),
        (np.ones((2, 2, 512)), r"give \[D\] or \[Q, D\]"),
        (np.array(["a"]), r"give \[D\] or \[Q, D\]"),
    ],
)
def test_vectors_that_mean_nothing_are_refused(store, vectors, words):
    with pytest.raises(InputError, match=words):
        ask(store, Question(vectors=vectors))


def test_a_file_that_is_no_array_is_refused(store, tmp_path):
    (tmp_path / "v.npy").write_text("nothing")
    with pytest.raises(InputError, match=r"cannot read .*v\.npy"):
        ask(store, Question(vectors=tmp_path / "v.npy"))
    np.savez(tmp_path / "v.npz", a=np.ones(512))
    with pytest.raises(InputError, match="several arrays"):
        ask(store, Question(vectors=tmp_path / "v.npz"))


def test_all_checkpoints_take_vectors_side_by_side(store, pool):
    space = open_gradients(store, "all")
    vector = np.concatenate([3 * mapped.units(store, place.space, pool[:1])[pool[0]] for place in space.places])
    found = ask(store, Question(vectors=vector), 2, Where(checkpoint="all"))
    assert found.hits[0].example_id == pool[0]
    assert found.hits[0].similarity == pytest.approx(1, abs=1e-4)
    with pytest.raises(InputError, match="at 2 checkpoints"):
        ask(store, Question(vectors=vector[:512]), 2, Where(checkpoint="all"))


def test_chats_of_a_file_are_asked_together(store, pool, write_jsonl):
    chats = examples.get_messages(store, pool[:3])
    shapes = [
        {"messages": chats[pool[0]]},
        {"prompt": chats[pool[1]][0]["content"], "completion": chats[pool[1]][1]["content"]},
        {"instruction": chats[pool[2]][0]["content"], "output": chats[pool[2]][1]["content"]},
    ]
    found = ask(store, Question(chats=write_jsonl(*shapes)), 2)
    assert [one.hits[0].example_id for one in (found, *found.more)] == pool[:3]
    assert all(one.hits[0].similarity == pytest.approx(1, abs=2e-3) for one in (found, *found.more))
    with pytest.raises(InputError, match=r"rows\.jsonl:2: .*; a question must be a chat"):
        ask(store, Question(chats=write_jsonl(shapes[0], {"nothing": 1})))
    with pytest.raises(InputError, match="holds no chat"):
        ask(store, Question(chats=write_jsonl()))


@pytest.mark.parametrize(
    "chat", ["hello", [], [{"role": "user"}], [{"role": "user", "content": None}], {"role": "user"}]
)
def test_what_is_no_chat_is_refused(store, chat):
    with pytest.raises(InputError, match="chat 1 of the questions must be a list of turns"):
        ask(store, Question(chats=[chat]))


def test_a_text_has_an_answer_only_where_that_is_given_or_asked_for(store, monkeypatch):
    with pytest.raises(InputError, match="--answer, or let the model write its own with --greedy"):
        ask(store, Question("What is 2 plus 2?"))
    with pytest.raises(InputError, match="the model answers nothing here"):  # this one has no skill
        ask(store, Question("What is 2 plus 2?", greedy=True), 1)
    monkeypatch.setattr(computed, "own_answer", lambda _store, _space, user: f"{user} 4")
    found = ask(store, Question("What is 2 plus 2?", greedy=True), 1)
    assert (found.generated, found.assistant) == (True, "What is 2 plus 2? 4")
    assert not ask(store, Question("What is 2 plus 2?", answer="4"), 1).generated


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(), "give either a text or --id"),
        (Question("a", id="b"), "give either"),
        (Question(id="b", answer="c"), "go with a text"),
        (Question("a", answer="c", greedy=True), "not both"),
        (Question(unlike=("b",)), "--unlike goes with --like"),
        (Question(like=("zz",)), "no example has an id"),
        (Question(id="' OR 1"), "no example has an id"),
        (Question(chats=Path("missing.jsonl")), "^there is no file missing.jsonl with chats to ask with$"),
    ],
)
def test_a_question_that_is_none_is_refused(store, question, words):
    with pytest.raises(InputError, match=words):
        ask(store, question)


def test_no_rows_are_refused_for_what_they_are(store):
    with pytest.raises(InputError, match=r"^--top \(-k\) is 0; ask for one row at least$"):
        ask(store, Question(id="a"), 0)


def test_like_and_unlike_may_not_be_the_same(store, pool):
    with pytest.raises(InputError, match="is given with --like and with --unlike"):
        ask(store, Question(like=pool[:2], unlike=pool[1:3]))
    found = ask(store, Question(like=pool[:2], unlike=pool[5:7]), len(pool))
    assert not {hit.example_id for hit in found.hits} & {*pool[:2], *pool[5:7]}


def test_filters_that_narrow_down_all_the_same_come_before_the_nearest(store, pool, plain):
    """The nearest of what is left, not what is left of the nearest: those of another source are all far away."""
    sources = examples.sources_of(store, pool)
    chosen = selections.get(store, "small-sql").example_ids
    far = {s: [i for i in plain if sources[i].source == s] for s in {sources[i].source for i in plain}}
    for source, ids in far.items():
        found = ask(store, Question(id=chosen[0]), 3, Where(filters=Filter(sources=(source,))))
        rows = {i: plain[i] for i in ids}
        assert [h.example_id for h in found.hits] == [i for i, _ in by_hand(plain[chosen[0]], rows, chosen[:1], 3)]
        assert found.among == len(matching(store, Filter(sources=(source,))))
    assert len(far) > 3


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("100..2000", Range(100, 2000)),
        ("..2000", Range(None, 2000)),
        (" 0.5 .. ", Range(0.5, None)),
        ("7", Range(7, 7)),
        ("-1e-3..2", Range(-0.001, 2)),
        ("0..1e999", Range(0, float("inf"))),
    ],
)
def test_ranges_are_read_as_they_are_written(written, read):
    assert range_of(written, "chars") == read
    assert filter_of(score=f"a:b:{written}").score == Of("a:b", read)


@pytest.mark.parametrize("written", ["", "..", "a..b", "1..2..3", "nan", "nan..2", "1,2"])
def test_what_is_no_range_is_refused(written):
    with pytest.raises(InputError, match="is no range; write 100"):
        range_of(written, "chars")


def test_filters_say_what_is_wrong(store):
    for wanted, words in (
        (Filter(sources=("nowhere",)), r"no example passes the filters \(sources\); sources here: .*sql"),
        (Filter(selected_in="nothing"), "no selection 'nothing'"),
        (Filter(cluster=Of("small-sql", Range(1, 1))), "recorded no cluster of its pool: it has"),
        (Filter(where="nonsense = 1"), "no such column: nonsense"),
        (Filter(where="1 = 0) or (1 = 1"), 'near "\\)": syntax error'),
        (Filter(sources=("sql",), where="1 = 0) or (1 = 1"), 'near "\\)": syntax error'),
        (Filter(chars=Range(10**9, None), selected_in="small-sql"), r"\(chars, selected_in\)"),
    ):
        with pytest.raises(InputError, match=words):
            matching(store, wanted)
    with pytest.raises(InputError, match="names no selection; write NAME"):
        filter_of(score="0.2..")


def test_a_predicate_may_end_in_a_comment_beside_other_filters(store):
    alone = matching(store, Filter(where="chars > 100"))
    assert matching(store, Filter(where="chars > 100 -- long", loss=Range(0, None))) == sorted(
        set(alone) & set(matching(store, Filter(loss=Range(0, None))))
    )


def test_no_end_may_be_written_as_an_infinite_one(store):
    for field in ("chars", "loss"):
        there = matching(store, filter_of(**{field: "0.."}))
        assert matching(store, filter_of(**{field: "0..inf"})) == there
        assert matching(store, filter_of(**{field: "-inf..1e400"})) == there
        with pytest.raises(InputError, match="no example passes"):
            matching(store, filter_of(**{field: "inf"}))


def test_a_stored_row_has_one_neighbour_or_more(store, pool):
    assert len(store.neighbours(pool[0], 1)) == 1
    for k in (0, -1):
        with pytest.raises(InputError, match=f"k must be 1 or more, not {k}"):
            store.neighbours(pool[0], k)


def test_a_quoted_name_is_text(store):
    with pytest.raises(InputError, match="no example passes"):
        matching(store, Filter(sources=("sql' OR 'a' = 'a",), licences=("it's",)))


def test_licences_are_filters_and_an_unknown_one_is_null(copy):
    ids = features.ids_with_rows(copy, open_gradients(copy).places[-1].space)
    with copy.catalog.write() as db:
        db.execute("UPDATE origin SET licence='mit'")
        db.execute("UPDATE origin SET licence=NULL WHERE example_id=?", (ids[1],))
        db.execute("UPDATE origin SET licence='it''s' WHERE example_id=?", (ids[2],))
    assert matching(copy, Filter(licences=("null",))) == [ids[1]]
    assert matching(copy, Filter(licences=("it's", "null"))) == sorted(ids[1:3])
    assert set(matching(copy, Filter(licences=("mit", "null", "it's")))) >= set(ids)


def test_clusters_of_a_selection_are_filters(copy):
    (made,) = gradsift.select("kmq", options={"clusters": 4}, examples=8, store=copy)
    table = selections.details(copy, selections.get(copy, made.version))
    number = table["cluster"].to_pylist()[0]
    inside = {
        i for i, c in zip(table["example_id"].to_pylist(), table["cluster"].to_pylist(), strict=True) if c == number
    }
    found = gradsift.query(id=min(inside), cluster=f"{made.version}:{number}", k=500, store=copy)
    assert {hit.example_id for hit in found.hits} == inside - {min(inside)}


def test_marked_rows_have_left_the_pool(copy, pool):
    """They are found with `everything`, where they have rows."""
    with copy.catalog.write() as db:
        db.execute("DELETE FROM membership WHERE example_id=?", (pool[3],))
        (screening,) = db.rows("SELECT max(screening_id) AS n FROM screening")
        db.execute("INSERT INTO mark VALUES (?, ?, 'semantic', ?, 0.99)", (screening["n"], pool[3], pool[4]))
    here = gradsift.query(id=pool[5], mark="semantic", store=copy)
    assert (here.hits, here.among) == ([], 1)
    found = gradsift.query(id=pool[5], mark="semantic", everything=True, store=copy)
    assert [hit.example_id for hit in found.hits] == [pool[3]]


def test_answers_are_a_table(store, pool, tmp_path):
    found = gradsift.query(id=pool[0], k=3, parquet=tmp_path / "hits.parquet", store=store)
    table = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [(row["question"], row["rank"], row["example_id"]) for row in table] == [
        (0, hit.rank, hit.example_id) for hit in found.hits
    ]
    assert table[0]["layers"] is None
    with pytest.raises(InputError, match="cannot write"):
        gradsift.query(id=pool[0], parquet=tmp_path / "none" / "hits.parquet", store=store)


def test_layers_that_agree_are_told_where_rows_are_by_module(recipe_data, tmp_path):
    few = {"pool": [{"path": recipe_data["pool"][0]["path"], "rows": 24}], "validate": None}
    of = {"features": {"projector": {"dim": 64, "per_module": True}, "row_dtype": "f16", "transform": "sgd"}}
    with Store(tmp_path / "store") as store:
        curate(parse_recipe(recipe_data | few | of | {"select": {"examples": 5}}), store)
        space = open_gradients(store)
        ids = features.ids_with_rows(store, space.places[0].space)
        found = ask(store, Question(id=ids[0]), 3)
        names = features.modules_of(store, space.places[0].space)
        rows = mapped.units(store, space.places[0].space, ids)
        for hit in found.hits:
            parts = rows[ids[0]].reshape(len(names), 64), rows[hit.example_id].reshape(len(names), 64)
            for name, one, other in zip(names, *parts, strict=True):
                lengths = np.linalg.norm(one) * np.linalg.norm(other)
                if lengths:
                    assert hit.layers[name] == pytest.approx(float(one @ other / lengths), abs=1e-3)
        assert len(names) > 3
        itself = ask(store, Question(chats=[examples.get_messages(store, ids[:1])[ids[0]]]), 1).hits[0]
        assert list(itself.layers.values()) == pytest.approx([1] * len(itself.layers), abs=1e-2)


def test_layers_are_named_by_what_tells_them_apart():
    names = ["model.layers.0.q_proj.lora_A", "model.layers.1.q_proj.lora_A", "model.layers.1.v_proj.lora_A"]
    short = short_names(names)
    assert list(short.values()) == ["0.q_proj", "1.q_proj", "1.v_proj"]
    assert (
        agreeing(dict(zip(names, (0.5, 0.25, -1), strict=True)), short)
        == "0.q_proj +0.50, 1.q_proj +0.25, 1.v_proj -1.00"
    )
    assert short_names([]) == {}
    assert short_names(["weight"]) == {"weight": "weight"}


def test_a_question_by_id_loads_neither_torch_nor_pandas(finished, pool):
    code = (
        "import gradsift, sys, json\n"
        f"found = gradsift.query(id={pool[0]!r}, store={str(finished[1])!r}, k=3)\n"
        f"gradsift.query(like=[{pool[0]!r}], unlike=[{pool[1]!r}], opposed=True, store={str(finished[1])!r})\n"
        f"gradsift.query(target='sql', store={str(finished[1])!r})\n"
        "print(json.dumps([len(found.hits), sorted(sys.modules)]))"
    )
    hits, loaded = json.loads(python("-c", code, cwd=ROOT).stdout.splitlines()[-1])
    assert hits == 3
    assert not {"torch", "transformers", "pandas", "prefect", "faiss"} & set(loaded)


def test_an_open_store_has_neighbours_without_a_model(finished, pool):
    code = (
        "import gradsift, numpy, sys\n"
        f"with gradsift.open_store({str(finished[1])!r}) as store:\n"
        f"    near = store.neighbours({pool[0][:12]!r}, 3)\n"
        "assert type(near[0].cosine) is float, near\n"
        "print('torch' in sys.modules, ' '.join(n.example_id for n in near))"
    )
    torch, *ids = python("-c", code, cwd=ROOT).stdout.split()
    assert torch == "False"
    with Store(finished[1]) as store:
        assert ids == [hit.example_id for hit in ask(store, Question(id=pool[0]), 3).hits]


def test_neighbours_of_a_store_are_those_of_a_query(store, pool, plain):
    def same(near, found):
        assert [n.example_id for n in near] == [hit.example_id for hit in found.hits]
        assert [n.cosine for n in near] == pytest.approx([hit.similarity for hit in found.hits], abs=1e-4)

    same(store.neighbours(pool[3], 5, opposed=True), ask(store, Question(id=pool[3]), 5, opposed=True))
    same(store.neighbours(pool[:2], 5, unlike=pool[5:7]), ask(store, Question(like=pool[:2], unlike=pool[5:7]), 5))
    narrow = Where(checkpoint=0, filters=Filter(where="chars < 100"))
    same(
        store.neighbours(pool[3], 500, checkpoint=0, where="chars < 100"), ask(store, Question(id=pool[3]), 500, narrow)
    )
    vector = 7 * plain[pool[4]].astype(np.float64)
    same(store.neighbours(vector, 2), ask(store, Question(vectors=vector), 2))
    for wrong, words in (
        (lambda: store.neighbours("zz"), "no example has an id"),
        (lambda: store.neighbours([]), "give an example"),
        (lambda: store.neighbours(np.zeros(512)), "points nowhere"),
        (lambda: store.neighbours(np.ones((2, 512))), "one dimension"),
        (lambda: store.neighbours(np.ones(5)), "do not fit"),
        (lambda: store.neighbours(pool[0], checkpoint=9), "no checkpoint 9"),
    ):
        with pytest.raises(InputError, match=words):
            wrong()


def test_a_row_of_adam_is_no_question(copy, pool):
    plain = [row.space_id for row in runs.last_run(copy).result.rows if row.role == "plain"]
    with copy.catalog.write() as db:
        for space in plain:
            db.execute("DELETE FROM feature_row WHERE space_id=?", (space,))
    with pytest.raises(InputError, match="has no plain gradient of example"):
        copy.neighbours(pool[0])
