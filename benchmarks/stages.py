"""Where the time of gradient rows goes on real chats, and what a row weighs.

    python benchmarks/stages.py --model PATH --pool pool.jsonl.zst [--dtype bfloat16] [--rows 128]

One unit of rows as a run computes it (Adam, all default signals, fold, int8), with a clock around each stage.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import torch
from measure import machine

from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.examples import Example
from gradsift.datastore.rows import write_block
from gradsift.pipelines.features import extract
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.space import GradientJob
from gradsift.pipelines.model.load import adapter_arrays, load_lora
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.recipe import Encoding, Features, Lora, Model, Projector, Source


def main() -> None:
    """Print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    section = Model(path=args.model, dtype=args.dtype)
    loaded = open_model(section)
    adapter = adapter_arrays(load_lora(loaded, section, Lora(r=8), 0))
    moments = {n: abs(a) * 1e-3 + 1e-6 for n, a in adapter.items()}
    job = GradientJob(
        loaded, section, Lora(r=8), Encoding(max_length=args.max_length),
        Features(projector=Projector(dim=args.dim)), 0,
        Checkpoint(1, 0, 10, 1e-3, "", 1), CheckpointState(adapter, moments, moments), "adam_exact",
    )  # fmt: skip
    extractor = Extractor(job)
    pool = [e for e in read_source(Source(path=args.pool, rows=2 * args.rows), 0) if isinstance(e, Example)]
    seconds: dict[str, float] = defaultdict(float)

    def clocked(name, call):
        def run(*values, **options):
            start = time.process_time()
            try:
                return call(*values, **options)
            finally:
                seconds[name] += time.process_time() - start

        return run

    chats = [c for c in (clocked("encode", extractor.encode)(e.messages) for e in pool) if c.usable][: args.rows]
    extractor.rows(["warm"], chats[:1])
    seconds = defaultdict(float, {"encode": seconds["encode"] * args.rows / len(pool)})
    original, transform = extractor.projector.start, extractor.transform

    class Clocked:
        def __init__(self, inner):
            self.add, self.result = clocked("project", inner.add), inner.result

    extractor.projector.start = lambda *a: Clocked(original(*a))
    extractor.transform = clocked("transform", transform)
    extract.contract = clocked("contract", extract.contract)
    extract.backward = clocked("forward, backward and head", extract.backward)
    whole = time.process_time()
    block, _ = extractor.rows([str(k) for k in range(len(chats))], chats)
    total = time.process_time() - whole
    with tempfile.NamedTemporaryFile() as handle:
        clocked("write", write_block)(block, "bench", handle)
        size = Path(handle.name).stat().st_size
    inner = sum(seconds[n] for n in ("project", "transform", "contract"))
    seconds["forward, backward and head"] -= inner
    seconds["the rest (signals, quantise)"] = total - inner - seconds["forward, backward and head"]
    everything = sum(seconds.values())
    tokens = sum(len(c.input_ids) for c in chats)
    print(
        json.dumps(
            {
                "model": Path(args.model).name, "dtype": args.dtype, "rows": len(chats), "tokens": tokens,
                "label_tokens": sum(c.n_label_tokens for c in chats),
                "rows_per_cpu_second": round(len(chats) / everything, 2),
                "tokens_per_cpu_second": round(tokens / everything), "bytes_per_row": round(size / len(chats)),
                "share": {k: round(v / everything, 4) for k, v in seconds.items()}, "machine": machine(),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
