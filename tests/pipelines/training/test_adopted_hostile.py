"""Folders of others that hold anything: an error that names the file, never a traceback."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.training import adopted

MOMENTS = {"exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3), "step": torch.tensor(1.0)}
GROUP = {"params": [0], "param_names": ["a"]}
PARAMETERS: dict[str, Any] = {"a": SimpleNamespace(shape=(2, 3))}


def _config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | changes
    (folder / adopted.CONFIG).write_text(json.dumps(config))
    return folder


def test_a_checkpoint_counts_once(tmp_path: Path) -> None:
    one = _config(tmp_path / "out" / "checkpoint-1")
    _config(tmp_path / "out" / "checkpoint-2")
    assert [folder.name for folder in adopted.folders([str(tmp_path / "out")])] == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(InputError, match="checkpoint-1 twice"):
        adopted.folders([str(tmp_path / "out"), str(one)])
    with pytest.raises(InputError, match="checkpoint-1 twice"):
        adopted.folders([str(one), str(one.parent / "checkpoint-2" / ".." / "checkpoint-1")])


@pytest.mark.parametrize("changes", [{"r": "many"}, {"lora_alpha": None}, {"target_modules": None}, {"r": -1}])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=adopted.CONFIG):
        adopted._lora_of(_config(tmp_path, **changes))


def test_a_configuration_that_is_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / adopted.CONFIG).write_text("[]")
    with pytest.raises(InputError, match="is no JSON object"):
        adopted._lora_of(tmp_path)


@pytest.mark.parametrize(
    "saved",
    [
        [1, 2],
        {"param_groups": [GROUP], "state": [MOMENTS]},
        {"param_groups": [GROUP], "state": {0: MOMENTS | {"exp_avg": 1}}},
        {"param_groups": [GROUP], "state": {0: {key: MOMENTS[key] for key in ("exp_avg", "exp_avg_sq")}}},
        {"param_groups": [GROUP | {"params": [0, 1]}], "state": {0: MOMENTS}},
        {"param_groups": [GROUP | {"betas": None}], "state": {0: MOMENTS}},
        {"param_groups": [GROUP], "state": {0: MOMENTS | {"step": torch.tensor(np.nan)}}},
        {"param_groups": [GROUP], "state": {0: MOMENTS | {"exp_avg": torch.full((2, 3), np.nan)}}},
    ],
)
def test_a_state_that_is_none_is_named(tmp_path: Path, saved: Any) -> None:
    path = tmp_path / adopted.OPTIMIZER
    torch.save(saved, path)
    with pytest.raises(InputError, match=adopted.OPTIMIZER):
        adopted._moments(path, None, PARAMETERS)


def test_a_state_of_adam_is_read(tmp_path: Path) -> None:
    torch.save({"param_groups": [GROUP], "state": {0: MOMENTS}}, tmp_path / adopted.OPTIMIZER)
    first, second, step = adopted._moments(tmp_path / adopted.OPTIMIZER, None, PARAMETERS)
    assert (first["a"].shape, second["a"].shape, step) == ((2, 3), (2, 3), 1)


def test_a_log_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / adopted.STATE).write_text('{"global_step": 2, "log_history": [{"learning_rate": 0.1}]}')
    with pytest.raises(InputError, match=adopted.STATE):
        adopted._rates([tmp_path])
