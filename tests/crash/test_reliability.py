"""docs/reliability.md says what benchmarks/results/reliability.json recorded, of tests that exist."""

import ast
import json
import sys

from reliability import PROMISES, Tally
from running import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import make_reliability

sys.path.pop(0)

RECORDS = json.loads(make_reliability.RECORD.read_text("utf-8"))


def test_the_page_is_what_was_recorded():
    page = make_reliability.page(RECORDS, PROMISES)
    assert make_reliability.PAGE.read_text("utf-8") == page, "run: python docs/make_reliability.py"


def test_nothing_recorded_was_silent_or_lost():
    assert not [record for record in RECORDS if record["silent"] or record["lost"]]
    assert all(record["injected"] == record["reported"] + record["harmless"] > 0 for record in RECORDS)


def test_the_page_has_a_heading_for_every_promise():
    page = make_reliability.PAGE.read_text("utf-8")
    assert all(f"## {number}. {promise}" in page for number, promise in PROMISES.items())


def test_every_promise_was_attacked():
    assert {record["promise"] for record in RECORDS} == set(PROMISES)


def test_recorded_tests_are_there():
    for path, *_, name in [record["test"].split("::") for record in RECORDS]:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_a_tally_adds_up():
    one = Tally("flips", 3)
    one.reported(2), one.harmless(), one.silent("byte 7"), one.lost("row 1")
    assert one.record("t") == {"promise": 3, "area": "flips", "injected": 5, "reported": 2, "harmless": 1, "silent": 1,
                               "lost": 1, "test": "t"}  # fmt: skip
    assert one.bad == ["silent: byte 7", "lost: row 1"]
