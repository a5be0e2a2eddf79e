"""Per-example gradients of linear maps in one batched forward and backward.

For a linear map z = x Wᵀ a forward hook keeps its input x, a hook on its output receives δ = ∂(Σ_b ℓ_b)/∂z, and the
gradient of example b is G_b = Σ_t δ_bt x_btᵀ, because no layer mixes examples. LoRA's A and B are such maps, and so
is any linear layer with the frozen weight it has. No weight requires a gradient, so that autograd forms none for the
batch; the graph starts at the first captured layer. Plain LoRA layers are fused (fused_lora.py). Each layer's (δ, x)
goes to `consume` and is freed: an example's whole gradient never exists. Cost: one forward and backward, plus
2·T·I·O FLOPs for each example and layer (with I or O = r for LoRA); memory is the batch's activations. Biases are
left out.
Legend: B examples, T tokens, I inputs, O outputs.
"""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.features.fused_lora import fuse, fusible
from gradsift.pipelines.model.batches import Batch
from gradsift.pipelines.model.head import TokenLosses, example_means, token_losses, weighted

Parameters = Literal["lora", "lora_b", "linear"]
Consume = Callable[[str, torch.Tensor, torch.Tensor], None]  # (parameter name, δ [B, T, O], x [B, T, I])


def watched_layers(
    model: Any, parameters: Parameters = "lora", only: Sequence[str] | None = None
) -> dict[str, torch.nn.Module]:
    """The linear maps to capture, by the name of their weight, in the model's order.

    `lora` is A and B, `lora_b` B alone, `linear` every frozen linear layer but the head. `only` keeps names that
    match one of its shell patterns. Raises InputError when nothing is left, or for LoRA on other layers or the head.
    """
    linear = _linear_types()
    head = model.get_output_embeddings()
    inside_head = {id(part) for part in head.modules()} if head is not None else set()
    watched: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        is_lora = ".lora_A." in name or ".lora_B." in name
        if is_lora and (not isinstance(module, torch.nn.Linear) or module.bias is not None):
            raise InputError(f"{name}: per-example gradients are known for LoRA on linear layers only")
        if is_lora and id(module) in inside_head:
            raise InputError(f"lora.targets reach the output head ({name}); leave it out")
        if parameters == "linear":
            if isinstance(module, linear) and not is_lora and id(module) not in inside_head:
                watched[_plain_name(name)] = module
        elif is_lora and not (parameters == "lora_b" and ".lora_A." in name):
            watched[f"{name}.weight"] = module
    if only is not None:
        kept = {n: module for n, module in watched.items() if any(fnmatch.fnmatchcase(n, glob) for glob in only)}
        if watched and not kept:
            raise InputError(
                f"features.layers {list(only)} match none of the model's weights, such as {next(iter(watched))}"
            )
        watched = kept
    if not watched:
        raise InputError(
            f"the model has no {'linear' if parameters == 'linear' else 'LoRA'} layers to take gradients of"
        )
    return watched


def _linear_types() -> tuple[type[torch.nn.Module], ...]:
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    return (torch.nn.Linear, Conv1D)


def _plain_name(name: str) -> str:
    """A module's name → the name of its weight in the model without an adapter."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer") + ".weight"


@contextmanager
def capturing(model: Any, layers: Mapping[str, torch.nn.Module], consume: Consume) -> Iterator[None]:
    """Within the block, each backward calls `consume` with every layer's (δ, x), last layer first.

    The model must be in eval mode (dropout would make the rows random).
    """
    if model.training:
        raise ValueError("gradients are taken in eval mode; call model.eval() first")
    thawed = [p for p in model.parameters() if p.requires_grad]
    undo = _fuse_lora(model, layers, consume)
    left = {name: layer for name, layer in layers.items() if name not in undo}
    handles = [layer.register_forward_hook(_watch(name, consume)) for name, layer in left.items()]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for restore in set(undo.values()):
            restore()
        for parameter in thawed:
            parameter.requires_grad_(True)


def _fuse_lora(model: Any, layers: Mapping[str, torch.nn.Module], consume: Consume) -> dict[str, Callable[[], None]]:
    """Fuse the plain LoRA layers; returns how to undo it, by the names of the weights they take care of."""
    undo: dict[str, Callable[[], None]] = {}
    for name, module in model.named_modules():
        a, b = (f"{name}.lora_{part}.default.weight" for part in "AB")
        if (a in layers or b in layers) and fusible(module):
            restore = fuse(module, *(partial(consume, n) if n in layers else None for n in (a, b)))
            undo |= dict.fromkeys((n for n in (a, b) if n in layers), restore)
    return undo


def _watch(name: str, consume: Consume) -> Callable[[Any, Any, torch.Tensor], None]:
    def forward_hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()
        if x.dim() != 3:
            raise InputError(
                f"{name} sees its input as {list(x.shape)}, not as [examples, tokens, inputs]: its gradients cannot "
                "be told apart by example (a mixture-of-experts layer?). Leave it out by `features.layers`."
            )

        def backward_hook(delta: torch.Tensor) -> None:
            consume(name, delta, x)

        if not output.requires_grad:
            output.requires_grad_()  # nothing before this layer does: the graph starts here
        output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

    return forward_hook


def contract(delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """δ [B, T, O], x [B, T, I] → the per-example gradients [B, O, I] in f32, summed over T in f32 and rounded once
    where the model is in bfloat16."""
    if delta.dtype != x.dtype:
        delta, x = delta.float(), x.float()
    return torch.bmm(delta.transpose(1, 2), x).float()


def backward(
    model: Any,
    batch: Batch,
    layers: Mapping[str, torch.nn.Module],
    consume: Consume,
    everywhere: bool = False,
    loss: str = "ce",
) -> tuple[torch.Tensor, TokenLosses]:
    """One forward and backward of the sum of each example's own mean loss (`ce` or `dft`); returns the [B] mean NLL,
    detached. `everywhere` asks for hidden states of unlabelled positions too."""
    with capturing(model, layers, consume), torch.enable_grad():
        tokens = token_losses(model, batch, everywhere)
        example_means(weighted(tokens.nll, loss), batch).sum().backward()  # type: ignore[no-untyped-call]
    return example_means(tokens.nll.detach(), batch), tokens
