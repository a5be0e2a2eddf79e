"""Screening: what is marked and why, that it is reversible, and that it does not depend on how rows came."""

import pytest

from gradsift.datastore import examples, marks
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.pool import screen as screening
from gradsift.pipelines.pool.marked import marked
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

LONG = "Explain to a new colleague in plain words why the sky over the harbour looks so red on some summer evenings"
ANSWER = (
    "Because light from a low sun passes through more air, which scatters blue away and leaves the longer red waves"
)
TEST = (
    "Write a short note about how bees find their way home after a long flight over fields that they never saw before"
)


def chat(question, answer, system=None):
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def fillers(count=20):
    rows = []
    for k in range(count):
        words = " ".join(f"w{k}x{j}" for j in range(12))
        rows.append(chat(f"Question {words}", f"Answer {words}") | {"source": "filler"})
    return rows


@pytest.fixture
def make(tmp_path, write_jsonl):
    """(rows of the pool, settings) → (store, run result): a mixture of one row, with screening."""
    number = 0

    def run(*rows, test=None, store=None, mix=None, **settings):
        nonlocal number
        number += 1
        pool = write_jsonl(*rows, name=f"pool{number}.jsonl")
        data = {"name": "screened", "pool": [{"path": str(pool)}], "mix": mix or {"examples": 1}, **settings}
        if test is not None:
            val = write_jsonl(chat("an unrelated question", "an answer"), name=f"val{number}.jsonl")
            held_out = write_jsonl(*test, name=f"test{number}.jsonl")
            data["targets"] = {"t": {"val": {"path": str(val)}, "test": {"path": str(held_out)}}}
        opened = store or Store(tmp_path / f"store{number}")
        return opened, curate(parse_recipe(data), opened)

    return run


def left_out(result):
    return {row.reason: row.examples for row in result.ingest.pool.left_out}


def pairs(store, reason):
    return [(p.text, p.twin_text) for p in marked(store, reason).pairs]


def test_planted_duplicates_are_found_with_their_twins(make):
    store, result = make(
        *fillers(),
        chat(LONG, ANSWER),
        chat(LONG.upper(), f"  {ANSWER}\n"),
        chat(LONG, ANSWER.replace("waves", "ones")),
        dedup={},
    )
    assert left_out(result) == {"exact": 1, "near_duplicate": 1}
    assert result.ingest.pool.used == 21
    found = [m for n in result.ingest.pool.screenings for m in marks.of_screening(store, n)]
    kept = set(examples.get_dataset(store, result.ingest.pool.used_dataset_id).example_ids)
    assert all(m.twin in kept and m.example_id not in kept and m.similarity >= 0.8 for m in found)
    assert {m.similarity for m in found if m.reason == "exact"} == {1.0}


def test_signs_make_a_difference(make):
    """3 + 4 is not 3 − 4, though their words are the same."""
    _, result = make(*fillers(), chat("What is 3 + 4?", "7"), chat("What is 3 - 4?", "7"), dedup={})
    assert left_out(result) == {}


def test_a_shared_system_turn_makes_no_duplicates(make):
    system = " ".join(f"rule{k}" for k in range(200))
    rows = [chat(f"What about {k * 7919}, {k} and {k + 3}?", f"It is {k}.", system) for k in range(6)]
    _, result = make(*rows, dedup={"minhash": {"threshold": 0.5}})
    assert left_out(result) == {}


def test_leaks_are_left_out_and_name_the_test_row(make):
    asked = TEST.replace("short note", "long letter")
    store, result = make(
        *fillers(), chat(f"Hello! {asked}. Thanks.", "No idea."), chat(TEST, "They look at the sun!"),
        test=[chat(TEST, "They look at the sun.")],
    )  # fmt: skip
    assert left_out(result) == {"leak_ngrams": 2}
    assert all(TEST in twin for _, twin in pairs(store, "leak_ngrams"))


def test_an_answer_alone_is_no_leak(make):
    """Answers of one kind (SQL, code) share n-grams; the rule looks at what users ask."""
    query = "SELECT name FROM users AS u JOIN orders AS o ON o.user = u.id WHERE o.total > 10 ORDER BY u.name"
    _, result = make(*fillers(), chat("Who bought much?", f"{query} LIMIT 5"), test=[chat("Which users?", query)])
    assert left_out(result) == {}


def test_a_short_test_row_is_found_as_near_duplicate(make):
    _, result = make(*fillers(), chat("Capital of Peru?", "lima"), test=[chat("Capital of Peru?", "Lima")])
    assert left_out(result) == {"leak_near_duplicate": 1}


def test_boilerplate_of_a_source_is_no_leak(make):
    frame = "Translate the question into SQL for the university advising database. Question:"
    rows = [chat(f"{frame} which {k} teach {k}x and {k}y", f"SELECT {k}") for k in range(30)]
    _, result = make(*rows, test=[chat(f"{frame} who is there now", "SELECT who")])
    assert left_out(result) == {}
    _, strict = make(
        *fillers(), *rows, test=[chat(f"{frame} who is there now", "SELECT who")], decontaminate={"common": 99}
    )
    assert left_out(strict) == {"leak_ngrams": 30}


def test_more_sets_can_be_named(make, write_jsonl):
    bench = write_jsonl(chat(TEST, "x"), name="bench.jsonl")
    _, result = make(*fillers(), chat(TEST, "y"), decontaminate={"sets": {"bench": {"path": str(bench)}}})
    assert left_out(result) == {"leak_ngrams": 1}


