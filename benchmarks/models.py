"""Which models work: every architecture that transformers registers for causal language modelling, tiny and random.

Each is built from a configuration with small numbers, gets LoRA on all linear layers and three AdamW steps (so that B
is not zero), and its per-example gradients, as they are captured, are compared with a loop of autograd over the
examples, weight by weight; likewise the frozen weights (`linear`). Batches: four rows of different lengths, as many
rows as tokens, and one row. `python benchmarks/models.py` writes docs/models.md, in some minutes; with names, it prints
their lines. A test runs one architecture of each kind.
"""

import dataclasses
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.features.capture import backward, contract, is_wide, watched_layers
from gradsift.pipelines.features.fit import Fit, fit
from gradsift.pipelines.features.routed import is_experts
from gradsift.pipelines.model.batches import collate
from gradsift.pipelines.model.causal import check_causal
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import add_lora, lora_parameters
from gradsift.pipelines.recipe import Lora

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
VOCABULARY, LARGEST, PAD = 300, 3_000_000, 7
SMALL = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "hidden_dim", "embedding_size", "lru_width"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner"), 48),
    **dict.fromkeys(("ffn_hidden_size",), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "state_size"), 8),
    **dict.fromkeys(("mamba_d_state", "mamba_n_heads", "mamba_d_head"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "sliding_window", "attention_window_size"), 16),
    **dict.fromkeys(("conv_kernel", "mamba_dt_rank", "time_step_rank", "rotary_dim"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
}
MLA = {"num_key_value_heads": 4}
SPECIAL = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "youtu"), MLA),
    **dict.fromkeys(("glm_moe_dsa", "longcat_flash", "minicpm3"), MLA),
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "falcon": {"num_kv_heads": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"expand": 2, "num_heads": 8},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3},
    "roc_bert": {"pronunciation_vocab_size": 40, "shape_vocab_size": 40},
    "zamba": {"layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one architecture and kind of weights: the largest relative error of any weight's gradient, how many weights
    were compared, and how they were captured; or why it was refused."""

    error: float = float("nan")
    weights: int = 0
    fit: Fit = dataclasses.field(default_factory=Fit)
    refused: str = ""


def build(kind: str, **settings):
    """A tiny random model of an architecture; `settings` of its configuration beside the small ones."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(made)} | set(made.attribute_map)
    twice = {a for a, b in made.attribute_map.items() if a in SMALL and b in SMALL and a != b}
    small = {name: value for name, value in SMALL.items() if name in known - twice}
    config = made(**(small | SPECIAL.get(kind, {}) | settings))
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters: not made small by these settings")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def rows(lengths: list[int]) -> list[Encoded]:
    """Random chats: no loss on the first two tokens."""
    rng = random.Random(sum(lengths))
    return [
        Encoded(tuple(rng.randrange(3, VOCABULARY) for _ in range(n)), (False, False, *[True] * (n - 2)), "ok")
        for n in lengths
    ]


BATCHES = ([5, 9, 6, 7], [6, 4, 5, 6, 3, 6], [8])  # the second is as many rows as tokens


def train(model) -> None:
    """Three steps on the adapter."""
    optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-2)
    model.train()
    for _ in range(3):
        example_losses(model, collate(rows(BATCHES[0]), PAD)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def outcome(kind: str, parameters: str = "lora") -> Outcome:
    """Compare one architecture's gradients with autograd's. Raises what the model raises, if it cannot be built."""
    base = build(kind)
    try:
        check_causal(base, f"{kind}/{parameters}", "this folder")
        model = add_lora(base, Lora(r=4, alpha=8)) if parameters == "lora" else base
        layers = watched_layers(model, parameters)
        found = fit(model, layers)
    except InputError as error:
        return Outcome(refused=str(error))
    if parameters == "lora":
        train(model)
    layers = {name: layer for name, layer in layers.items() if name not in found.left_out}
    worst = 0.0
    for lengths in BATCHES:
        chats = rows(lengths)
        got, true = captured(model, layers, found, chats), loop(model, layers, chats)
        size = {name: float(g.flatten(1).norm(dim=1).max()) for name, g in true.items()}
        least = 1e-5 * max(size.values())
        for name, g in true.items():
            worst = max(worst, float((got[name] - g).flatten(1).norm(dim=1).max()) / max(size[name], least))
    return Outcome(worst, len(layers), found)


def captured(model, layers, found: Fit, chats: list[Encoded]) -> dict[str, torch.Tensor]:
    """Gradients [N, O, I] by weight, in the batches that the extractor would make."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for batch in [chats] if found.together else [[chat] for chat in chats]:
        backward(
            model, collate(batch, PAD), layers, lambda n, d, x: parts[n].append(contract(d, x)),
            by_autograd=found.by_autograd,
        )  # fmt: skip
    return {name: torch.cat(part) for name, part in parts.items()}


def loop(model, layers, chats: list[Encoded]) -> dict[str, torch.Tensor]:
    """The definition: each example alone, cross-entropy of the model's own logits, autograd's own gradient."""
    weights = {name: weight_of(name, layer) for name, layer in layers.items()}
    before = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    for weight, _, _ in weights.values():
        weight.requires_grad_(True)
    out: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for chat in chats:
        ids, labelled = torch.tensor([chat.input_ids]), torch.tensor(chat.labelled)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1][labelled[1:]]
        torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:][labelled[1:]]).backward()
        for name, (weight, number, wide) in weights.items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            gradient = gradient if number is None else gradient[number]
            out[name].append(gradient.T if wide else gradient)
        model.zero_grad()
    for parameter, needed in before.items():
        parameter.requires_grad_(needed)
    return {name: torch.stack(part) for name, part in out.items()}


def weight_of(name: str, layer) -> tuple[torch.nn.Parameter, int | None, bool]:
    """A weight's parameter, its number in a stack of experts, and whether it is stored as [I, O]."""
    if is_experts(layer):
        stack, number = name.split(".")[-2:]
        return getattr(layer, stack), int(number), layer.is_transposed
    return layer.weight, None, is_wide(layer)


def cell(result: Outcome) -> str:
    """What the table says."""
    if result.refused:
        return "refused"
    marks = "" if result.fit.together else ", one at a time"
    for count, what in ((len(result.fit.idle), "idle"), (len(result.fit.left_out), "left out")):
        marks += f", {count} {what}" if count else ""
    return f"{result.error:.0e} ({result.weights}{marks})"


def reason(refused: str) -> str:
    """A refusal without the place of the model."""
    return (refused.partition(") ")[2] or refused).partition(". ")[0]


def line(kind: str) -> str:
    """One line of the table. Raises what the model raises, if it cannot be built."""
    lora, linear = outcome(kind), outcome(kind, "linear")
    bare = ", ".join(f"{count} {name}" for name, count in lora.fit.bare.items())
    says = reason(lora.refused or linear.refused) or (f"LoRA does not reach {bare}" if bare else "")
    return f"| {kind} | {cell(lora)} | {cell(linear)} | {says} |"


def lines(kinds: list[str]) -> Iterator[str]:
    """Lines of the table, and of what could not be built."""
    for kind in kinds:
        try:
            yield line(kind)
        except Exception as error:  # noqa: BLE001 - of a configuration that these settings do not make small
            yield f"- {kind}: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"


def main() -> None:
    """Print the lines of some, or write the page."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as REGISTERED

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    found = []
    for text in lines(sys.argv[1:] or list(REGISTERED)):
        print(text, flush=True)
        found.append(text)
    if not sys.argv[1:]:
        head, mark, _ = PAGE.read_text("utf-8").partition("<!-- made by make models -->\n")
        table = ["| architecture | LoRA | `linear` | |", "|---|---|---|---|", *(x for x in found if x.startswith("|"))]
        missing = [x for x in found if x.startswith("-")]
        rest = ["", "Not built small, so not tried:", "", *missing] if missing else []
        PAGE.write_text(head + mark + "\n" + "\n".join(table + rest) + "\n", "utf-8")


if __name__ == "__main__":
    main()
