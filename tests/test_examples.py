"""The pools that ship are what their makers write."""

import gzip

import pyarrow.parquet as pq

from gradsift.examples.make_first_curation import HERE, write


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
