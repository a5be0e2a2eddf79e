"""How well stored rows keep the geometry of real gradients, for each projector and dtype, and by stored byte.

    python benchmarks/fidelity.py --model PATH --pool pool.jsonl.zst --target val.jsonl.zst [--parameters linear]

Exact per-example gradients of pool and target rows (LoRA after a short warm-up, or the model's own linear weights)
are held in memory; each way of storing them is compared with the exact cosines: RMS error, mean Spearman rank
correlation of the pool ranking over target rows, and overlap of the best 5 % by the mean over target rows.
`blocks 16 x 16` is bergson's and LoGra's default: dense Gaussian factors on both sides of each layer, side by side, in
float32 as bergson stores them for a float32 model.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import numpy as np
import torch
from measure import machine

from gradsift.datastore.examples import Example
from gradsift.datastore.rows import quantise, unpack_int4
from gradsift.pipelines.features.capture import backward, contract, watched_layers
from gradsift.pipelines.features.projectors import make_projector
from gradsift.pipelines.features.projectors.factors import Factors
from gradsift.pipelines.model.batches import by_length, collate, pad_id
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.load import load_base, load_lora
from gradsift.pipelines.model.opened import Loaded, open_model
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.progress import quiet
from gradsift.pipelines.recipe import Lora, Model, Source, Training
from gradsift.pipelines.training.loop import Report, train

CPU = torch.device("cpu")


def read_chats(loaded: Loaded, path: str, count: int, max_length: int) -> list[Any]:
    """The first usable chats of a seeded sample."""
    rows = [e for e in read_source(Source(path=path, rows=4 * count), 0) if isinstance(e, Example)]
    chats = [encode(loaded.tokenizer, e.messages, max_length) for e in rows]
    return [c for c in chats if c.usable][:count]


def blocks(factor: int, seed: int) -> Any:
    """Dense two-sided factors, as bergson and LoGra have them."""
    drawn: dict[str, torch.Tensor] = {}

    def side(name: str, values: torch.Tensor) -> torch.Tensor:
        if name not in drawn:
            generator = torch.Generator().manual_seed(seed + len(drawn))
            drawn[name] = torch.randn(values.shape[2], factor, generator=generator) / factor**0.5
        return values.float() @ drawn[name]

    return lambda name, delta, x: torch.bmm(side(name + "/o", delta).transpose(1, 2), side(name + "/i", x)).flatten(1)


def collect(model: Any, layers: Any, chats: list[Any], pad: int, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Exact gradients, block rows and sketched factor rows of all chats."""
    lora = args.parameters == "lora"
    factors = {} if lora else {f"factors {k}, fold {d}": (Factors(k, 0), d) for k in (64, 128) for d in (4096, 8192)}
    projectors = {d: make_projector("fold", d, 0, list(layers)) for d in (4096, 8192)}
    small = blocks(16, 0)
    parts: dict[str, list[torch.Tensor]] = {}
    order = list(by_length([len(c.input_ids) for c in chats], 2048))
    for part in order:
        whole, dense = {}, {}
        sketches = {name: projectors[d].start(len(part), CPU) for name, (_, d) in factors.items()}

        def consume(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
            whole[name] = contract(delta, x).flatten(1)
            dense[name] = small(name, delta, x)
            for label, (factor, _) in factors.items():
                sketches[label].add(name, factor.contract(name, delta, x))

        backward(model, collate([chats[k] for k in part], pad), layers, consume)
        parts.setdefault("exact", []).append(torch.cat([whole[n] for n in layers], 1))
        parts.setdefault("blocks 16 x 16", []).append(torch.cat([dense[n] for n in layers], 1))
        for label, sketch in sketches.items():
            parts.setdefault(label, []).append(sketch.result())
    back = np.argsort([k for part in order for k in part])
    return {name: torch.cat(values)[back] for name, values in parts.items()}


def project(exact: torch.Tensor, sizes: dict[str, int], family: Any, dim: int) -> torch.Tensor:
    """Rows of a family from held gradients."""
    projector = make_projector(family, dim, 0, list(sizes))
    projected = []
    for rows in exact.split(16):
        sketch = projector.start(len(rows), CPU)
        for name, part in zip(sizes, rows.split(list(sizes.values()), 1), strict=True):
            sketch.add(name, part)
        projected.append(sketch.result())
    return torch.cat(projected)


def figures(rows: torch.Tensor, exact: torch.Tensor, targets: int) -> dict[str, float]:
    """Errors of the cosines between pool rows (all but the last `targets`) and target rows."""
    normed = torch.nn.functional.normalize(rows, dim=1)
    cosines = (normed[:-targets] @ normed[-targets:].T).numpy()
    ranks = [np.argsort(np.argsort(c, axis=0), axis=0).astype(float) for c in (cosines, exact)]
    spearman = [np.corrcoef(ranks[0][:, j], ranks[1][:, j])[0, 1] for j in range(targets)]
    top = max(1, len(cosines) // 20)
    best = [set(np.argsort(-c.mean(1))[:top].tolist()) for c in (cosines, exact)]
    return {
        "rms": float(np.sqrt(np.mean((cosines - exact) ** 2))),
        "spearman": float(np.mean(spearman)),
        "top5": len(best[0] & best[1]) / top,
    }


def stored(rows: torch.Tensor, dtype: Any) -> torch.Tensor:
    """What is read back after storing unit rows in a dtype."""
    vectors, scale = quantise(torch.nn.functional.normalize(rows, dim=1).numpy(), dtype)
    numbers = unpack_int4(vectors) if dtype == "int4" else vectors
    return torch.from_numpy(numbers.astype(np.float32) * scale[:, None])


def main() -> None:
    """Print the table, and keep it as JSON with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--parameters", choices=["lora", "linear"], default="lora")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--targets", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--steps", type=int, default=40, help="of warm-up, for LoRA")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    section = Model(path=args.model, dtype="float32")
    loaded = open_model(section)
    chats = read_chats(loaded, args.pool, args.rows, args.max_length)
    chats += (targets := read_chats(loaded, args.target, args.targets, args.max_length))
    model = load_lora(loaded, section, Lora(r=8), 0) if args.parameters == "lora" else load_base(loaded, section)
    if args.parameters == "lora":
        training = Training(epochs=1, batch_size=8, lr=5e-4)
        train(model, loaded.tokenizer, chats[: 8 * args.steps], training, 0, Report("warm-up", quiet))
    layers = watched_layers(model, args.parameters)
    held = collect(model, layers, chats, pad_id(loaded.tokenizer), args)
    exact_rows = held.pop("exact")
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    normed = torch.nn.functional.normalize(exact_rows, dim=1)
    exact = (normed[: -len(targets)] @ normed[-len(targets) :].T).numpy()
    table = []

    def line(name: str, dims: int, size: float, rows: torch.Tensor) -> None:
        table.append({"rows": name, "dims": dims, "bytes": size, **figures(rows, exact, len(targets))})

    for dim in (512, 1024, 4096, 8192):
        rows = project(exact_rows, sizes, "fold", dim)
        line("fold, f32", dim, 4 * dim, rows)
        for dtype, width in (("f16", 2), ("int8", 1), ("int4", 0.5)):
            line(f"fold, {dtype}", dim, dim * width + 4, stored(rows, dtype))
    families = ["srht", "dct", "rademacher", "traker"] if args.parameters == "lora" else []
    for family in families:
        line(f"{family}, f32", 1024, 4 * 1024, project(exact_rows, sizes, family, 1024))
    for name, rows in held.items():
        size = rows.shape[1] * (4 if "blocks" in name else 1) + 4 * ("blocks" not in name)
        line(f"{name}, f32" if "blocks" in name else f"{name}, int8", rows.shape[1], size,
             rows if "blocks" in name else stored(rows, "int8"))  # fmt: skip
    print(
        f"{len(chats)} rows, P = {exact_rows.shape[1]:,}; exact cosines: mean {exact.mean():.3f}, std {exact.std():.3f}"
    )
    print("| rows | dims | bytes | RMS error | 1/√dims | Spearman | top 5 % |\n|---|---|---|---|---|---|---|")
    for x in table:
        print(
            f"| {x['rows']} | {x['dims']:,} | {x['bytes']:,.0f} | {x['rms']:.4f} | {x['dims'] ** -0.5:.4f} "
            f"| {x['spearman']:.3f} | {x['top5']:.2f} |"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: Path(str(v)).name for k, v in vars(args).items() if k != "out"}
        args.out.write_text(json.dumps({"settings": settings, "machine": machine(), "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
