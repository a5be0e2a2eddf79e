"""Per-example gradients of linear maps in one batched forward and backward.

For a linear map z = x Wᵀ a forward hook keeps its input x, a hook on its output receives δ = ∂(Σ_b ℓ_b)/∂z, and the
gradient of example b is G_b = Σ_t δ_bt x_btᵀ, because no layer mixes examples. LoRA's A and B are such maps, and so
is any linear layer with the frozen weight it has. No weight requires a gradient, so that autograd forms none for the
batch; the graph starts at the first captured layer. Plain LoRA layers are fused (fused_lora.py), experts and routers
have ways of their own (routed.py). Each weight's (δ, x) goes to `consume` and is freed: an example's whole gradient
never exists. A weight that a pass uses more than once has its uses side by side along T.

Which rows of x are whose is read from its shape: [B, …, I], or [B·T, I] with examples first. Whether that is so, and
whether (δ, x) is all there is, a probe finds out for each model (fit.py); where it is not, batches have one example,
and a weight that even then is not a map of (δ, x) gets its gradient from autograd (`by_autograd`).

Cost: one forward and backward, plus 2·T·I·O FLOPs for each example and layer (with I or O = r for LoRA); memory is the
batch's activations. Biases are left out. Legend: B examples, T tokens, I inputs, O outputs.
"""

import fnmatch
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch

from gradsift.datastore.errors import InputError
from gradsift.pipelines.features.fused_lora import fuse, fusible
from gradsift.pipelines.features.routed import is_experts, is_inner, stacks, watch, watch_routed
from gradsift.pipelines.model.batches import Batch
from gradsift.pipelines.model.head import TokenLosses, example_means, token_losses, weighted

Parameters = Literal["lora", "lora_b", "linear"]
Consume = Callable[[str, torch.Tensor, torch.Tensor], None]  # (parameter name, δ [B, T, O], x [B, T, I])
OnOdd = Callable[[str, list[int]], None]  # (parameter name, shape)


def watched_layers(
    model: Any, parameters: Parameters = "lora", only: Sequence[str] | None = None
) -> dict[str, torch.nn.Module]:
    """The linear maps to capture, by the name of their weight, in the model's order.

    `lora` is A and B, `lora_b` B alone, `linear` every frozen linear layer, router and expert, but not the head. `only`
    keeps names that match one of its shell patterns. Raises InputError when nothing is left, or for LoRA on other
    layers or the head.
    """
    watched = dict(_frozen(model) if parameters == "linear" else _lora(model, parameters))
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


def _lora(model: Any, parameters: Parameters) -> Iterator[tuple[str, torch.nn.Module]]:
    inside_head = _inside_head(model)
    for name, module in model.named_modules():
        if ".lora_A." not in name and ".lora_B." not in name:
            continue
        if not isinstance(module, torch.nn.Linear) or module.bias is not None:
            raise InputError(f"{name}: per-example gradients are known for LoRA on linear layers only")
        if id(module) in inside_head:
            raise InputError(f"lora.targets reach the output head ({name}); leave it out")
        if not (parameters == "lora_b" and ".lora_A." in name):
            yield f"{name}.weight", module


