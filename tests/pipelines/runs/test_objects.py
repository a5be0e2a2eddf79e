"""A whole run, and all that is done to its store, where the files are objects of an S3 server."""

import hashlib

import pytest
from planted import found_in

from gradsift import api
from gradsift.datastore import examples, maintenance, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate


def digests(store):
    """{(kind, sha256)} of the shards whose bytes are the same wherever they are made."""
    rows = store.catalog.rows("SELECT kind, sha256 FROM shard WHERE kind IN ('examples', 'features', 'checkpoint')")
    return {(row["kind"], row["sha256"]) for row in rows}


def rows_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def unpacked(bucket, folder):
    """The objects of a bucket as files, for `found_in`."""
    for name, content in bucket.content().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def only_copies(root, bucket):
    """The copies of a host are of objects that are there, and nothing else is beside them."""
    there = {hashlib.sha256(content).hexdigest() for content in bucket.content().values()}
    return {path.name for path in (root / "cache").iterdir()} <= there


@pytest.mark.slow
def test_a_store_whose_files_are_objects_does_all_that_a_folder_does(finished, copy, bucket, tmp_path):
    """Run, query, index, export, compaction, repair, deletion, gc: what is chosen is what a local store chooses, byte for
    byte, and what is deleted is in no object and in no copy."""
    data, _, local_result = finished
    recipe, root, local_root = parse_recipe(data | {"store_url": bucket.url()}), tmp_path / "store", copy.root
    with Store(recipe.place(root)) as store:
        result = curate(recipe, store)
        assert digests(store) == digests(copy)
        assert [made.digest for made in result.made] == [made.digest for made in local_result.made]
        kept = {name for name in bucket.content() if not name.startswith("owner/")}
        assert kept == {row["name"] for row in store.catalog.rows("SELECT name FROM shard")}
        chosen = selections.get(store, result.made[0].name)
        gone = chosen.example_ids[0]
        text = examples.get_messages(store, [gone])[gone][0]["content"]
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"cache", "exports", "reports"}
    assert only_copies(root, bucket)

    assert api.query(id=gone, store=root).hits == api.query(id=gone, store=local_root).hits
    api.index_build(root, kind="flat")
    assert [hit.example_id for hit in api.query(id=gone, index="flat", store=root).hits]
    for there in (root, local_root):
        api.export(chosen.name, tmp_path / f"of-{there.parent.name}-{there.name}", store=there)
    one, other = (rows_of(folder) for folder in sorted(tmp_path.glob("of-*")))
    assert one == other != {}

    before = len(bucket.content())
    api.compact(root, grace_hours=0)
    assert len(bucket.content()) < before
    assert api.verify(root) == []
    tables = min(name for name in bucket.content() if name.startswith("examples/"))
    bucket.put(tables, bucket.content()[tables][:-100])
    assert [mend.kind for mend in api.verify(root)] == ["examples"]
    api.verify(root, repair=True)
    assert api.verify(root) == []

    assert found_in(unpacked(bucket, tmp_path / "before"), text)
    api.delete(id=gone, exports=True, store=root)
    assert found_in(unpacked(bucket, tmp_path / "after"), text, gone) == []
    assert found_in(root, text) == []
    assert only_copies(root, bucket)
    assert api.gc(root, grace_hours=0) == []
    assert api.verify(root) == []
    with Store(root) as store:
        assert maintenance.garbage(store, grace=-1) == []
