"""Words as a space: what the index holds, what becomes of it, and what its similarities are."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from gradsift import query
from gradsift.cli.asking import _show
from gradsift.datastore import examples, files, kept, maintenance, picks, runs, selections
from gradsift.datastore.chats import text
from gradsift.datastore.errors import BusyError, CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.store import Store
from gradsift.pipelines.query import word_index, words
from gradsift.pipelines.query.filters import Filter, matching
from gradsift.pipelines.query.word_index import open_index
from gradsift.pipelines.query.words import Words, open_words
from gradsift.pipelines.runs import forget
from gradsift.scorers.lexical import bm25


def chat(said, answer="yes"):
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]


def pool_of(store, texts, name="pool"):
    batch = [Example(example_id(chat(said)), chat(said), "made", "file.jsonl", k) for k, said in enumerate(texts, 1)]
    examples.add(store, batch)
    return examples.define_dataset(store, "pool", name, {e.example_id: "" for e in batch})


def held(store):
    folder = store.root / kept.FOLDER
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.is_dir() else []


def space_of(store, dataset):
    return Words(store, open_index(store, dataset.dataset_id))


TEXTS = [
    "The cat sat on the mat.", "the dog, the dog!", "İstanbul and Ärger are words, too", "", "!!! ???", "cat " * 50,
    "select name from users where age > 30", "x" * 5000, "cat dog mat", "one two three four five six seven",
]  # fmt: skip


@pytest.mark.parametrize("block", [1 << 20, 10], ids=["one block", "many blocks"])
def test_classical_scores_are_those_of_bm25s(store, monkeypatch, block):
    monkeypatch.setattr(word_index, "BLOCK_ENTRIES", block)
    dataset = pool_of(store, TEXTS)
    space = space_of(store, dataset)
    assert (len(space.index.parts) > 1) == (block == 10)
    assert space.index.ids.to_pylist() == dataset.example_ids
    chats = examples.get_messages(store, dataset.example_ids)
    pool = [text(chats[i]) for i in dataset.example_ids]
    questions = ["the cat and a zebra", "dog dog", "İstanbul", "yes"]
    expected = bm25(pool, questions)
    for column, question in enumerate(questions):
        found = space.scores(question, dataset.example_ids)
        assert found == pytest.approx(expected[:, column].tolist(), abs=1e-6)
    assert space.scores("cat", ["nobody"]) == [0.0]
    (usual,) = space.typical(space.of_chats([chat("the cat")]), [()])
    assert usual.rows == len(dataset.example_ids)
    assert 0 <= usual.lowest <= usual.highest <= 1


def test_a_row_is_the_nearest_to_its_own_text_though_longer_ones_repeat_it(store):
    said = "the cat sat on the mat"
    dataset = pool_of(store, [said, f"{said} " * 8, f"{said} and slept", "the dog barked"])
    own, long, *_ = (example_id(chat(t)) for t in (said, f"{said} " * 8))
    space = space_of(store, dataset)
    scores = dict(zip(dataset.example_ids, space.scores(text(chat(said)), dataset.example_ids), strict=True))
    assert scores[long] > scores[own]  # what BM25 itself would put first
    (near,) = space.near(space.of_chats([chat(said)]), 4).near
    assert near[0].example_id == own
    assert near[0].similarity == pytest.approx(1, abs=1e-6)
    assert near[1].similarity < 0.999


def test_words_that_the_pool_lacks_make_a_question_less_like_any_row(store, monkeypatch):
    space = space_of(store, pool_of(store, TEXTS))
    alone = space.near(space.of_chats([chat("cat dog mat")]), 1).near[0][0]
    with_more = space.near(space.of_chats([chat("cat dog mat giraffe zebra")]), 1).near[0][0]
    assert with_more.example_id == alone.example_id
    assert with_more.similarity < 0.8 < alone.similarity
    assert {n.similarity for n in space.near(space.of_chats([chat("giraffe", "zebra")]), 5).near[0]} == {0.0}
    with pytest.raises(InputError, match="chat 2 of the questions has no word"):
        space.of_chats([chat("a"), [{"role": "user", "content": " "}]])
    with pytest.raises(InputError, match="do not fit a vocabulary of"):
        space.near(np.ones((1, 3), np.float32), 5)
    assert space.of_chats([[{"role": "user", "content": "half \ud800 of a yes"}]]).any()  # as a shell may pass it on
    monkeypatch.setattr(words, "MOST_NUMBERS", 3 * len(space.index.vocabulary))
    with pytest.raises(InputError, match="ask 3 chats at a time"):
        space.of_chats([chat("a")] * 4)


def test_a_pool_without_a_word_is_told(store):
    batch = [Example(example_id([{"role": "user", "content": " "}]), [{"role": "user", "content": " "}], "made")]
    examples.add(store, batch)
    dataset = examples.define_dataset(store, "pool", "bare", {batch[0].example_id: ""})
    with pytest.raises(InputError, match="'bare' has no text with a word"):
        open_index(store, dataset.dataset_id)
    assert held(store) == []


def test_the_index_is_built_once_for_a_pool_and_anew_for_another(store, monkeypatch):
    first = pool_of(store, TEXTS)
    told = []
    open_index(store, first.dataset_id, lambda stage, done, total: told.append((stage, done, total)))
    assert ("words of the pool", 10, 10) in told
    assert ("weights of words", 10, 10) in told
    with monkeypatch.context() as patch:
        patch.setattr(word_index, "_build", lambda *_: pytest.fail("it is there"))
        open_index(store, first.dataset_id)
    before = held(store)
    second = pool_of(store, [*TEXTS, "one more"])
    assert "more" in open_index(store, second.dataset_id).vocabulary.to_pylist()
    (now,) = held(store)
    assert now not in before
    assert second.digest in now


def test_a_damaged_index_is_made_again(store):
    dataset = pool_of(store, TEXTS)
    open_index(store, dataset.dataset_id)
    (name,) = held(store)
    path = store.root / kept.FOLDER / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert len(open_index(store, dataset.dataset_id)) == 10
    assert held(store) == [name]
    assert path.read_bytes() != bytes(content)


@pytest.mark.parametrize("harm", ["word", "column", "bytes"])
def test_a_strangers_index_is_no_way_into_memory(store, harm):
    """Its digest is right, as whoever wrote it can make it: numbers out of bounds are told before they are used."""
    dataset = pool_of(store, TEXTS)
    open_index(store, dataset.dataset_id)

    def fill(handle):
        words = pa.DictionaryArray.from_arrays(pa.array([0, 7_000_000], pa.int32()), pa.array(["cat"]), safe=False)
        pairs = pa.StructArray.from_arrays([words, pa.array([1.0, 1.0], pa.float32())], fields=list(word_index.PAIR))
        rows = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), pairs)
        names = ["example_id", "words", "length"] if harm == "word" else ["example_id", "wards", "length"]
        table = pa.RecordBatch.from_arrays([pa.array(["a"]), rows, pa.array([1.0])], names)
        if harm == "bytes":
            handle.write(b"nothing of that kind")
            return
        with pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_batch(table)

    kept.keep(store, word_index.KIND, dataset.digest, fill)
    with pytest.raises(CorruptionError, match="no index of words; delete it"):
        open_index(store, dataset.dataset_id)


def delete(store, example):
    return forget.delete(store, lambda there: picks.by_ids(there, [example]))


def test_promise_8_a_deleted_text_is_in_no_index_of_words(searched, tmp_path):
    shutil.copytree(searched, tmp_path / "store", ignore=shutil.ignore_patterns("kept"))
    with Store(tmp_path / "store") as store:
        space = open_words(store)
        example = examples.get_dataset(store, runs.last_run(store).result.ingest.pool.used_dataset_id).example_ids[3]
        (before,) = held(store)
        old = (store.root / kept.FOLDER / before).read_bytes()
        delete(store, example)
        assert held(store) == []
        again = open_words(store)
        assert len(again.index) == len(space.index) - 1
        assert example not in again.index.ids.to_pylist()
        (now,) = held(store)
        assert now != before
        # Another host's folder of this store still has one: `gradsift gc` there finds it.
        (store.root / kept.FOLDER / before).write_bytes(old)
        assert (f"kept/{before}", len(old)) in maintenance.garbage(store)
        assert f"kept/{before}" in [name for name, _ in maintenance.collect(store)]
        assert held(store) == [now]


@pytest.mark.parametrize("late", [False, True], ids=["deleted while it is written", "and its file is gone"])
def test_promise_8_an_index_that_is_being_built_does_not_outlive_a_deletion(store, late):
    dataset = pool_of(store, TEXTS)

    def meanwhile(step):
        if step == "filled":
            files.failpoint = lambda _step: None
            with Store(store.root) as other:
                if late:
                    delete(other, dataset.example_ids[0])
                else:
                    with other.catalog.write() as db:
                        db.execute("UPDATE dataset SET void='1 example was deleted'")

    files.failpoint = meanwhile
    with pytest.raises(BusyError, match="run this again"):
        open_index(store, dataset.dataset_id)
    assert held(store) == []


def test_garbage_has_its_grace_and_what_is_not_ours_stays(store):
    dataset = pool_of(store, TEXTS)
    open_index(store, dataset.dataset_id)
    folder = store.root / kept.FOLDER
    half = folder / f"{kept.TMP_PREFIX}{'0' * 32}"
    half.write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    assert maintenance.collect(store) == []
    assert [name for name, _ in maintenance.collect(store, grace=-1)] == [f"kept/{half.name}"]
    assert "notes.txt" in held(store)


def test_nothing_is_written_through_a_link(store, tmp_path):
    dataset = pool_of(store, TEXTS)
    (tmp_path / "elsewhere").mkdir()
    (store.root / kept.FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptionError, match="is a link"):
        open_index(store, dataset.dataset_id)
    assert maintenance.collect(store, grace=-1) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_who_asks_sees_that_an_index_is_built(searched, tmp_path):
    shutil.copytree(searched, tmp_path / "store", ignore=shutil.ignore_patterns("kept"))
    told = []
    with Store(tmp_path / "store") as store:
        example = examples.get_dataset(store, runs.last_run(store).result.ingest.pool.used_dataset_id).example_ids[0]
        for _ in range(2):
            found = query(id=example, space="bm25", k=1, store=store, progress=lambda *line: told.append(line))
            assert len(found.hits) == 1
            said = text(examples.get_messages(store, [example])[example])
            assert [found.hits[0].score] == pytest.approx(
                open_words(store).scores(said, [found.hits[0].example_id]), abs=1e-4
            )
    rows = told[-1][2]
    assert told == [("words of the pool", rows, rows), ("weights of words", rows, rows)]


def test_a_row_without_a_word_of_the_question_is_no_answer(searched, capsys):
    with Store(searched) as store:
        nothing = query("zyxwv", space="bm25", store=store)
        few = query("zyxwv table", space="bm25", k=1000, store=store)
    assert (nothing.hits, nothing.note) == ([], "no row shares a word with it")
    _show(nothing)
    said = capsys.readouterr().out
    assert "Note: no row shares a word with it." in said
    assert "assistant" not in said  # there is no answer to show
    assert all(hit.similarity > 0 for hit in few.hits)


def test_rows_that_screening_left_out_are_found_by_their_words(copy):
    """They have no gradients: an answer says so, and how they are found."""
    reason = next(one.reason for one in runs.last_run(copy).result.ingest.pool.left_out if one.examples)
    marked = matching(copy, Filter(mark=reason))
    near = {"id": selections.get(copy, "small-sql").example_ids[0], "mark": reason, "k": 1000, "store": copy}
    members, nothing = query(**near), query(**near, everything=True)
    assert (members.hits, nothing.hits) == ([], [])
    assert members.note.endswith("rows that left it: --everything")
    assert nothing.note.startswith(f"{len(marked)} pass the filters, none has a gradient: ")
    assert "--space bm25 --everything finds them" in nothing.note
    assert query(**near, space="bm25").hits == []
    found = query(**near, space="bm25", everything=True)
    assert found.hits
    assert {hit.example_id for hit in found.hits} <= set(marked)
    own = query(chats=list(examples.get_messages(copy, marked[:1]).values()), space="bm25", everything=True, store=copy)
    assert own.hits[0].similarity == pytest.approx(1, abs=1e-4)
    assert [name.split("-")[0] for name in held(copy)] == [word_index.KIND_OF_ALL, word_index.KIND]
    delete(copy, marked[0])
    assert [name.split("-")[0] for name in held(copy)] == [word_index.KIND]  # the other had it
    left = query(
        chats=list(examples.get_messages(copy, marked[1:2]).values()), k=1000, space="bm25", everything=True, store=copy
    )
    assert marked[0] not in [hit.example_id for hit in left.hits]
