"""The same batch through other projects' collectors: bergson 2.5.1 and dattri-llm 0.1.0, as they ship.

`pip install bergson==2.5.1 dattri-llm==0.1.0 dattri`, then `pip uninstall torchvision torchaudio` (on a CPU, bergson
pulls wheels of them that break it).
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def bergson(model: Any, input_ids: torch.Tensor, labels: torch.Tensor, dims: int = 16) -> Callable[[], Any]:
    """bergson's GradientCollector with its default projection (dims × dims for each linear layer) and its own forward
    and backward; rows go to its memory-mapped index, as in `bergson build`."""
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config.config import IndexConfig, PreprocessConfig
    from bergson.utils.worker_utils import create_processor
    from datasets import Dataset

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = IndexConfig(run_path=str(folder / "run"), model="none", overwrite=True, projection_dim=dims)
    config.partial_run_path.mkdir(parents=True)
    rows = [
        {"input_ids": i, "labels": y, "length": len(i)}
        for i, y in zip(input_ids.tolist(), labels.tolist(), strict=True)
    ]
    freeze_but_embedding(model)
    collector = GradientCollector(
        model=model.base_model, cfg=config, processor=create_processor(model, config, None), target_modules=None,
        data=Dataset.from_list(rows), preprocess_cfg=PreprocessConfig(), attention_cfgs={}, filter_modules=None,
    )  # fmt: skip
    forward_backward = fwd_bwd_factory(config)
    mask = torch.ones_like(input_ids, dtype=torch.bool)

    def run() -> None:
        freeze_but_embedding(model)
        collector.__enter__()  # not `with`: leaving it through __exit__ alone removes the hooks and writes nothing more
        collector.with_batch(mask)
        losses = forward_backward(model, input_ids, labels, {})
        collector.process_batch(list(range(len(input_ids))), losses=losses)
        collector.__exit__(None, None, None)

    return run


def dattri(model: Any, input_ids: torch.Tensor, labels: torch.Tensor, dims: int = 16) -> Callable[[], Any]:
    """dattri-llm's hooks with LoGra factors (dims × dims) on every linear layer of the frozen model, kept in memory."""
    from dattri_llm import CaptureCallback, HookManager, HookManagerConfig

    config = HookManagerConfig(
        linear_io=[r"layers\."], include_frozen=True, capture_style="materialized",
        projection_kwargs={"__default__": {"proj_dim": dims, "style": "logra", "proj_max_batch_size": 32}},
    )  # fmt: skip
    freeze_but_embedding(model)
    capture = CaptureCallback()

    def run() -> None:
        freeze_but_embedding(model)
        manager = HookManager(model, config=config, callbacks=[capture])
        with manager.collect():
            model(input_ids=input_ids, labels=labels).loss.backward()
        manager.remove()
        assert capture.record is not None
        capture.record = None
        model.zero_grad()

    return run


def freeze_but_embedding(model: Any) -> None:
    """As both do, so that the backward pass reaches every layer."""
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
