"""A store that runs made, compacted: the same choices, answers and exports, and nothing to compute."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from asked import query_by_id
from running import gradsift

from gradsift.datastore import compact, examples, features, maintenance, picks, prune, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete
from gradsift.pipelines.runs.reselect import reselect


def shards(store):
    return {row["name"] for row in store.catalog.rows("SELECT name FROM shard")}


def merged(store):
    """Compact it; the finished store is one of a small pool, whose units make it worthwhile."""
    before = shards(store)
    done = compact.compact(store, grace=0)
    assert {m.kind for m in done.merges} >= {"features"}
    assert shards(store) != before


def rows_of(store):
    spaces = [row["space_id"] for row in store.catalog.rows("SELECT space_id FROM feature_space")]
    blocks = [(space, block) for space in spaces for block in features.read(store, space)]
    return {(s, i): b.vectors[k].tobytes() for s, b in blocks for k, i in enumerate(b.example_ids)}


def test_promise_2_after_a_compaction_a_run_computes_nothing(finished, copy):
    data, _, first = finished
    merged(copy)
    names = shards(copy)
    again = curate(parse_recipe(data), copy)
    assert all(row.computed == 0 for row in again.rows)
    assert shards(copy) == names
    assert [s.digest for s in again.selections] == [s.digest for s in first.selections]
    assert again.arms == first.arms
    assert not maintenance.verify(copy)


def test_answers_and_exports_are_what_they_were(copy, tmp_path):
    chosen = selections.get(copy, "small-sql").example_ids
    asked = query_by_id(copy, chosen[0], 20)
    merged(copy)
    again = query_by_id(copy, chosen[0], 20)
    assert [h.example_id for h in again.hits] == [h.example_id for h in asked.hits]
    assert [h.cosine for h in again.hits] == pytest.approx([h.cosine for h in asked.hits], abs=1e-6)
    assert dataclasses.replace(again, hits=()) == dataclasses.replace(asked, hits=())
    assert checkout(copy, "small-sql@1", tmp_path / "out").as_then  # the bytes that the run exported


@pytest.mark.parametrize("method", ["less", "tagcos", "gist", "rds", "grand", "ppl_mid"])
def test_methods_choose_from_merged_rows_what_they_chose(finished, copy, tmp_path, method):
    shutil.copytree(finished[1], tmp_path / "other")
    with Store(tmp_path / "other") as other:
        then = reselect(other, {"method": method, "examples": 12})
    merged(copy)
    assert [s.digest for s in reselect(copy, {"method": method, "examples": 12})] == [s.digest for s in then]


def test_the_command(copy):
    planned = json.loads(gradsift("compact", "-s", copy.root, "--dry-run", "--json").stdout)
    names = shards(copy)
    done = json.loads(gradsift("compact", "-s", copy.root, "--grace-hours", 0, "--json").stdout)
    assert [m["shards"] for m in done["merges"]] == [m["shards"] for m in planned["merges"]]
    assert (planned["shards_before"], planned["shards_after"]) == (done["shards_before"], done["shards_after"])
    assert len(shards(copy)) == done["shards_after"] < len(names)
    text = gradsift("compact", "-s", copy.root).stdout
    assert "Merged: none" in text
    status = json.loads(gradsift("status", "-s", copy.root, "--json").stdout)
    assert sum(row["files"] for row in status["files"]) == done["shards_after"]
    gradsift("compact", "-s", copy.root, "--target-mib", 0, code=2)


def test_a_store_of_many_small_files_says_so(copy, monkeypatch, capsys):
    from gradsift.cli import tables

    tables.show_upkeep(copy.root)
    assert not capsys.readouterr().out
    monkeypatch.setattr(tables, "MANY_SMALL", 2)
    tables.show_upkeep(copy.root)
    assert "`gradsift compact`" in capsys.readouterr().out
    merged(copy)
    tables.show_upkeep(copy.root)
    assert not capsys.readouterr().out


def test_promise_8_rows_of_a_deleted_example_are_in_no_merged_file(finished, copy):
    """Nor in the files that were merged, which stay for readers otherwise."""
    data, _, _ = finished
    chosen = selections.get(copy, "small-sql").example_ids[0]
    spaces = [row["space_id"] for row in copy.catalog.rows("SELECT space_id FROM feature_space")]
    rows = [block.vectors.tobytes() for s in spaces for block in features.read(copy, s, [chosen])]
    assert len(rows) > 1
    compact.compact(copy)
    delete(copy, lambda store: picks.by_ids(store, [chosen]), exports=True)
    for path in copy.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(row in content for row in rows), path
    assert not any(chosen in features.ids_with_rows(copy, s) for s in spaces)
    assert not maintenance.verify(copy)
    again = compact.compact(copy, grace=0)
    assert not maintenance.verify(copy), again
    computed = curate(parse_recipe(data | {"validate": None}), copy).rows
    assert all(row.computed == 0 for row in computed)


def test_pruning_a_compacted_store_drops_rows_and_keeps_what_shares_their_files(finished, copy, tmp_path):
    """Half of the pool leaves; units of both halves are in the same files by then."""
    data, _, _ = finished
    merged(copy)
    lines = Path(data["pool"][0]["path"]).read_bytes().splitlines(keepends=True)
    half = tmp_path / "half.jsonl"
    half.write_bytes(b"".join(lines[::2]))
    smaller = data | {"pool": [{"path": str(half)}], "validate": None}
    curate(parse_recipe(smaller), copy)
    rows = rows_of(copy)
    before = {row["example_id"] for row in copy.catalog.rows("SELECT example_id FROM example")}
    with copy.catalog.write() as db:  # what the first run alone holds, but for its warm-up's pool
        db.execute("DELETE FROM warmup")
        db.execute("UPDATE run SET started=0, finished=0, numbered=1 WHERE run_id=1")
    dropped = {line.what: line.count for line in prune.prune(copy, 1, examples=True).dropped}
    left = {row["example_id"] for row in copy.catalog.rows("SELECT example_id FROM example")}
    assert dropped["examples"] == len(before - left) > 20
    assert dropped["feature rows"] > 20
    assert not maintenance.verify(copy)
    texts = {i for (n,) in [(r["shard_id"],) for r in copy.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples'")]
             for i in examples.read_shard(copy, n)["example_id"].to_pylist()}  # fmt: skip
    assert texts == left
    for path in copy.root.glob("features/*"):
        assert not any(name.encode() in path.read_bytes() for name in before - left), "nor in files of rows"
    assert rows_of(copy) == {key: row for key, row in rows.items() if key[1] in left}
