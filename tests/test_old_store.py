"""A store written by an earlier version opens, is whole, and answers as it did then (see fixtures/README.md)."""

import json
import shutil
import tarfile

import pytest
from running import ROOT

from gradsift.datastore import runs, selections
from gradsift.datastore.maintenance import verify
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.report.report import write_report
from gradsift.pipelines.runs.query import query_by_id
from gradsift.pipelines.runs.reselect import reselect

FIXTURES = ROOT / "tests" / "fixtures"
THEN = json.loads((FIXTURES / "store-0.1.json").read_text())


@pytest.fixture(scope="module")
def unpacked(built_once):
    def unpack(folder):
        with tarfile.open(FIXTURES / "store-0.1.tar.xz") as packed:
            packed.extractall(folder, filter="data")

    return built_once("store-0.1", unpack) / "store"


@pytest.fixture
def old(unpacked, tmp_path):
    shutil.copytree(unpacked, tmp_path / "old")
    with Store(tmp_path / "old") as store:
        yield store


def test_an_old_store_is_whole_and_its_last_run_is_read(old):
    assert verify(old) == []
    last = runs.last_run(old)
    assert {made.name: made.digest for made in last.result.made} == THEN["run"]
    assert last.result.ingest.pool.digest == THEN["pool"]
    assert dict(last.result.ingest.pool.quarantined) == THEN["quarantined"]
    assert [(x.reason, x.examples, dict(x.by_source)) for x in last.result.ingest.pool.left_out] == [
        (x["reason"], x["examples"], x["by_source"]) for x in THEN["left_out"]
    ]
    assert {arm.arm: arm.test_loss_mean for arm in last.result.arms} == THEN["arms"]


def test_an_old_store_answers_a_query_as_it_did(old):
    answer = query_by_id(old, THEN["query"]["id"], 5)
    assert [[hit.example_id, pytest.approx(hit.cosine, abs=1e-3)] for hit in answer.hits] == THEN["query"]["hits"]


@pytest.mark.parametrize("method", THEN["methods"])
def test_a_method_chooses_from_old_rows_what_it_chose(old, method):
    (chosen,) = reselect(old, {"method": method, "examples": 12})
    assert chosen.digest == THEN["methods"][method]


def test_exports_of_an_old_store_are_what_they_were(old, tmp_path):
    reselect(old, {"method": "random", "examples": 12})
    for name, digest in THEN["exports"].items():
        chosen = selections.get(old, name)
        folder = export(old, chosen, runs.recipe_of(old, chosen), tmp_path / name)
        assert json.loads((folder / "manifest.json").read_text())["digest"] == digest


def test_the_report_of_an_old_store_says_what_it_said(old, tmp_path):
    page = write_report(old, tmp_path / "report.html")
    document = json.loads(page.with_suffix(".json").read_text())
    assert {name: document[name] for name in THEN["report"]} == THEN["report"]
