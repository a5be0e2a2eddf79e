"""A dry run says what the run will do: what it refuses, what it computes, what it keeps."""

import re

import pytest

from gradsift.datastore.errors import InputError
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run


def test_a_method_that_the_run_would_refuse_is_named(recipe_data, store, tmp_path):
    """In the words of the refusal; the same recipe with room has no such note."""
    plain = {name: recipe_data[name] for name in ("name", "pool", "targets")}
    data = plain | {"select": {"method": "random", "examples": 9}, "memory": "50KB"}
    (note,) = plan_run(parse_recipe(data), tmp_path / "none").notes
    assert note.startswith("method 'random' would be refused: needs ")
    assert "`memory` allows 49 KiB" in note
    with pytest.raises(InputError) as refused:
        curate(parse_recipe(data), store)
    same = [re.sub(r"[\d,]+ (KiB|examples)", "", words) for words in (str(refused.value), note)]  # before screening
    assert same[0] == same[1].replace(" would be refused", "")
    assert plan_run(parse_recipe(data | {"memory": "500MB"}), tmp_path / "none").notes == []