def test_without_the_section_everything_stays_and_nothing_was_deleted(make):
    rows = [*fillers(), chat(LONG, ANSWER), chat(LONG.upper(), ANSWER)]
    store, first = make(*rows, dedup={})
    assert first.ingest.pool.used == 21
    _, second = make(*rows, store=store)
    assert second.ingest.pool.used == 22
    assert second.ingest.pool.new == 0


def test_an_example_can_be_kept(make):
    rows = [*fillers(), chat(LONG, ANSWER), chat(LONG.upper(), ANSWER)]
    store, first = make(*rows, dedup={})
    gone = marks.of_screening(store, first.ingest.pool.screenings[0])[0].example_id
    _, second = make(*rows, store=store, dedup={"keep": [gone]})
    kept = examples.get_dataset(store, second.ingest.pool.used_dataset_id).example_ids
    assert gone in kept
    assert len(kept) == 21
    with pytest.raises(InputError, match="the pool has no example 'nobody'"):
        make(*rows, store=store, dedup={"keep": ["nobody"]})


@pytest.mark.parametrize("preferred", ["good", "bad"])
def test_the_preferred_source_stays(make, preferred):
    rows = [chat(LONG, ANSWER) | {"source": "good"}, chat(LONG.upper(), ANSWER) | {"source": "bad"}]
    _, result = make(*fillers(), *rows, dedup={"prefer": [preferred]})
    assert preferred in result.ingest.pool.used_by_source
    with pytest.raises(InputError, match="the pool has no source 'goood'"):
        make(*fillers(), *rows, dedup={"prefer": ["goood"]})


def test_the_order_of_rows_and_earlier_contents_change_nothing(make):
    rows = [
        *fillers(),
        *(chat(LONG, ANSWER.replace("waves", s)) | {"source": s} for s in ("summer", "autumn", "winter")),
    ]
    test = [chat(TEST, "x")]
    _, first = make(*rows, dedup={}, test=test)
    store, _ = make(*fillers(30)[25:])
    _, second = make(*rows[::-1], store=store, dedup={}, test=test)
    assert first.mixtures[0].digest == second.mixtures[0].digest
    assert first.ingest.pool.used_by_source == second.ingest.pool.used_by_source


def test_a_killed_screening_goes_on(make, monkeypatch):
    """Signatures of shards that were done are not computed again."""
    from gradsift.pipelines.pool import ingest

    monkeypatch.setattr(ingest, "BATCH_ROWS", 5)
    rows = [*fillers(), chat(LONG, ANSWER), chat(LONG.upper(), ANSWER)]
    signed, real = [], screening.dedup.signatures

    def counted(shingles, permutations):
        signed.append(1)
        if len(signed) == 3:
            raise KeyboardInterrupt
        return real(shingles, permutations)

    monkeypatch.setattr(screening.dedup, "signatures", counted)
    store, _ = make(*fillers(3))
    with pytest.raises(KeyboardInterrupt):
        make(*rows, store=store, dedup={})
    assert len(signed) == 3
    _, result = make(*rows, store=store, dedup={})
    assert left_out(result) == {"exact": 1}
    assert len(signed) == 7, "6 shards (one was there before the run), of which 2 were done before it was killed"


def test_semantic_by_gradients(recipe_data, finished, tmp_path):
    """SemDeDup over rows that the store holds: near-duplicates that were planted fall out, the pass is not repeated."""
    import shutil

    shutil.copytree(finished[1], tmp_path / "copy")
    data = recipe_data | {"validate": None, "dedup": {"minhash": None, "exact": False,
                          "semantic": {"represent": "gradients", "epsilon": 0.3, "clusters": 1}}}  # fmt: skip
    with Store(tmp_path / "copy") as store:
        result = curate(parse_recipe(data), store)
        assert sum(row.computed for row in result.rows) == 0
        gone = left_out(result)["semantic"]
        assert gone > 0
        assert result.ingest.pool.used == result.ingest.pool.examples - gone - sum(
            n for reason, n in left_out(result).items() if reason != "semantic"
        )
        found = marked(store, "semantic").pairs
        assert all(p.similarity > 0.7 for p in found)


def test_semantic_by_a_sentence_encoder_needs_no_model(make, encoder_dir):
    """Before any gradient: rows of the encoder are kept in the store, the marks do not depend on where it lies."""
    rows = [*fillers(6), chat(LONG, ANSWER), chat(f"{LONG} indeed", ANSWER)]
    section = {
        "minhash": None,
        "exact": False,
        "semantic": {"represent": "encoder", "encoder": str(encoder_dir), "epsilon": 1e-3, "clusters": 1},
    }
    store, result = make(*rows, dedup=section)
    found = marked(store, "semantic").pairs
    assert len(found) == left_out(result)["semantic"] >= 1
    assert all(p.similarity > 0.999 for p in found)
    assert any(LONG in p.text for p in found)
    with pytest.raises(InputError, match="go together"):
        make(*rows, dedup={"semantic": {"represent": "encoder"}})


def test_settings_that_leave_nothing_are_refused(make):
    with pytest.raises(InputError, match="screening leaves nothing of pool 'screened'"):
        make(chat(TEST, "x"), test=[chat(TEST, "y")])


def test_marks_of_an_unknown_reason(make):
    store, _ = make(*fillers())
    with pytest.raises(InputError, match="left nothing out for 'exact'"):
        marked(store, "exact")
