"""Selections made by hand: the whole way to an export, under a name and a version, as a method's go."""

import json

import pytest
from planted import found_in

import gradsift
from gradsift.datastore import examples, forget, leases, runs, selections, versions
from gradsift.datastore.chats import text
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.forget import Picked
from gradsift.datastore.runs import last_run
from gradsift.pipelines.query.by_hand import select_by_hand
from gradsift.pipelines.query.compare import compare
from gradsift.pipelines.runs.forget import delete


def some(store, n, start=0):
    pool = examples.get_dataset(store, last_run(store).result.ingest.pool.used_dataset_id)
    return pool.example_ids[start : start + n]


def test_the_same_again_is_no_new_version(copy):
    ids = some(copy, 7)
    first = select_by_hand(copy, "mine", ids[::-1], {"lasso": ["1,2"]})
    again = select_by_hand(copy, "mine", ids, {"lasso": ["1,2"]})
    other = select_by_hand(copy, "mine", ids[:5], {})
    assert [made.version for made in (first, again, other)] == ["mine@1", "mine@1", "mine@2"]
    made = selections.get(copy, "mine@1")
    assert (made.example_ids, made.method, made.target) == (ids, "by hand", "none")
    assert selections.spec_of(copy, made)["drawn"] == {"lasso": ["1,2"]}


@pytest.mark.parametrize(
    ("name", "ids", "words"),
    [("small", 3, "name of what a recipe or a method made"), ("small-sql", 3, "name of what a recipe or a method made"),
     ("Not a name", 3, "name"), ("../x", 3, "name"), ("mine", 0, "no row to save"), ("mine", None, "1 of the rows")],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(copy, name, ids, words):
    before = versions.log(copy)
    given = [*some(copy, 3), "f" * 32] if ids is None else some(copy, ids)
    with pytest.raises(InputError, match=words):
        select_by_hand(copy, name, given, {})
    assert versions.log(copy) == before


def test_a_deletion_leaves_what_is_left_of_it(copy):
    ids = some(copy, 4)
    select_by_hand(copy, "mine", ids, {})
    delete(copy, lambda _store: Picked([ids[1]]))
    assert selections.get(copy, "mine").example_ids == [ids[0], *ids[2:]]
    with pytest.raises(InputError, match="is void: 1 example was deleted"):
        selections.get(copy, "mine@1")


def test_a_save_while_another_process_deletes_says_to_save_again(copy, monkeypatch):
    monkeypatch.setattr(forget, "pending", lambda _store: True)
    leases.acquire(copy, leases.RUN, "elsewhere:1:::gradsift delete")
    with pytest.raises(BusyError, match=r"gradsift delete is working on .*; save again when it has ended"):
        select_by_hand(copy, "mine", some(copy, 3), {})


def test_promise_8_what_a_view_asked_for_is_gone_with_the_row_that_said_it(copy, tmp_path):
    """Words looked for are words of a row: in no version, run, manifest, card or rewritten export after its deletion."""
    ids = some(copy, 40)
    texts = {name: text(chat) for name, chat in examples.get_messages(copy, ids).items()}
    lines = {name: said.partition("\n")[0] for name, said in texts.items()}
    gone, words = next((i, line) for i, line in lines.items() if sum(line in said for said in texts.values()) == 1)
    asked = {"words": [f'"{words}"'], "where": [f"text like '%{words}%'"]}
    others = {name: [words] for name in ("by", "shade_by", "selection", "source", "licence", "chars", "loss", "score",
                                         "cluster", "selected_in", "hide", "lasso", "unknown")}  # fmt: skip
    select_by_hand(copy, "mine", ids, asked | others)
    gradsift.export("mine", tmp_path / "out", store=copy)
    assert found_in(copy.root, words)
    assert found_in(tmp_path / "out", words)
    for path in ("README.md", "manifest.json"):
        assert words not in (tmp_path / "out" / path).read_text("utf-8")
    assert delete(copy, lambda _store: Picked([gone]), exports=True).exports
    assert (found_in(copy.root, words), found_in(tmp_path / "out", words)) == ([], [])
    made = selections.spec_of(copy, selections.get(copy, "mine"))["drawn"]
    assert made == dict.fromkeys((set(others) | set(asked)) - {"unknown"}, 1)


def test_a_view_is_recorded_as_far_as_it_holds_no_text_of_rows(copy):
    source = examples.all_sources(copy)[0]
    view = {
        "by": ["gradients"], "shade_by": ["score"], "selection": ["small-sql@1"], "source": [source], "chars": ["1..2e3"],
        "score": ["small-sql:0.2.."], "selected_in": ["small-sql"], "lasso": ["0.1,-2e-5,3,4"], "view": ["1,2,3"],
    }  # fmt: skip
    select_by_hand(copy, "mine", some(copy, 3), view | {"hide": ["a", "b"], "where": ["chars > 1"]})
    kept = selections.spec_of(copy, selections.get(copy, "mine"))["drawn"]
    assert kept == {name: value for name, value in view.items() if name != "view"} | {"hide": 2, "where": 1}


def test_what_selections_go_through_takes_it(copy, tmp_path):
    select_by_hand(copy, "mine", some(copy, 6), {"by": ["gradients"]})
    written = gradsift.export("mine", tmp_path / "out", store=copy)
    assert (written.name, written.rows) == ("mine", 6)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "6 chats. Picked by hand among the examples of a pool" in card
    assert "| method | by hand |" in card
    assert '| found by | {"by":\\["gradients"]} |' in card
    assert "reads the pool again that they were picked from" in card
    assert "makes this mixture again" not in card
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["selection"]["method"] == "by hand"
    assert gradsift.diff("mine", "small-sql", store=copy).a.examples == 6
    assert gradsift.diff("mine@1", str(tmp_path / "out"), store=copy).same
    assert gradsift.log(store=copy)[1].report.version == "mine@1"
    (row,) = [row for row in gradsift.status(copy)["selections"] if row["name"] == "mine"]
    assert (row["version"], row["method"], row["target"], row["examples"]) == (1, "by hand", "none", 6)
    assert gradsift.overlap(["mine", "small-sql"], store=copy)
    assert gradsift.runs(copy)[-1].made == ("mine@1",)
    made = runs.get(copy, gradsift.runs(copy)[-1].run_id)
    assert made.result.base == "small"
    assert "by hand" in gradsift.report(store=copy, run=made.run_id).read_text("utf-8")
    assert gradsift.checkout("mine@1", out=tmp_path / "then", store=copy).rows == 6


def test_what_was_picked_by_hand_is_no_default(copy):
    """Whoever asks for the last run's report, or compares all that there is, means what was computed."""
    gradsift.select("random", examples=8, store=copy)
    before = (last_run(copy).run_id, gradsift.report_data(copy), gradsift.overlap(store=copy))
    select_by_hand(copy, "mine", selections.get(copy, "small-sql").example_ids[:6], {})
    assert (last_run(copy).run_id, gradsift.report_data(copy), gradsift.overlap(store=copy)) == before
    compared = compare(copy, "mine", "small-sql")
    assert compared.difference.in_both == 6
    assert compared.moves == []  # in the order of ids no place is a rank


def test_an_export_says_which_other_one_it_replaced(copy, tmp_path):
    select_by_hand(copy, "mine", some(copy, 6), {})
    first, second, again = (
        gradsift.export(name, tmp_path / "out", store=copy) for name in ("mine", "small-sql", "small-sql")
    )
    assert (first.replaced, second.replaced, again.replaced) == (None, "mine@1", None)
