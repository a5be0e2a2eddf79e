"""Per-example gradients of LoRA matrices in one batched forward and backward.

Every LoRA matrix is the weight W of a linear map z = x Wᵀ. A forward hook keeps its input x, a hook on its
output receives δ = ∂(Σ_b ℓ_b)/∂z, and the gradient of example b is Σ_t δ_bt x_btᵀ, because no layer mixes
examples. The weights themselves do not require gradients, so that autograd forms none for the batch; the graph
starts at the embedding output. Each layer's gradient is handed to `consume` and freed: an example's whole gradient
never exists. Cost: one forward and backward, plus 2·T·r·(in+out) FLOPs for each example and linear layer; memory
is the batch's activations. Legend: B examples, T tokens, I inputs, O outputs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from datastore.errors import InputError
from pipelines.batches import Batch, example_losses

Consume = Callable[[str, torch.Tensor], None]  # (parameter name, gradient [B, O, I] f32)


def lora_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The LoRA linear maps by the name of their weight. Raises ValueError for LoRA on other layers."""
    found: dict[str, torch.nn.Linear] = {}
    for name, module in model.named_modules():
        if ".lora_A." in name or ".lora_B." in name:
            if not isinstance(module, torch.nn.Linear) or module.bias is not None:
                raise ValueError(f"{name}: per-example gradients are known for LoRA on linear layers only")
            found[f"{name}.weight"] = module
    head = model.get_output_embeddings()
    if head is not None:
        inside = {id(part) for part in head.modules()}
        if odd := [name for name, module in found.items() if id(module) in inside]:
            raise InputError(f"lora.targets reach the output head ({odd[0]}); leave it out")
    if not found:
        raise ValueError("the model has no LoRA layers")
    return found


@contextmanager
def capturing(model: Any, consume: Consume) -> Iterator[None]:
    """Within the block, each backward hands every LoRA weight's per-example gradients to `consume`.

    The model must be in eval mode (dropout would make the rows random).
    """
    if model.training:
        raise ValueError("gradients are taken in eval mode; call model.eval() first")
    layers = lora_layers(model)
    frozen = [p for p in model.parameters() if p.requires_grad]
    handles = [layer.register_forward_hook(_watch(name, consume)) for name, layer in layers.items()]
    embedding = model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _i, out: out.requires_grad_()))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _watch(name: str, consume: Consume) -> Callable[[Any, Any, torch.Tensor], None]:
    def forward_hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()

        def backward_hook(delta: torch.Tensor) -> None:
            consume(name, torch.einsum("bto,bti->boi", delta.float(), x.float()))

        if output.requires_grad:
            output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

    return forward_hook


def per_example_gradients(model: Any, batch: Batch, consume: Consume) -> torch.Tensor:
    """Feed the gradients of each example's own mean loss to `consume`; returns the [B] losses, detached."""
    with capturing(model, consume), torch.enable_grad():
        losses = example_losses(model, batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()