def _frozen(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    inside_head = _inside_head(model)
    for name, module in model.named_modules():
        if ".lora_A." in name or ".lora_B." in name or id(module) in inside_head:
            continue
        plain = _plain_name(name)
        if is_experts(module):
            for parameter in stacks(module):
                yield from ((f"{plain}.{parameter}.{e}", module) for e in range(len(getattr(module, parameter))))
        elif isinstance(module, torch.nn.Linear) or is_wide(module) or is_inner(module):
            yield f"{plain}.weight", module


def is_wide(layer: torch.nn.Module) -> bool:
    """Whether a layer keeps its weight as [I, O]: GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def _nothing(name: str, layer: Any, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """δ [B, 1, O] and x [B, 1, I] of a weight without a gradient."""
    if is_experts(layer):
        weight, wide = getattr(layer, name.rsplit(".", 2)[1])[0], layer.is_transposed
    else:
        weight, wide = layer.weight, is_wide(layer)
    outputs, inputs = weight.T.shape if wide else weight.shape
    return weight.new_zeros(size, 1, outputs), weight.new_zeros(size, 1, inputs)


def _inside_head(model: Any) -> set[int]:
    head = model.get_output_embeddings()
    return set() if head is None else {id(part) for part in head.modules()}


def _plain_name(name: str) -> str:
    """A module's name in the model without an adapter."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


@contextmanager
def capturing(
    model: Any,
    layers: Mapping[str, torch.nn.Module],
    consume: Consume,
    batch: Batch,
    by_autograd: Collection[str] = (),
    on_odd: OnOdd | None = None,
) -> Iterator[None]:
    """Within the block, one backward of `batch` calls `consume` with every layer's (δ, x), last layer first, and at its
    end with zeros for those that the loss does not depend on: once for each.

    `by_autograd` names weights whose gradient autograd forms; the batch must then be of one example. `on_odd` is called
    with the name and shape of an input whose rows are nobody's in particular, in place of an InputError. The model must
    be in eval mode (dropout would make the rows random).
    """
    if model.training:
        raise ValueError("gradients are taken in eval mode; call model.eval() first")
    thawed = [p for p in model.parameters() if p.requires_grad]
    given: set[str] = set()

    def give(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
        given.add(name)
        consume(name, delta, x)

    uses = Uses(give, batch, on_odd)
    hooked = {name: layer for name, layer in layers.items() if name not in by_autograd}
    undo = _fuse_lora(model, layers, hooked, uses)
    undo |= watch_routed(model, hooked, uses)
    for parameter in thawed:
        parameter.requires_grad_(False)
    restore = list({id(call): call for call in undo.values()}.values())
    restore += [_watch(layer, name, uses) for name, layer in hooked.items() if name not in undo]
    restore += [_formed(layers[name], name, give) for name in by_autograd]
    try:
        yield
        with torch.no_grad():
            uses.finish()
            for name in layers.keys() - given:
                consume(name, *_nothing(name, layers[name], uses.size))
    finally:
        for call in restore:
            call()
        for parameter in thawed:
            parameter.requires_grad_(True)


class Uses:
    """What a pass shows of each weight, given on when all of its uses in the forward have been met in the backward."""

    def __init__(self, consume: Consume, batch: Batch, on_odd: OnOdd | None = None) -> None:
        self._consume, self._on_odd = consume, on_odd
        self.size, tokens = batch.input_ids.shape
        self._tokens = {tokens, batch.widest}  # of an example: all, or those that the last layer works on
        self._open: Counter[str] = Counter()
        self._met: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def begin(self, *names: str) -> None:
        """A forward has used these weights. Probes of the model (trunk.py, head.py) do not count."""
        if torch.is_grad_enabled():
            self._open.update(names)

    def __call__(self, name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
        """The backward has met a use: δ and x with one row for each token, of shapes as the layer sees them."""
        pair = self._by_example(delta), self._by_example(x)
        if pair[0] is None or pair[1] is None or pair[0].shape[:2] != pair[1].shape[:2]:
            if self._on_odd is None:
                raise InputError(
                    f"{name} sees its input as {list(x.shape)}: in a batch of several its gradients cannot be told "
                    "apart by example. Leave it out by `features.layers`"
                )
            self._on_odd(name, list(x.shape))
            return
        met = self._met.setdefault(name, [])
        met.append((pair[0], pair[1]))
        if len(met) == self._open[name]:
            self._give(name)

    def finish(self) -> None:
        """Give on what is left: weights with a use that did not reach the loss."""
        for name in list(self._met):
            self._give(name)

    def _give(self, name: str) -> None:
        met = self._met.pop(name)
        self._open[name] = 0
        delta, x = met[0] if len(met) == 1 else (torch.cat(values, 1) for values in zip(*met, strict=True))
        self._consume(name, delta, x)

    def _by_example(self, rows: torch.Tensor) -> torch.Tensor | None:
        """[B, …, I] or [B·T·k, I] → [B, T′, I]; None for another shape."""
        if self.size == 1:
            return rows.reshape(1, -1, rows.shape[-1])
        if rows.dim() > 2 and rows.shape[0] == self.size:
            return rows.flatten(1, -2)
        if rows.dim() == 2 and any(len(rows) % (self.size * tokens) == 0 for tokens in self._tokens):
            return rows.view(self.size, -1, rows.shape[-1])
        return None


def _fuse_lora(
    model: Any, layers: Mapping[str, torch.nn.Module], hooked: Mapping[str, torch.nn.Module], uses: Uses
) -> dict[str, Callable[[], None]]:
    """Fuse the plain LoRA layers, also those of which nothing is captured: they cost less so, and below the first
    captured one they make no graph. Returns how to undo it, by the names of their weights."""
    undo: dict[str, Callable[[], None]] = {}
    others = {id(layer) for layer in layers.values()}
    for name, module in model.named_modules():
        if fusible(module):
            a, b = (f"{name}.lora_{part}.default.weight" for part in "AB")
            names = [n for n in (a, b) if n in hooked]
            if id(module.base_layer) in others or any(n in layers and n not in hooked for n in (a, b)):
                continue  # hooks, or autograd, need the layer's own steps
            on_a, on_b = (partial(uses, n) if n in hooked else None for n in (a, b))
            undo |= dict.fromkeys((a, b), fuse(module, on_a, on_b, partial(uses.begin, *names)))
    return undo


def _watch(layer: torch.nn.Module, name: str, uses: Uses) -> Callable[[], None]:
    def forward_hook(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output  # a probe of the model (trunk.py, head.py)
        uses.begin(name)
        return watch(output, partial(uses, name), next(iter((*inputs, *named.values()))))

    return layer.register_forward_hook(forward_hook, with_kwargs=True).remove


def _formed(layer: torch.nn.Module, name: str, consume: Consume) -> Callable[[], None]:
    """Have autograd form a weight's gradient, and give it on as (δ, x) = (1, G) or (Gᵀ, 1)."""
    weight: torch.nn.Parameter = layer.weight  # type: ignore[assignment]
    wide = is_wide(layer)

    def take(parameter: torch.nn.Parameter) -> None:
        if parameter.grad is None:
            return
        gradient = (parameter.grad.T if wide else parameter.grad)[None]
        parameter.grad = None
        one = torch.eye(min(gradient.shape[1:]), device=gradient.device, dtype=gradient.dtype)[None]
        if gradient.shape[1] <= gradient.shape[2]:
            consume(name, one, gradient)
        else:
            consume(name, gradient.transpose(1, 2), one)

    weight.requires_grad_()
    handle = weight.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]

    def undo() -> None:
        handle.remove()
        weight.requires_grad_(False)

    return undo


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
    by_autograd: Collection[str] = (),
) -> tuple[torch.Tensor, TokenLosses]:
    """One forward and backward of the sum of each example's own mean loss (`ce` or `dft`); returns the [B] mean NLL,
    detached. `everywhere` asks for hidden states of unlabelled positions too; `by_autograd` as `capturing` has it."""
    with capturing(model, layers, consume, batch, by_autograd), torch.enable_grad():
        tokens = token_losses(model, batch, everywhere)
        example_means(weighted(tokens.nll, loss), batch).sum().backward()  # type: ignore[no-untyped-call]
    return example_means(tokens.nll.detach(), batch), tokens
