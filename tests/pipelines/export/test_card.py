"""The card of an export: how its rows were chosen, by what its recipe decides; a verdict where there is one."""

import json
import re
import shutil

from running import gradsift

from gradsift.datastore import selections
from gradsift.datastore.store import Store


def lines(folder):
    """{what: value} of the card's tables (the first that has it), and its text."""
    text = (folder / "README.md").read_text("utf-8")
    return dict(reversed(re.findall(r"^\| ([\w ]+) \| (.*) \|$", text, re.M))), text


def test_a_run_s_own_export_says_budget_pool_method_and_that_nothing_is_validated(finished):
    result = finished[2]
    (made,) = result.selections
    said, text = lines(finished[1] / "exports" / made.name)
    assert f"{made.examples:,} rows of {made.examples:,} examples in it" in said["budget"]
    assert f"{result.ingest.pool.rows_read:,} rows read, {result.ingest.pool.left:,} different chats" in said["pool"]
    assert "2402.04333" in said["method"]
    assert said["verdict"].startswith("Not validated")
    assert str(finished[1].parent) not in text, "no path of the machine"
    assert said["labels"].startswith("the token where it has loss")
    assert "`trl-messages.yaml` for others" in text
    assert "cut at" in text


def test_an_export_after_validation_has_the_report_s_sentence_and_the_same_data(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "store")
    (made,) = finished[2].selections
    gradsift("export", made.name, "after", cwd=tmp_path)
    said, _ = lines(tmp_path / "after")
    assert re.search(r"chosen rows make.* \\?\*?sql", said["verdict"].replace("makes", "make"))
    assert said["version"].startswith(f"{made.name}@1, chosen from ")
    one, other = (
        json.loads((folder / "manifest.json").read_text("utf-8"))
        for folder in (tmp_path / "after", tmp_path / "store" / "exports" / made.name)
    )
    assert one["digest"] == other["digest"]
    assert one["files"]["README.md"] != other["files"]["README.md"]


def test_a_model_that_is_gone_is_named_with_the_way_without(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "store")
    with Store(tmp_path / "store") as store:
        assert selections.get(store, finished[2].selections[0].name)
        with store.catalog.write() as db:
            gone = json.dumps(finished[0] | {"model": {"path": str(tmp_path / "gone")}})
            db.execute("UPDATE run SET recipe = ?", (gone,))
    refused = gradsift("export", finished[2].selections[0].name, "out", cwd=tmp_path, code=2)
    assert "gradsift export --no-labels" in " ".join(refused.stderr.split())
    gradsift("export", finished[2].selections[0].name, "out", "--no-labels", cwd=tmp_path)
