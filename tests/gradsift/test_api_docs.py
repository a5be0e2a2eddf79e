"""The page of the Python API is current, and its examples run; `help` lists every function."""

import doctest
import inspect
import re
import shutil
import sys

import pytest
import yaml
from running import ROOT

import gradsift

sys.path.insert(0, str(ROOT / "docs"))
import make_api

sys.path.pop(0)

FUNCTIONS = [name for name in make_api.ordered() if getattr(gradsift, name).__module__.startswith("gradsift.api")]


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A folder with a finished store and its recipe, as a user has it."""
    shutil.copytree(finished[1], tmp_path / "store")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(finished[0]))
    monkeypatch.chdir(tmp_path)


def test_the_page_is_current():
    assert make_api.page() == (ROOT / "docs" / "api.md").read_text("utf-8"), "run: python docs/make_api.py"


def test_every_function_stands_in_a_group():
    assert set(make_api.ordered()) <= {name for names in make_api.GROUPS.values() for name in names}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_described_whole(name):
    """Each parameter by name, what it returns and raises, an example that calls it; types are in the signature."""
    function = getattr(gradsift, name)
    parts = make_api.parts(inspect.getdoc(function))
    described = [entry for entry, _ in make_api.entries(parts.get("Parameters", ""))]
    assert described == [star(p) for p in inspect.signature(function).parameters.values()]
    assert all(meaning for _, meaning in make_api.entries(parts.get("Parameters", "")))
    assert parts[""].endswith(".")
    assert parts["Returns"]
    assert parts["Raises"]
    assert f"gradsift.{name}(" in parts["Example"]


def star(parameter):
    return f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_runs_and_gives_what_it_says(name):
    doc = inspect.getdoc(getattr(gradsift, name))
    example = doctest.DocTestParser().get_doctest(doc, {"gradsift": gradsift}, name, None, 0)
    said = []
    failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.usefixtures("folder")
def test_the_whole_example_of_the_page_runs(capsys):
    first = re.search(r"^```python\n(.*?)^```", make_api.INTRODUCTION, re.M | re.S)[1]
    exec(first, {})
    said = capsys.readouterr().out
    assert said.count("sql") >= 1
    assert "ten-sql" in said


def test_help_has_a_line_for_every_name():
    listed = re.findall(r"^    (\w+)  +\S", gradsift.__doc__, re.M)
    assert sorted(listed) == sorted(name for name in gradsift.__all__ if name != "__version__")


def test_a_misspelt_name_is_no_attribute():
    with pytest.raises(AttributeError, match="qeury"):
        gradsift.qeury  # noqa: B018
