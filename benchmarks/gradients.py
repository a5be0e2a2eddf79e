"""What per-example gradient rows cost, next to plain training passes and to other projects, on the same batch.

    python benchmarks/gradients.py --model PATH [--dtype bfloat16] [--supervised 0.4] [--peers] [--peak]

`--model random:151936` makes a Llama of 6 layers and width 256 with that vocabulary. Every ratio is the median over
rounds of the ratio inside a round, of CPU seconds on one thread, to one of two floors: `floor` is transformers' own
LoRA forward and backward of the batch; `strict floor` is the same with the output head on labelled positions only, as
TRL 1.16 trains on a GPU. Peaks are megabytes above the loaded model, each case in a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import torch
from measure import interleave, machine, peak_bytes, peak_in_child, ratio

from gradsift.pipelines.features.capture import backward, contract, watched_layers
from gradsift.pipelines.features.projectors import make_projector
from gradsift.pipelines.features.projectors.factors import Factors
from gradsift.pipelines.features.transforms import make_transform
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.load import adapter_arrays, load_base, load_lora, lora_parameters
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import Encoding, Features, Lora, Model, Projector

FLOOR = "floor: LoRA forward+backward"
STRICT = "strict floor: the same, head on labelled positions only"


class Bench:
    """A model with and without adapter, and one batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.section = Model(path=args.model, dtype=args.dtype)
        self.loaded = open_model(self.section)
        self.lora = load_lora(self.loaded, self.section, Lora(r=8), 0)
        self.base = load_base(self.loaded, self.section)
        generator = torch.Generator().manual_seed(0)
        for parameter in lora_parameters(self.lora).values():  # B ≠ 0, as after a warm-up
            parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        vocabulary = self.base.config.get_text_config().vocab_size
        ids = torch.randint(5, vocabulary, (args.batch, args.tokens), generator=generator)
        first = max(1, round(args.tokens * (1 - args.supervised)))
        labelled = tuple(t >= first for t in range(args.tokens))
        self.chats = [Encoded(tuple(row), labelled, "ok") for row in ids.tolist()]
        self.batch = collate(self.chats, 0)
        self.labels = torch.where(torch.tensor(labelled), ids, -100)
        moments = {n: torch.rand(p.shape, generator=generator).numpy() * 1e-4 for n, p in self.parameters().items()}
        self.adam = make_transform("adam_exact", moments, moments, 10, torch.device("cpu"))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return lora_parameters(self.lora)

    def plain(self, model: Any, rows: slice = slice(None)) -> torch.Tensor:
        """transformers' own loss."""
        b = self.batch
        out = model(input_ids=b.input_ids[rows], attention_mask=b.attention_mask[rows], labels=self.labels[rows])
        return out.loss

    def forward(self) -> None:
        with torch.no_grad():
            self.plain(self.lora)

    def floor(self) -> None:
        self.plain(self.lora).backward()
        self.lora.zero_grad(set_to_none=True)

    def strict_floor(self) -> None:
        """The least that a plain training pass does: the trunk, the head where there is a label, one backward."""
        b = self.batch
        hidden = self.lora.base_model.model.model(input_ids=b.input_ids, use_cache=False).last_hidden_state
        logits = self.lora.get_output_embeddings()(hidden[b.rows, b.before])
        torch.nn.functional.cross_entropy(logits.float(), b.wanted).backward()
        self.lora.zero_grad(set_to_none=True)

    def full_step(self) -> None:
        """Every weight of the layers, as in full fine-tuning."""
        thawed = [layer.weight for layer in watched_layers(self.base, "linear").values()]
        for weight in thawed:
            weight.requires_grad_(True)
        self.plain(self.base).backward()
        self.base.zero_grad(set_to_none=True)
        self.base.requires_grad_(False)

    def loop(self, project: Callable[[torch.Tensor], Any] | None = None) -> None:
        """LESS's way: one example at a time, projected sixteen at a time."""
        held = []
        for k in range(len(self.chats)):
            self.plain(self.lora, slice(k, k + 1)).backward()
            held.append(torch.cat([p.grad.flatten() for p in self.parameters().values()]))
            self.lora.zero_grad(set_to_none=True)
            if project and (len(held) == 16 or k + 1 == len(self.chats)):
                project(torch.stack(held))
                held.clear()

    def less(self, dim: int) -> Callable[[], None]:
        """The loop with traker's CPU projector as LESS calls it."""
        from trak.projectors import BasicProjector, ProjectionType

        size = sum(p.numel() for p in self.parameters().values())
        projector = BasicProjector(
            size, dim, 0, ProjectionType.rademacher, torch.device("cpu"), block_size=128, dtype=torch.float32
        )
        return lambda: self.loop(lambda flat: projector.project(flat, model_id=0))

    def vmap(self) -> None:
        """torch.func: vmap of grad over the adapter, no projection."""
        from torch.func import functional_call, grad, vmap

        def loss(parameters: dict[str, torch.Tensor], ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            out = functional_call(self.lora, parameters, (), {"input_ids": ids[None], "use_cache": False})
            return torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), labels[1:])

        detached = {n: p.detach() for n, p in self.parameters().items()}
        vmap(grad(loss), in_dims=(None, 0, 0))(detached, self.batch.input_ids, self.labels)

    def ours(
        self,
        family: Any = "fold",
        dim: int = 8192,
        parameters: Any = "lora",
        factor: int | None = None,
        adam: bool = False,
    ) -> Callable[[], None]:
        """A batch of rows as the extractor makes them, without the signals."""
        model = self.base if parameters == "linear" else self.lora
        layers = watched_layers(model, parameters)
        projector, factors = make_projector(family, dim, 0, list(layers)), Factors(factor, 0) if factor else None

        def run() -> None:
            sketch = projector.start(len(self.chats), torch.device("cpu"))

            def consume(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
                g = factors.contract(name, delta, x) if factors else contract(delta, x)
                gamma = self.adam(name, g) if adam else g
                torch.linalg.vector_norm(gamma.flatten(1), dim=1)
                sketch.add(name, gamma)

            backward(model, self.batch, layers, consume)
            sketch.result()

        return run

    def extractor(self) -> Callable[[], None]:
        """The whole product: rows with Adam, all signals, quantised, as they are written."""
        from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
        from gradsift.pipelines.features.extract import Extractor
        from gradsift.pipelines.features.space import GradientJob

        adapter = adapter_arrays(self.lora)
        moments = {n: abs(a) * 1e-3 for n, a in adapter.items()}
        size = len(self.chats) * len(self.chats[0].input_ids)
        job = GradientJob(
            self.loaded, self.section, Lora(r=8), Encoding(max_length=4096),
            Features(projector=Projector(dim=8192), batch_tokens=size), 0,
            Checkpoint(1, 0, 10, 1e-3, "", 1), CheckpointState(adapter, moments, moments), "adam_exact",
        )  # fmt: skip
        extractor = Extractor(job)
        names = [str(k) for k in range(len(self.chats))]
        return lambda: extractor.rows(names, self.chats)

    def cases(self, peers: bool) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Each case, made when asked for."""
        cases: dict[str, Callable[[], Callable[[], Any]]] = {
            FLOOR: lambda: self.floor,
            STRICT: lambda: self.strict_floor,
            "forward": lambda: self.forward,
            "full-weight forward+backward": lambda: self.full_step,
            "ours: LoRA, fold 8192": self.ours,
            "ours: LoRA, Adam, fold 8192": lambda: self.ours(adam=True),
            "ours: LoRA B alone, fold 8192": lambda: self.ours(parameters="lora_b"),
            "ours: everything (Adam, signals, int8)": self.extractor,
            "ours: linear, factors 128, fold 8192": lambda: self.ours(parameters="linear", factor=128),
            "ours: linear, exact, fold 8192": lambda: self.ours(parameters="linear"),
            "ours: LoRA, srht 8192": lambda: self.ours("srht"),
            "ours: LoRA, dct 8192": lambda: self.ours("dct"),
            "loop, one example at a time, no projection": lambda: self.loop,
            "loop with traker 8192 (LESS on a CPU)": lambda: self.less(8192),
            "torch.func vmap, no projection": lambda: self.vmap,
        }
        if peers:
            from peers import bergson, dattri

            cases["bergson 2.5.1, 16 x 16 a layer"] = lambda: bergson(self.base, self.batch.input_ids, self.labels)
            cases["dattri-llm 0.1.0, LoGra 16 x 16 a layer"] = lambda: dattri(
                self.base, self.batch.input_ids, self.labels
            )
        return cases


def installed(cases: dict[str, Callable[[], Callable[[], Any]]]) -> dict[str, Callable[[], Any]]:
    """The cases, made; says which are left out for a package that is not installed."""
    made = {}
    for name, make in cases.items():
        try:
            made[name] = make()
        except ImportError as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    return made


def random_model(vocabulary: int) -> str:
    """A Llama of 6 layers and width 256 with random weights, with a tokenizer that is never used."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from gradsift.pipelines.demo.model import make_demo_model

    folder = Path(tempfile.gettempdir()) / f"gradsift-bench-{vocabulary}"
    if not (folder / "model.safetensors").exists():
        make_demo_model(folder, steps=1)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=8,
            num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=vocabulary > 50_000,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Run and print a table; `--out` keeps everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--supervised", type=float, default=1.0, help="share of tokens with loss, at the end")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", nargs="*", help="cases whose name contains one of these (the floors always run)")
    parser.add_argument("--peak", nargs="?", const="all", help="also measure peak memory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.model.startswith("random:"):
        args.model = random_model(int(args.model.removeprefix("random:")))
    bench = Bench(args)
    cases = bench.cases(args.peers)
    if args.peak not in (None, "all"):
        print(json.dumps(peak_bytes(cases[args.peak]()) / 2**20))
        return
    chosen = {
        n: c for n, c in cases.items() if n in (FLOOR, STRICT) or not args.only or any(part in n for part in args.only)
    }
    seconds = interleave(installed(chosen), args.rounds)
    rows = len(bench.chats)
    table = []
    for name in seconds:
        best = min(seconds[name]["cpu"])
        table.append(
            {
                "case": name,
                "cpu_ratio": ratio(seconds, name, FLOOR),
                "cpu_ratio_strict": ratio(seconds, name, STRICT),
                "wall_ratio": ratio(seconds, name, FLOOR, "wall"),
                "rows_per_cpu_second": rows / best,
                "tokens_per_cpu_second": rows * args.tokens / best,
                "peak_mb": peak_in_child(name) if args.peak else None,
            }
        )
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "peak")} | {"model": Path(args.model).name}
    print(
        f"\n{json.dumps(settings)}\n\n| case | of floor | of strict floor | wall, of floor | rows/CPU s | peak MB |\n"
        "|---|---|---|---|---|---|"
    )
    for line in table:
        peak = "" if line["peak_mb"] is None else f"{line['peak_mb']:,.0f}"
        print(
            f"| {line['case']} | {line['cpu_ratio']:.3f} | {line['cpu_ratio_strict']:.3f} | {line['wall_ratio']:.3f} "
            f"| {line['rows_per_cpu_second']:.2f} | {peak} |"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"settings": settings, "machine": machine(), "cases": table}, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
