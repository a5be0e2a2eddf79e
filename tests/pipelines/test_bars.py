"""Bars of libraries: off within a block, then as their user had them."""

import datasets
import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from running import python
from transformers.utils import logging

from gradsift.pipelines.bars import no_bars, no_bars_of_datasets


@pytest.fixture(autouse=True)
def _as_before():
    yield
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("hub", [True, False])
def test_bars_are_off_and_then_as_before(shown, hub):
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    (enable_progress_bars if hub else disable_progress_bars)()
    with no_bars():
        assert not logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
    assert logging.is_progress_bar_enabled() == shown
    assert are_progress_bars_disabled() != hub


@pytest.mark.parametrize("shown", [True, False])
def test_bars_of_datasets_are_off_and_then_as_before(shown):
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    with no_bars_of_datasets():
        assert datasets.are_progress_bars_disabled()
    assert datasets.are_progress_bars_disabled() != shown


@pytest.mark.parametrize("value", ["0", "1"])
def test_who_set_the_environment_is_not_overruled_and_not_warned(value):
    code = (
        "from transformers.utils import logging\n"
        "from gradsift.pipelines.bars import no_bars, no_bars_of_datasets\n"
        "with no_bars(), no_bars_of_datasets(): print(logging.is_progress_bar_enabled())"
    )
    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    said = python("-W", "error::UserWarning", "-c", code, **dict.fromkeys(names, value))
    assert said.stdout.split() == ["True" if value == "0" else "False"]
