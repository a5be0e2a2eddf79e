"""The `trl sft` that a config in an export gives in its first line."""

import re
import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from running import run

STEPS = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--save_strategy", "no",
         "--bf16", "false", "--logging_steps", "1", "--use_cpu", "true", "--gradient_checkpointing", "false"]  # fmt: skip


def words_of(folder, config, model):
    """The command's words, with two steps on a CPU, for a model."""
    first = (folder / config).read_text("utf-8").splitlines()[0]
    words = re.fullmatch(r"# (trl sft .*?) +\(from inside this folder\)", first)[1].split()
    return [{"MODEL": str(model)}.get(word, word) for word in words] + STEPS


def typed(folder, words):
    """What the command prints as it is typed inside the export."""
    caches = {"HF_DATASETS_CACHE": str(folder.parent / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = run([Path(sys.executable).parent / words[0], *words[1:]], cwd=folder, code=None, **caches)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    return said


def called(folder, words):
    """What TRL's own script prints with the same words: the command without the launcher, which starts Python twice."""
    from trl.scripts.sft import main, make_parser

    out = StringIO()
    with (
        chdir(folder),
        mock.patch("datasets.config.HF_DATASETS_CACHE", folder.parent / "cache"),
        redirect_stdout(out),
    ):
        main(*make_parser().parse_args_and_config(words[2:], fail_with_unknown_args=False))
    return out.getvalue()
