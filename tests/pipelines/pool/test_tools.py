"""Chats with tools: every form that people have becomes one, and what is not a call has a reason."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.datastore import chats
from gradsift.datastore.identity import canonical_json, example_id
from gradsift.pipelines.export.turns import as_columns
from gradsift.pipelines.pool.canonical import canonical_messages, used_fields
from gradsift.pipelines.pool.row_error import RowError
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Source

USER = {"role": "user", "content": "Warm in Oslo?"}
END = {"role": "assistant", "content": "It is 4 degrees."}
SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": SCHEMA}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
WANTED = [
    {**USER, "tools": [TOOL]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
    END,
]
AS_TEXT = {"name": "weather", "arguments": '{"city": "Oslo"}'}
TURNS = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "4"}, END]
FORMS = {
    "objects": {"messages": TURNS, "tools": [TOOL]},
    "arguments as text": {
        "messages": [USER, {"role": "assistant", "tool_calls": [{"function": AS_TEXT}]}, TURNS[2], END],
        "tools": [TOOL],
    },
    "cells of a table": {"messages": json.dumps(TURNS), "tools": json.dumps([TOOL])},
    "filled by Arrow": {
        "messages": [
            {**USER, "tool_calls": None},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": {"city": "Oslo", "days": None}}}],
            },
            {**TURNS[2], "tool_calls": None},
            {**END, "tool_calls": None},
        ],
        "tools": [TOOL],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Warm in Oslo?"},
            {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "It is 4 degrees."},
        ],
        "tools": json.dumps([SCHEMA]),
    },
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_chat(row):
    assert canonical_messages(row) == WANTED


def test_the_older_form_of_calls_keeps_the_functions_name():
    call = {"role": "assistant", "content": None, "function_call": AS_TEXT}
    answer = {"role": "function", "name": "weather", "content": "4"}
    row = {"messages": [USER, call, answer, END], "functions": [SCHEMA], "id": 3}
    assert canonical_messages(row) == [*WANTED[:2], {"role": "tool", "content": "4", "name": "weather"}, END]
    assert used_fields(row) == {"messages", "tools", "functions"}


def test_parallel_calls_keep_their_ids_and_a_call_may_end_a_chat():
    calls = [{**CALL, "id": "a"}, {**CALL, "id": "b"}]
    answers = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ab"]
    again = {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]}
    chat = [USER, {"role": "assistant", "content": "", "tool_calls": calls}, *answers, again]
    assert canonical_messages({"messages": chat}) == chat


def test_names_reasoning_and_the_developer_are_kept_and_other_fields_are_not():
    turns = [
        {"role": "developer", "content": "Be brief."},
        {**USER, "name": "ann", "weight": 0},
        {**END, "reasoning_content": "Oslo, winter", "refusal": None},
    ]
    found = canonical_messages({"messages": turns})
    assert found == [turns[0], {**USER, "name": "ann"}, {**END, "reasoning_content": "Oslo, winter"}]


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "Warm in "}, {"type": "text", "text": "Oslo?"}]
    assert canonical_messages({"messages": [{"role": "user", "content": parts}, END]}) == [USER, END]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, END], "rejected": [USER, {**END, "content": "No."}]},
        {"prompt": USER["content"], "chosen": END["content"], "rejected": "No."},
        {"prompt": USER["content"], "chosen": [USER, END], "rejected": []},
        {"prompt": [USER], "chosen": [END], "rejected": []},
        {"conversations": [{"from": "human", "value": USER["content"]}], "chosen": {"from": "gpt", "value": END["content"]}},
    ],
)  # fmt: skip
def test_the_chosen_side_is_taken(row):
    assert canonical_messages(row) == [USER, END]
    assert "rejected" not in used_fields(row)


LATER = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Warmer."}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": END["content"]}, *LATER]},
        {"conversations": [{"role": "human", "value": USER["content"]}, {"from": "model", "content": END["content"]}, *LATER]},
        {"messages": [USER, {**END, "function_call": {"name": None, "arguments": None}}, *LATER]},
        {"messages": [json.dumps(turn) for turn in [USER, END, *LATER]]},
        {"instruction": "And now?", "output": "Warmer.", "history": [[USER["content"], END["content"]]]},
        {"instruction": "And now?", "output": "Warmer.", "history": json.dumps([[USER["content"], END["content"]]])},
    ],
)  # fmt: skip
def test_rows_between_the_shapes_are_read(row):
    assert canonical_messages(row) == [USER, END, *LATER]


def test_a_system_column_comes_first_once():
    system = {"role": "system", "content": "Be brief."}
    for row in (
        {"prompt": USER["content"], "completion": END["content"]},
        {"prompt": [system, USER], "completion": [END]},
        {"chosen": [USER, END]},
        {"messages": None, "conversations": [system, USER, END]},
    ):
        assert canonical_messages(row | {"system": "Be brief."}) == [system, USER, END]
    with pytest.raises(RowError, match="turn 1 is 'system'"):
        canonical_messages({"prompt": [system, USER], "completion": [END], "system": "Be long."})


def test_exports_with_tools_are_read_again(tmp_path):
    pq.write_table(pa.table(as_columns([WANTED, [USER, END]], objects=True)), tmp_path / "own.parquet")
    assert [row.messages for row in read_source(Source(path=str(tmp_path / "own.parquet")))] == [WANTED, [USER, END]]


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org"}}
BAD = {
    "multimodal": [
        {"messages": [{"role": "user", "content": [PICTURE]}, END]},
        {"messages": [USER, END], "images": ["a.png"]},
        {"messages": [USER, END], "image": "a.png"},
    ],
    "bad_tool_call": [
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {**AS_TEXT, "arguments": "{"}}]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {**AS_TEXT, "arguments": "[1]"}}]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": "weather"}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {**AS_TEXT, "arguments": "[NaN]"}}]}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "weather()"}]},
    ],
    "bad_tools": [{"messages": [USER, END], "tools": "weather"}, {"messages": [USER, END], "tools": [{"x": 1}]}],
    "bad_field": [{"instruction": "And now?", "output": "Warmer.", "history": ["Hi"]}],
    "missing_field": [{"chosen": "It is.", "rejected": "It is not."}],
    "empty_assistant": [{"messages": [USER, {"role": "assistant", "content": "", "tool_calls": []}]}],
}


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason, rows in BAD.items() for row in rows])
def test_what_cannot_be_used_has_a_reason(reason, row):
    with pytest.raises(RowError) as caught:
        canonical_messages(row)
    assert caught.value.reason == reason


def test_what_is_null_in_a_text_stays_and_in_an_object_does_not():
    """Arrow files fill objects with null; nobody fills a text."""
    text = {"name": "weather", "arguments": '{"city": null}'}
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": text}]}]}
    assert canonical_messages(row)[1]["tool_calls"][0]["function"]["arguments"] == {"city": None}


def test_an_object_that_a_tool_gave_is_json_text():
    chat = canonical_messages({"messages": [*TURNS[:2], {"role": "tool", "content": {"degrees": 4}}, END]})
    assert chat[2] == {"role": "tool", "content": '{"degrees":4}'}


def test_a_call_is_part_of_what_an_example_is():
    other = json.loads(json.dumps(WANTED).replace('"Oslo"', '"Lima"'))
    assert example_id(other) != example_id(WANTED)
    assert example_id([USER, END]) == "94e382acb7c4425dd97465032fd63a2e"  # as before there were tools


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["tool_calls", "function_call", "function", "name", "arguments", "role", "content", "tools", "functions", "type"]
)
roles = st.sampled_from(["user", "assistant", "tool", "function"])
turns = st.dictionaries(keys, values) | st.fixed_dictionaries(
    {"role": roles, "content": st.none() | st.text(max_size=3)}, optional={"tool_calls": st.lists(st.just(CALL))}
)


@given(st.fixed_dictionaries({"messages": st.lists(turns, max_size=5)}, optional={"tools": values}))
def test_anything_is_a_chat_or_a_reason_and_is_stored_as_it_is(row):
    try:
        found = canonical_messages(row)
    except RowError as error:
        assert error.reason
        return
    (stored,) = chats.of_table(_table([found]))
    assert stored == found
    assert canonical_json(json.loads(canonical_json(found))) == canonical_json(found)


def _table(of):
    return pa.table(chats.as_columns(of))


def test_plain_chats_are_stored_as_before():
    assert set(chats.as_columns([[USER, END]])) == {"messages"}
    both = _table([[USER, END], WANTED])
    assert both["more"].to_pylist()[0] is None
    assert chats.of_table(both) == [[USER, END], WANTED]
    assert chats.chars(WANTED) == sum(map(len, ("Warm in Oslo?", 'weather {"city":"Oslo"}', "4", "It is 4 degrees.")))
