"""Files that a user has written somewhere: never over the store's own, nor over a file of another kind."""

import pytest

from gradsift.cli import app
from gradsift.datastore.errors import InputError
from gradsift.datastore.outputs import refuse_taken
from gradsift.datastore.place import Place

# Each command that writes a file where it is told to; PATH is that file.
COMMANDS = {
    "sql": ["sql", "select 1", "--parquet", "PATH"],
    "query": ["query", "--id", "0", "--parquet", "PATH"],
    "score": ["score", "--method", "bm25", "--out", "PATH"],
    "select": ["select", "--method", "qtuning", "--fraction", "0.3", "--picture", "PATH"],
    "report": ["report", "--out", "PATH"],
    "validate": ["validate", "--no-prefect", "--out", "PATH"],
    "init": ["init", "pool.jsonl", "--force", "--out", "PATH"],
}


def refused(name, path, root):
    command = [str(path) if word == "PATH" else word for word in COMMANDS[name]]
    with pytest.raises(InputError) as error:
        app([*command, "--store", str(root)], exit_on_error=False, result_action="return_value")
    return str(error.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_over_the_files_of_its_store(name, finished, tmp_path):
    root = finished[1]
    catalog, link = root / "catalog.sqlite", tmp_path / "link"
    link.symlink_to(catalog)
    before = catalog.stat()
    for path in (catalog, link):
        assert refused(name, path, root).startswith(f"{path} is a file of the store ({root})")
    new = root / "reports" / "new"
    assert refused(name, new, root).startswith(f"{new} would be in the folder of the store ({root})")
    assert not new.exists()
    assert (catalog.stat().st_size, catalog.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"init"}))
def test_no_command_writes_over_a_file_of_another_kind(name, finished, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    assert refused(name, path, finished[1]).startswith(f"{path} is there, and is no ")
    assert path.read_text() == "mine"


def test_a_file_of_the_kind_an_empty_one_and_a_new_one_may_be_written(finished, tmp_path):
    place, path = Place(finished[1]), tmp_path / "out"
    refuse_taken(place, path, "Parquet file")
    for content in (b"", b"PAR1 and more"):
        path.write_bytes(content)
        refuse_taken(place, path, "Parquet file")
    with pytest.raises(InputError, match="is no HTML page; name another path, or remove it first"):
        refuse_taken(place, path, "HTML page")


def test_files_that_lie_in_a_folder_of_their_own_are_the_stores_too(tmp_path):
    shared = tmp_path / "shared files"
    place = Place(tmp_path / "mine", "postgresql://host/database", f"file://{tmp_path}/shared%20files")
    place.root.mkdir()
    (place.root / "place.json").write_text("{}")
    with pytest.raises(InputError, match="would be in the folder of the store"):
        refuse_taken(place, shared / "x.parquet", "Parquet file")
    refuse_taken(place, tmp_path / "x.parquet", "Parquet file")
