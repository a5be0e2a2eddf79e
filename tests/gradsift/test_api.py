"""The functions of `import gradsift`: a store as a folder or open, and the parameters of the commands."""

import inspect

import pytest
from running import python

import gradsift
from gradsift.cli import app
from gradsift.datastore.errors import InputError

SAME = ("query", "diff", "marks", "log", "status", "mix", "select")
OTHERWISE = {"store", "json", "progress", "option", "options", "picture", "export_to"}


@pytest.mark.parametrize("name", SAME)
def test_parameters_are_those_of_the_command(name):
    command, function = (
        {p.name: p.default for p in inspect.signature(f).parameters.values() if p.name not in OTHERWISE}
        for f in (app[name].default_command, getattr(gradsift, name))
    )
    assert function == command


def test_a_store_may_be_a_folder_or_open(finished):
    _, root, _ = finished
    with gradsift.open_store(str(root)) as store:
        assert gradsift.status(store=store) == gradsift.status(store=root) == gradsift.status(store=str(root))
        assert [entry.report.version for entry in gradsift.log(store=store)]
    assert gradsift.verify(root) == []


def test_a_query_gives_values(finished):
    _, root, _ = finished
    first = gradsift.query(
        id=gradsift.query("hello", answer="hello", k=1, store=root).hits[0].example_id, k=2, store=root
    )
    assert len(first.hits) == 2


def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path):
    for call in (gradsift.open_store, gradsift.verify, lambda at: gradsift.status(store=at)):
        with pytest.raises(InputError):
            call(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_import_loads_no_torch():
    code = "import gradsift, sys; gradsift.query; assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    python("-c", code)
