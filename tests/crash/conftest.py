"""Fixtures: the process that forks commands, and the life of a store that nobody disturbs."""

import pytest
from forked import Forks
from world import Life, make


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def life(forks, data_dir, model_dir, tmp_path_factory):
    """Its steps are done when they are first asked for."""
    return Life(forks, make(tmp_path_factory.mktemp("life") / "world", data_dir, model_dir))
