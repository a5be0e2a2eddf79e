"""`POST /query`: what a program asks of a store over HTTP."""

import json
import re
import threading
from dataclasses import asdict

import pytest
from fastapi.testclient import TestClient
from running import ROOT

from gradsift.datastore import examples, features, runs, selections
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.store import Store
from gradsift.explorer.api import BODY_BYTES
from gradsift.explorer.app import make_app
from gradsift.pipelines.query import computed
from gradsift.pipelines.query.filters import Filter, Range
from gradsift.pipelines.query.query import Question, Where, ask


@pytest.fixture(scope="module")
def store(searched):
    with Store(searched) as opened:
        yield opened


@pytest.fixture(scope="module")
def chosen(store):
    return selections.get(store, "small-sql").example_ids


@pytest.fixture
def client(store):
    with TestClient(make_app(store), base_url="http://localhost") as made:
        yield made


@pytest.fixture
def without(store):
    """A page that may load no model."""
    with TestClient(make_app(store, models=False), base_url="http://localhost") as made:
        yield made


def same(answer, expected):
    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(json.dumps(asdict(expected)))


@pytest.mark.parametrize("space", ["gradients", "embedding", "encoder", "bm25"])
def test_an_answer_is_that_of_the_library(without, store, chosen, space):
    asked = {"id": chosen[0][:10], "k": 4, "space": space, "filters": {"chars": "..2000", "where": "line > 3"}}
    filters = Filter(chars=Range(None, 2000), where="line > 3")
    same(without.post("/query", json=asked), ask(store, Question(id=chosen[0]), 4, Where(space, filters=filters)))
    asked |= {"opposed": True, "filters": {}}
    same(without.post("/query", json=asked), ask(store, Question(id=chosen[0]), 4, Where(space), opposed=True))


def test_the_example_in_the_docs_is_a_question(without, chosen):
    (block,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "search.md").read_text("utf-8"), re.M | re.S)
    asked = json.loads(block)
    told = without.post("/query", json=asked | {"id": chosen[0][:8]})
    assert told.status_code == 200, told.text
    assert len(told.json()["hits"]) == asked["k"]
    assert all(hit["source"] in asked["filters"]["sources"] for hit in told.json()["hits"])


def test_every_question_can_be_asked(client, store, chosen):
    """The text of a stored row finds it; a difference, a target and a vector are asked like an id."""
    chat = examples.get_messages(store, chosen[:1])[chosen[0]]
    text = {"text": chat[0]["content"], "answer": chat[1]["content"]}
    for asked in (text, {"chats": [chat]}, {"chats": [[{"from": "human", "value": text["text"]},
                                                      {"from": "gpt", "value": text["answer"]}]]}):  # fmt: skip
        found = client.post("/query", json=asked | {"k": 1}).json()
        assert found["hits"][0]["example_id"] == chosen[0]
        assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    both = client.post("/query", json={"chats": [chat, chat], "k": 2}).json()
    assert [hit["example_id"] for hit in both["more"][0]["hits"]] == [hit["example_id"] for hit in both["hits"]]
    same(client.post("/query", json={"target": "sql"}), ask(store, Question(target="sql")))
    pair = {"like": [chosen[0]], "unlike": [chosen[1]]}
    same(client.post("/query", json=pair), ask(store, Question(like=chosen[:1], unlike=chosen[1:2])))
    plain = next(row.space_id for row in reversed(runs.last_run(store).result.rows) if row.role == "plain")
    row = features.read_all(store, plain, chosen[:1]).unit()[0]
    by_vector = client.post("/query", json={"vector": (1e39 * row.astype(float)).tolist(), "k": 1}).json()
    assert by_vector["hits"][0]["example_id"] == chosen[0]


def test_a_text_without_an_answer_is_asked_where_none_is_needed(client, without):
    asked = {"text": "Write SQL: the names of all songs whose size is above 3.", "space": "embedding", "k": 3}
    assert len(client.post("/query", json=asked).json()["hits"]) == 3
    told = client.post("/query", json=asked | {"space": "gradients"})
    assert (told.status_code, "--greedy" in told.json()["error"]) == (400, True)
    found = without.post("/query", json=asked | {"space": "bm25"}).json()
    assert found["hits"][0]["source"].startswith("sql")


@pytest.mark.parametrize("space", ["gradients", "embedding", "encoder"])
def test_without_a_model_a_text_is_refused(without, space):
    told = without.post("/query", json={"text": "What is 2 plus 2?", "answer": "4", "space": space})
    assert told.status_code == 400
    assert "none is loaded here; ask with a stored example" in told.json()["error"]
    told = without.post("/query", json={"text": "What is 2 plus 2?", "greedy": True})
    assert (told.status_code, "takes the model" in told.json()["error"]) == (400, True)


