"""The pools that ship are what their makers write."""

import gzip

import pyarrow.parquet as pq

from gradsift.datastore.store import Store
from gradsift.examples.make_first_curation import HERE, PLANTED, write
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.funnel import funnel
from gradsift.pipelines.runs.curate import curate


def content(path):
    """What a file holds; packed bytes differ between versions of pyarrow and zlib."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def files(folder):
    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*") if path.is_file()}


def test_the_first_curation_is_what_its_maker_writes(tmp_path):
    write(tmp_path)
    committed = files(HERE)
    assert committed.pop("README.md")
    assert files(tmp_path) == committed


def test_every_row_of_the_first_curation_is_accounted_for(tmp_path):
    recipe = {"name": "first", "pool": [{"path": str(HERE / "pool")}], "dedup": {}, "mix": {"examples": 50}}
    with Store(tmp_path / "store") as store:
        result = curate(parse_recipe(recipe), store)
        (source,) = result.ingest.pool.sources
        told = " ".join(warnings(result.ingest))
    assert dict(result.ingest.pool.quarantined) == PLANTED["quarantined"]
    assert sorted(name for unread in source.unread for name in unread.first) == PLANTED["files not read"]
    assert len(result.ingest.pool.by_source) == PLANTED["files"]
    assert "13 of 21 rows of" in told
    counted = funnel(result)
    lines = (HERE / "pool" / "scraped.jsonl").read_bytes().count(b"\n")
    assert counted.read_by_source["scraped"] == lines == 21
    assert counted.read - sum(line.rows for line in counted.out) == counted.used
    assert sum(counted.read_by_source.values()) == counted.read
