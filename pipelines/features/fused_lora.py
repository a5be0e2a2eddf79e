"""LoRA layers in eval mode as one autograd step each, while gradients are captured.

peft computes z = x Wᵀ + s·(x Aᵀ) Bᵀ as five steps, with a pass over the activations for each, forward and backward,
and in f32 around a bfloat16 model. Here the low-rank part is added in place by the product itself:

    h = x Aᵀ     z = x Wᵀ + s·h Bᵀ     dh = s·δ B     dx = δ W + dh A     G_A = Σ_t dh_t x_tᵀ     G_B = Σ_t δ_t (s·h_t)ᵀ

The same values to rounding (in the model's dtype). In f32 and with more tokens than inputs, adding s·B A to W first
costs less than adding the low-rank part to every token; the sum is made where it is used and dropped at once.
Legend: B examples, T tokens, I inputs, O outputs, R rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear


@dataclass(frozen=True)
class FusedLora:
    """One layer: frozen weight [O, I], adapter A [R, I] and B [O, R], and what to call with (δ, x) of each."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    on_a: Callable[[torch.Tensor, torch.Tensor], None] | None
    on_b: Callable[[torch.Tensor, torch.Tensor], None] | None

    def merged(self, tokens: int) -> torch.Tensor | None:
        """W + s·B A [O, I], where that is the cheaper way for so many tokens, and exact enough."""
        if self.weight.dtype != torch.float32 or tokens <= self.weight.shape[1]:
            return None
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scale)


def fusible(module: Any) -> bool:
    """Whether a peft layer is the plain case: one active, unmerged adapter without variant on nn.Linear."""
    from peft.tuners.lora.layer import Linear

    return (
        type(module) is Linear
        and type(module.base_layer) is torch.nn.Linear
        and list(module.lora_A) == list(module.active_adapters) == ["default"]
        and not (module.merged or module.disable_adapters or module.lora_variant or module.lora_bias["default"])
    )


def fuse(
    module: Any,
    on_a: Callable[[torch.Tensor, torch.Tensor], None] | None,
    on_b: Callable[[torch.Tensor, torch.Tensor], None] | None,
    on_use: Callable[[], None],
) -> Callable[[], None]:
    """Replace a fusible layer's forward; returns the call that puts it back. `on_use` is called in the forward, `on_a`
    and `on_b` in the backward."""
    base = module.base_layer
    dtype = base.weight.dtype
    layer = FusedLora(
        base.weight.detach(),
        None if base.bias is None else base.bias.detach(),
        module.lora_A["default"].weight.detach().to(dtype),
        module.lora_B["default"].weight.detach().to(dtype),
        float(module.scaling["default"]),
        on_a,
        on_b,
    )
    # Outputs of a captured layer must require a gradient even where the input does not (the first), and no weight does.
    anchor = torch.zeros((), device=base.weight.device, requires_grad=on_a is not None or on_b is not None)

    def forward(x: torch.Tensor) -> Any:
        on_use()
        return _FusedPass.apply(x, anchor, layer)  # type: ignore[no-untyped-call]

    module.forward = forward
    return lambda: delattr(module, "forward")


class _FusedPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _anchor: torch.Tensor, layer: FusedLora) -> torch.Tensor:
        weight = layer.merged(x.numel() // x.shape[-1])
        z = linear(x, layer.weight if weight is None else weight, layer.bias)
        h = None
        if layer.on_b or weight is None:
            h = linear(x, layer.a)
            if weight is None:
                z.view(-1, z.shape[-1]).addmm_(h.view(-1, h.shape[-1]), layer.b.T, alpha=layer.scale)
        ctx.layer = layer
        ctx.save_for_backward(x if layer.on_a else None, h if layer.on_b else None)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        layer: FusedLora = ctx.layer
        (delta,), (x, h) = grads, ctx.saved_tensors
        if layer.on_b:
            layer.on_b(delta, h * layer.scale)
        wanted = ctx.needs_input_grad[0]
        weight = layer.merged(delta.numel() // delta.shape[-1]) if wanted else None
        dx = None if weight is None else delta @ weight
        if layer.on_a or (wanted and weight is None):
            dh = (delta @ layer.b) * layer.scale
            if layer.on_a:
                layer.on_a(dh, x)
            if wanted and weight is None:
                dx = delta @ layer.weight
                dx.view(-1, dx.shape[-1]).addmm_(dh.view(-1, dh.shape[-1]), layer.a)
        return dx, None, None
