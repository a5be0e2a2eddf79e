"""The same batch through other projects' collectors: bergson 2.5.1 and dattri-llm 0.1.0, as they ship.

`pip install bergson==2.5.1 dattri-llm==0.1.0 dattri`, then `pip uninstall torchvision torchaudio` (bergson names them but
never imports them, and their CPU wheels break it).
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def bergson(model: Any, input_ids: torch.Tensor, labels: torch.Tensor, dims: int = 16) -> Callable[[], Any]:
    """bergson's GradientCollector with its default projection (dims × dims for each linear layer), writing its index
    to a temporary folder, as `bergson build` does for each batch."""
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config.config import IndexConfig, PreprocessConfig
    from bergson.utils.worker_utils import create_processor
    from datasets import Dataset

    folder = Path(tempfile.mkdtemp())
    config = IndexConfig(run_path=str(folder / "run"), model="none", overwrite=True, projection_dim=dims)
    rows = [{"input_ids": i, "labels": y, "length": len(i)} for i, y in zip(input_ids.tolist(), labels.tolist())]
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)  # as bergson's setup does
    shutil.rmtree(config.partial_run_path, ignore_errors=True)
    config.partial_run_path.mkdir(parents=True)
    collector = GradientCollector(
        model=model.base_model, cfg=config, processor=create_processor(model, config, None), target_modules=None,
        data=Dataset.from_list(rows), preprocess_cfg=PreprocessConfig(), attention_cfgs={}, filter_modules=None,
    )  # fmt: skip
    forward_backward = fwd_bwd_factory(config)
    mask = torch.ones_like(input_ids, dtype=torch.bool)

    def run() -> None:
        collector.with_batch(mask)
        losses = forward_backward(model, input_ids, labels, {})
        collector.process_batch(list(range(len(input_ids))), losses=losses)

    collector.__enter__()
    run()  # builds its matrices
    collector.__exit__(None, None, None)
    for name in list(folder.rglob("*")):
        if name.is_dir() and name.name == "data.hf":
            shutil.rmtree(name)

    def hooked() -> None:
        with collector:
            run()
        shutil.rmtree(config.partial_run_path / "data.hf", ignore_errors=True)

    return hooked


def dattri(model: Any, input_ids: torch.Tensor, labels: torch.Tensor, dims: int = 16) -> Callable[[], Any]:
    """dattri-llm's hooks with LoGra factors of dims × dims on every linear layer of the frozen model, kept in memory."""
    from dattri_llm import REGISTER_ALL, CaptureCallback, HookManager, HookManagerConfig

    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    capture = CaptureCallback()
    config = HookManagerConfig(
        linear_io=[r"layers\."], include_frozen=True, capture_style="materialized",
        projection_kwargs={"__default__": {"proj_dim": dims * dims, "style": "logra"}},
    )  # fmt: skip
    assert REGISTER_ALL is not None
    manager = HookManager(model, config=config, callbacks=[capture])

    def run() -> None:
        with manager.collect():
            model(input_ids=input_ids, labels=labels).loss.backward()
        model.zero_grad()

    return run
