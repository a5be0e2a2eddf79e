"""examples/notebook runs from its first cell to its last, as a script and as a page, on a store of a finished run."""

import re
import shutil

import pyarrow.parquet as pq
import pytest
from running import ROOT, python

from gradsift.datastore import selections
from gradsift.datastore.store import Store


@pytest.fixture
def notebook(tmp_path):
    """A copy of it: marimo keeps what cells showed beside a notebook."""
    (tmp_path / "notebook").mkdir()
    return shutil.copy(ROOT / "examples" / "notebook" / "explore.py", tmp_path / "notebook")


@pytest.mark.slow
def test_the_notebook_looks_asks_chooses_and_exports(finished, notebook, tmp_path):
    """As a script it does all that its button does; as a page it shows the store and leaves it as it was."""
    shutil.copytree(finished[1], tmp_path / "store")
    before = (tmp_path / "store" / "catalog.sqlite").read_bytes()
    arguments = ["--store", "store", "--out", "chosen"]
    page = ["-m", "marimo", "-q", "export", "html", notebook, "-o", "page.html", "--", *arguments]
    python(*page, cwd=tmp_path, MARIMO_SKIP_UPDATE_CHECK="1")
    shown = (tmp_path / "page.html").read_text("utf-8")
    assert "Most alike by gradient" in shown
    assert "Mean loss of each source" in shown
    assert "MarimoExceptionRaisedError" not in shown
    assert not (tmp_path / "chosen").exists()
    assert (tmp_path / "store" / "catalog.sqlite").read_bytes() == before
    said = python(notebook, *arguments, cwd=tmp_path).stdout
    assert re.search(r"20 rows of notebook-sql in .*chosen", said)
    with Store(tmp_path / "store") as store:
        ids = selections.get(store, "notebook-sql").example_ids
    (data,) = (tmp_path / "chosen" / "data").iterdir()
    assert pq.read_table(data)["example_id"].to_pylist() == ids
    assert len(ids) == 20


def test_a_folder_that_is_no_store_is_told_in_its_cell(notebook, tmp_path):
    """And nothing after it runs."""
    done = python(notebook, "--store", tmp_path / "none", cwd=tmp_path)
    assert "rows of" not in done.stdout
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notebook"]
