"""A store that the real flow made, with rows of every space that can be searched."""

import shutil

import pytest

from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate


@pytest.fixture(scope="session")
def searched(recipe_data, encoder_dir, built_once, tmp_path_factory):
    """The folder of a finished run of 96 rows in three shards, with plain rows, embeddings and rows of an encoder. Read
    only: copy it to change it."""
    (source,) = recipe_data["pool"]
    recipe = recipe_data | {
        "pool": [source | {"rows": 96}],
        "select": {"examples": 12, "encoder": str(encoder_dir)},
        "validate": None,
    }

    def build(folder):
        with Store(folder / "store") as store:
            curate(parse_recipe(recipe), store)

    root = tmp_path_factory.mktemp("searched") / "store"
    shutil.copytree(built_once("searched", build) / "store", root)
    return root
