"""Some inputs of every target, and what earlier ones found. The long form is `PYTHONPATH=.:tests python -m fuzz.run`."""

import time

import pytest
from fuzz import drive, targets  # noqa: F401 - the latter registers them
from fuzz.drive import FINDINGS, TARGETS, finding, input_of, target

RUNS = 20
FEW = dict.fromkeys(["drawn", "query", "catalog", "catalog-json", "examples", "features", "gguf", "manifest", "saved",
                      "template", "sql"], 8)  # of those that take longest  # fmt: skip


@pytest.mark.parametrize("one", TARGETS.values(), ids=lambda one: one.name)
def test_inputs_cost_an_error_at_most(one, tally):
    told = tally("mutated files and texts for every reader", promise=9)
    found = set()
    for number in range(FEW.get(one.name, RUNS)):
        why = finding(one, input_of(one, 0, number))
        if why:
            found.add((number, why))
        elif why is None:
            told.harmless()
        else:
            told.reported()
    assert not found


@pytest.mark.parametrize("path", sorted(FINDINGS.iterdir()), ids=lambda path: path.name)
def test_what_was_found_is_mended(path):
    """Each of these was a traceback, a crash of the process, or took its memory, once."""
    one = TARGETS[path.name.rpartition("-")[0]]
    assert not finding(one, path.read_bytes())


def test_a_finding_is_seen(monkeypatch):
    """Another exception, an input that takes its time or its memory; less of both than is allowed, to be quick."""
    monkeypatch.setattr(drive, "MOST_SECONDS", 0.4)
    monkeypatch.setattr(drive, "MOST_BYTES", 50 << 20)

    @target("fails", lambda: [b"x"])
    def fails(data: bytes) -> None:
        if data == b"memory":
            bytearray(90 << 20)
        elif data == b"time":
            ends = time.process_time() + 0.5
            while time.process_time() < ends:
                pass
        else:
            raise KeyError(data)

    try:
        one = TARGETS["fails"]
        assert finding(one, b"x").startswith("KeyError")
        assert finding(one, b"memory") == "takes more than 500 MB"
        assert finding(one, b"time") == "takes more than two seconds"
    finally:
        del TARGETS["fails"]


def test_mutations_are_the_same_every_time():
    one = TARGETS["jsonl"]
    assert [input_of(one, 3, number) for number in range(20)] == [input_of(one, 3, number) for number in range(20)]
    assert input_of(one, 3, 7) != input_of(one, 4, 7)
