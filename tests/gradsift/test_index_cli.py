"""The commands about search indexes, as typed."""

import json
import shutil
from functools import partial

import pytest
import running

from gradsift.datastore import features, runs
from gradsift.datastore.store import Store

gradsift = partial(running.gradsift, columns=60)


@pytest.mark.slow
def test_build_query_list_refresh_drop(finished, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(finished[1], root)
    with Store(root) as store:
        plain = next(row.space_id for row in reversed(runs.last_run(store).result.rows) if row.role == "plain")
        space, name = features.space_fingerprint(store, plain), features.ids_with_rows(store, plain)[0]

    def documents(*command):
        return json.loads(gradsift(*command, "-s", root, "--json").stdout)

    exact = documents("query", "--id", name, "-k", 5)
    assert (exact["index"], exact["note"]) == ("", "")
    nothing = documents("query", "--id", name, "-k", 5, "--index", "auto")
    assert (nothing["hits"], "no index" in nothing["note"]) == (exact["hits"], True)
    refused = gradsift("query", "--id", name, "--index", "hnsw", "-s", root, code=2)
    assert "gradsift index build --kind hnsw" in refused.stderr

    out = gradsift("index", "build", "--nprobe", 100, "-s", root)
    assert "ivf_sq8" in out.stdout
    assert "adding rows to ivf_sq8" in out.stderr
    assert max(len(line) for line in out.stdout.splitlines()) <= 60
    (listed,) = documents("index", "list")
    assert (listed["kind"], listed["space"], listed["state"]) == ("ivf_sq8", space, "fresh")
    assert listed["recall"] == 1.0  # every list is looked at
    assert listed["measured"]["speedup"] > 0
    by_index = documents("query", "--id", name, "-k", 5, "--index", "auto")
    assert (by_index["index"], by_index["hits"]) == ("ivf_sq8", exact["hits"])
    said = gradsift("query", "--id", name, "-k", 2, "--index", "ivf_sq8", "-s", root)
    assert "By the ivf_sq8 index" in said.stdout
    assert documents("status")["indexes"][0]["kind"] == "ivf_sq8"

    file = next((root / "indexes").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    refused = gradsift("query", "--id", name, "--index", "auto", "-s", root, code=4)
    assert "gradsift index refresh" in refused.stderr
    assert documents("query", "--id", name, "-k", 5)["hits"] == exact["hits"]
    assert documents("index", "refresh", "--kind", "hnsw") == []
    assert documents("index", "refresh", "--space", space[:10])[0]["state"] == "fresh"
    assert documents("query", "--id", name, "-k", 5, "--index", "auto")["hits"] == exact["hits"]
    assert "no feature space" in gradsift("index", "drop", "--space", "zz", "-s", root, code=2).stderr
    assert [gone["kind"] for gone in documents("index", "drop")] == ["ivf_sq8"]
    assert list((root / "indexes").iterdir()) == []
    assert documents("index", "list") == []
