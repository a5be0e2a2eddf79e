"""Promise 8 on chats with tools: what is planted in calls, thoughts, tools, names and other columns, also in an export
as JSON lines, whose objects have no fields or types in common."""

import json

import pytest
from planted import SECRET, found_in

from gradsift.datastore import picks, selections
from gradsift.datastore.maintenance import verify
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete


def chat(k, at, thought="so", tool="finds", speaker="ann", **more):
    call = {"type": "function", "function": {"name": "find", "arguments": {"at": at}}}
    turns = [
        {"role": "user", "content": f"where is {k}", "name": speaker},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": thought},
        {"role": "tool", "content": "é" * more.pop("long", 1)},
        {"role": "assistant", "content": f"here {k}"},
    ]
    tools = [{"name": "find", "description": tool, "parameters": {"type": "object", "properties": {}}}]
    return {"messages": turns, "tools": tools} | more


PLANTED = [
    chat(1, SECRET),
    chat(2, 2, thought=f"I know {SECRET}"),
    chat(3, [3], tool=f"finds {SECRET}"),
    chat(4, {"four": 4}, speaker=SECRET),
    chat(5, "5", note=SECRET, **{"messages?": [SECRET], "": {"deep": SECRET}}),
]
OTHERS = [
    chat(k, at, long=long) for k, at, long in [(10, "ten", 1), (11, 11, 1), (12, [1, "a"], 1), (13, 1.5, 900_000)]
]


@pytest.fixture(params=["jsonl", "parquet"])
def made(request, tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in [*OTHERS, *PLANTED]), "utf-8")
    export = {"format": request.param, "extra": "columns"}
    recipe = {"name": "calls", "pool": [{"path": str(pool)}], "dedup": None, "mix": {"fraction": 1.0}, "export": export}
    with Store(tmp_path / "store") as store:
        curate(parse_recipe(recipe), store)
        yield store


def test_promise_8_nothing_is_left_of_what_chats_with_tools_hold(made):
    """Nor in the export: it is found to hold them, and written anew."""
    where = f"line > {len(OTHERS)}"
    assert found_in(made.root, SECRET)
    done = delete(made, lambda store: picks.by_predicate(store, where), exports=True)
    assert [(one.rows, one.state) for one in done.exports] == [(len(PLANTED), "rewritten")]
    assert verify(made) == []
    assert len(selections.get(made, "calls").example_ids) == len(OTHERS)
    made.close()
    assert found_in(made.root, SECRET) == []


def test_a_predicate_on_text_sees_calls_and_thoughts(made):
    found = picks.by_predicate(made, f"text like '%{SECRET}%'")
    assert len(found.ids) == 2