def test_the_model_is_loaded_once_and_works_on_one_question_at_a_time(client, monkeypatch):
    made, inside = [], []

    class Counted(computed.Extractor):
        def __init__(self, job):
            made.append(job)
            super().__init__(job)

        def rows(self, *args, **more):
            assert not inside
            inside.append(1)
            try:
                return super().rows(*args, **more)
            finally:
                inside.clear()

    monkeypatch.setattr(computed, "Extractor", Counted)
    client.post("/query", json={"text": "a", "space": "encoder"})  # whatever an earlier test left goes
    answers = []

    def one(number):
        answers.append(client.post("/query", json={"text": f"What is {number} plus 2?", "answer": "4"}).status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 4
    assert len(made) == 1


def test_many_ask_at_once(client, chosen):
    """In every space, some with a model, while others look."""
    spaces, found = ["gradients", "embedding", "encoder", "bm25"], {}

    def one(number):
        asked = {"space": spaces[number % 4], "k": 3}
        asked |= {"id": chosen[number % 3]} if number % 5 else {"text": "What is 2 plus 2?", "answer": "4"}
        answer = client.post("/query", json=asked)
        found[number] = answer.status_code, len(answer.json().get("hits", []))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(20), (200, 3))


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 400, "give either a text or --id"),
        ({"id": "zz"}, 400, "no example has an id starting with 'zz'"),
        ({"id": "a", "text": "b"}, 400, "give either"),
        ({"id": "a", "kk": 3}, 422, "kk"),
        ({"id": "a", "filters": {"sauce": ["x"]}}, 422, "filters.sauce"),
        ({"id": "a", "k": 0}, 422, "k"),
        ({"id": "a", "k": 1001}, 422, "k"),
        ({"id": "a", "space": "colours"}, 422, "space"),
        ({"vector": []}, 422, "vector"),
        ({"vector": [1, 2, 3]}, 400, "do not fit"),
        ({"vector": [0] * 512}, 400, "all zeros"),
        ({"vector": [10**400] * 512}, 422, "vector"),
        ({"id": ""}, 400, "more than one example"),
        ({"chats": [[{"role": "user"}]]}, 400, "chat 1: missing_field: turn 0 is missing"),
        ({"target": "none"}, 400, "there is no target 'none'"),
        ({"target": "sql", "checkpoint": 77}, 400, "there is no checkpoint 77"),
        ({"target": "sql", "filters": {"chars": "many"}}, 400, "is no range"),
        ({"target": "sql", "filters": {"where": "1); DROP TABLE example; --"}}, 400, "where"),
        ({"target": "sql", "filters": {"where": "load_extension('x') = 1"}}, 400, "load_extension"),
        ({"target": "sql", "filters": {"where": "(SELECT count(*) FROM sqlite_master) > 0"}}, 400, ""),
        ({"target": "sql", "index": "hnsw", "space": "bm25"}, 400, "without --index"),
        ({"target": "sql", "checkpoint": 0, "space": "encoder"}, 400, "no checkpoint"),
        ({"target": "sql", "checkpoint": "all", "space": "embedding"}, 400, "at one checkpoint"),
    ],
)
def test_what_cannot_be_asked_is_told(without, asked, status, words):
    told = without.post("/query", json=asked)
    assert told.status_code == status, told.text
    assert words in told.json()["error"]


def test_numbers_that_are_none_and_bodies_that_are_too_long_are_refused(without):
    headers = {"content-type": "application/json"}
    assert without.post("/query", content='{"vector": [NaN, 1]}', headers=headers).status_code == 422
    assert without.post("/query", content="{" * 100_000, headers=headers).status_code in (400, 422)
    told = without.post("/query", content='{"id": oops}', headers=headers)
    assert (told.status_code, told.json()["error"]) == (422, "the body is no JSON: Expecting value at character 7")
    long = without.post("/query", content=b" " * (BODY_BYTES + 1), headers=headers)
    assert (long.status_code, "bytes" in long.json()["error"]) == (413, True)
    assert without.get("/query").status_code == 405


def test_a_failure_of_the_store_is_no_fault_of_the_question(without, chosen, monkeypatch):
    def broken(*_args, **_more):
        raise GradsiftError("it broke")

    monkeypatch.setattr("gradsift.explorer.api.ask", broken)
    told = without.post("/query", json={"id": chosen[0]})
    assert (told.status_code, told.json()) == (500, {"error": "it broke"})


def test_another_site_may_not_ask(without, chosen):
    told = without.post("/query", json={"id": chosen[0]}, headers={"origin": "http://evil.example"})
    assert told.status_code == 403
