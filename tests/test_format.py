"""The store's format as docs/format.md says it: its code blocks read a store that a run made, without gradsift."""

import ast
import re
import shutil
import sqlite3
import sys

import numpy as np
import pyarrow as pa
import pytest
from running import ROOT

import gradsift
from gradsift.datastore import examples, features, runs, selections
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.recipe import Export

PAGE = ROOT / "docs" / "format.md"
READERS = {"hashlib", "json", "numpy", "pathlib", "pyarrow", "sqlite3", "struct"}


@pytest.fixture(scope="module")
def kept(browsed, tmp_path_factory):
    """A copy of a store with a run, a mixture, rows of four bits and of half floats, and a selection that prunes tokens."""
    root = tmp_path_factory.mktemp("format") / "store"
    shutil.copytree(browsed, root)
    with Store(root) as store:
        gradsift.mix({"examples": 30}, name="mixed", store=store)
        ids = examples.get_dataset(store, 1).example_ids[:5]
        for dtype in ("int4", "f16"):
            space = features.define_space(store, {"row_dtype": dtype, "for": "a test"})
            features.plan(store, space, ids, {}, 8)
            (unit,) = features.open_units(store, space, 1)
            rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
            block = make_block(ids, rows, pa.table({"loss": pa.array(np.ones(5, np.float32))}), dtype)
            assert features.commit_unit(store, space, unit, block, {})
        yield store


@pytest.fixture(scope="module")
def read(kept):
    """What the blocks of the page leave when they are run beside that store."""
    code = "\n".join(text for text in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == READERS
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(kept.root.parent)
        exec(compile(code, str(PAGE), "exec"), names)  # its own assertions compare every digest
        yield names
    names["catalog"].close()


def test_texts_and_members_are_read_as_the_page_says(kept, read):
    assert read["texts"] == examples.get_messages(kept, list(read["texts"]))
    assert any("tool_calls" in turn for chat in read["texts"].values() for turn in chat)
    (last,) = kept.catalog.rows("SELECT max(dataset_id) AS n FROM dataset")
    for number in range(1, last["n"] + 1):
        dataset = examples.get_dataset(kept, number)
        assert read["members"](number) == dict(zip(dataset.example_ids, dataset.subtasks, strict=True))


def test_gradient_rows_of_every_kind_are_read_as_the_page_says(kept, read):
    kinds = set()
    for row in kept.catalog.rows("SELECT space_id FROM feature_space"):
        space = row["space_id"]
        for block in features.read(kept, space, features.ids_with_rows(kept, space)[:3]):
            kinds.add(block.dtype)
            for name, gradient in zip(block.example_ids, block.raw(), strict=True):
                np.testing.assert_allclose(read["gradient"](space, name), gradient, rtol=1e-6)
    assert kinds == {"int8", "int4", "f16"}
    assert read["gradient"](1, "0" * 32) is None


def test_selections_with_masks_and_mixtures_are_read_as_the_page_says(kept, read):
    masked = {selections.is_masked(chosen) for chosen in selections.newest(kept)}
    assert masked == {True, False}
    for chosen in selections.newest(kept):
        assert read["choice"](chosen.selection_id) == (chosen.digest, chosen.digest, chosen.example_ids)


def test_a_digest_that_does_not_fit_is_seen(kept, read, tmp_path):
    """The page's program would fail on a selection in another order, and on a file with another byte."""
    (chosen, *_) = selections.newest(kept)
    copy = sqlite3.connect(tmp_path / "other.sqlite")
    read["catalog"].backup(copy)
    copy.row_factory = sqlite3.Row
    copy.execute("UPDATE selection_item SET rank = -rank - 1 WHERE selection_id=?", (chosen.selection_id,))
    before = read["catalog"]
    read["catalog"] = copy
    try:
        recorded, found, _ = read["choice"](chosen.selection_id)
        assert recorded != found
        copy.execute("UPDATE shard SET sha256 = ?", ("0" * 64,))
        with pytest.raises(AssertionError):
            read["shard"](1)
    finally:
        read["catalog"] = before
        copy.close()


def test_an_export_is_checked_as_the_page_says(kept, read, tmp_path):
    chosen = next(one for one in selections.newest(kept) if one.method == "less")
    folder = export(kept, chosen, runs.recipe_of(kept, chosen), tmp_path / "out", Export(labels=False))
    assert read["check_export"](folder)["selection"]["digest"] == chosen.digest
    (folder / "README.md").write_text("other")
    with pytest.raises(AssertionError):
        read["check_export"](folder)


def test_the_tables_of_the_page_are_current():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_format

        assert make_format.page() == PAGE.read_text("utf-8"), "run: python docs/make_format.py"
    finally:
        sys.path.pop(0)
