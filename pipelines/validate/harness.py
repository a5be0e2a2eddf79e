"""Benchmarks of EleutherAI's lm-evaluation-harness on a trained arm: an optional bridge (extra `lm-eval`).

The harness reads its data itself: tasks of the hub need network or a filled cache, tasks of a local folder
(`include_path`, YAML files with `dataset_path: json`) do not. Its figures are reported beside ours as they are
(`acc,none` and so on); verdicts do not use them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradsift.datastore.errors import InputError


def folder_digest(include_path: str | None) -> str | None:
    """sha256 hex of all files of a task folder, names and bytes: other tasks of the same name are other benchmarks.

    Raises InputError for a folder that is not there.
    """
    if include_path is None:
        return None
    folder = Path(include_path)
    if not folder.is_dir():
        raise InputError(f"validate.lm_eval.include_path: {folder} is no folder")
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        sha.update(f"{path.relative_to(folder)}\n".encode("utf-8", "surrogateescape"))
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def scores(
    model: Any, tokenizer: Any, tasks: Sequence[str], include_path: str | None, limit: int | None, batch_size: int = 8
) -> dict[str, float]:
    """{`task metric`: value} of a model as it is. Raises InputError without the package, or for an unknown task."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError("validate.lm_eval needs the harness: pip install 'gradsift[lm-eval]'") from None
    manager = TaskManager(include_path=include_path)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise InputError(f"lm-eval knows no task {unknown[0]!r}; give `include_path` for tasks of your own")
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    evaluated = lm_eval.simple_evaluate(
        model=wrapped, tasks=list(tasks), limit=limit, task_manager=manager, log_samples=False, bootstrap_iters=0
    )
    return {
        f"{task} {metric}": float(value)
        for task, metrics in evaluated["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, int | float) and "," in metric and "stderr" not in metric
    }
