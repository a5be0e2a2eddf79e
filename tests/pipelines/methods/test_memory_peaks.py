"""What rules take is within what they declare, and none makes an array of all rows: measured in processes of their own."""

import json

import pytest
from running import ROOT, python

ROWS, DIMS = 20_000, 1024  # 78 MiB as f32, 20 as they are stored
CASES = [
    "omp",
    "gip",
    "kmeans_quota",
    "gio",
    "gio_exact",
    "gio_knn",
    "facility_location",
    "k_center",
    "tsds_uniform",
    "tsds",
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_rule_takes_no_more_than_it_declares(case, tmp_path):
    """And, where it streams, less than the rows as f32 would: what is declared for blocks is not taken here, for they
    are made small."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import json, memory
from pathlib import Path
from gradsift.scorers import coverage, gio, rows, tagcos, transport
rows.BLOCK_BYTES = 2 << 20
tagcos.ATOMS_BYTES = tagcos.PRODUCTS_BYTES = 4 << 20
coverage.HELD_BYTES = coverage.KEPT_BYTES = 8 << 20
gio.BLOCK = transport.BLOCK = 1 << 18
folder = Path({str(tmp_path)!r})
memory.CASES["facility_location"] = {{"points": 256}}
memory.CASES["gio"] = {{"quantise": 100}}
memory.generate(folder, {ROWS}, {DIMS})
print(json.dumps(memory.run({case!r}, folder, {ROWS}, {DIMS}, memory.least({case!r}, {ROWS}, {DIMS}), 2)))
"""
    made = json.loads(python("-c", code, cwd=tmp_path).stdout.splitlines()[-1])
    taken, declared = made["anonymous_peak_mib"], made["declared_mib"]
    assert not made["rows_held"]
    assert made["chosen"] == (20 if case in ("gip", "k_center", "facility_location") else ROWS // 100)
    assert taken <= declared
    if case not in ("gip", "gio_knn", "tsds"):  # these hold what grows with the target
        assert taken < 4 * ROWS * DIMS / 2**20
