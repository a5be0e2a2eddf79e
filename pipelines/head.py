"""The output head and its loss, on labelled positions only, in chunks, with the gradient in closed form.

For a labelled position with hidden state h, next token y and logits z = W h (+ b, scaled or capped as the model
does), with p = softmax(z):

    NLL = −log p_y        entropy = −Σ p log p        EL2N = ‖p − onehot(y)‖₂        ∂NLL/∂h = Wᵀ (p − onehot(y))

so one pass over the logits of a chunk gives the loss, the signals and the gradient, and the logits can go: autograd
starts at the hidden states. Exact: a head acts on each position alone. The [B, T, V] logits of a plain training pass
never exist, nor do those of prompt tokens. Cost: 4·H·V FLOPs for each labelled position (as in a plain pass);
memory: one chunk of logits (`CHUNK_BYTES`) three times, whatever the batch.

The closed form is used where it is known to be the model's own: a frozen linear head whose logits, scaled or capped
as the configuration says, equal the model's on a probe. Otherwise autograd goes through the model's own head, still
on labelled positions only. Legend: B examples, T tokens, H hidden, V vocabulary, L labelled positions.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from pipelines.batches import Batch

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}  # of f32 logits: near the caches on one, wide products on the other


@dataclass(frozen=True)
class Head:
    """A frozen linear map to logits, then `scale` and tanh capping, as a model applies them."""

    weight: torch.Tensor  # [V, H]
    bias: torch.Tensor | None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[L, H] → [L, V] in f32."""
        z = linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            z *= self.scale
        if self.cap is not None:
            z = self.cap * torch.tanh(z / self.cap)
        return z

    def pull_back(self, delta: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Gradient with respect to logits [L, V] → with respect to hidden states [L, H]."""
        if self.cap is not None:
            delta = delta * (1 - (z / self.cap) ** 2)
        if self.scale != 1.0:
            delta = delta * self.scale
        return delta.to(self.weight.dtype) @ self.weight


@dataclass(frozen=True)
class TokenLosses:
    """Of every labelled position of a batch, [L] f32 each, in the batch's order; `nll` carries the graph."""

    nll: torch.Tensor  # nats
    entropy: torch.Tensor  # nats
    el2n: torch.Tensor
    hidden: torch.Tensor  # [B, T, H] last hidden states, detached


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, head: Head
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = len(hidden)
        nll, entropy, el2n = (torch.empty(size, device=hidden.device) for _ in range(3))
        pulled = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(64, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"]) // (4 * len(head.weight)))
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            z = head.logits(hidden[part])
            logp = torch.log_softmax(z, 1)
            p = logp.exp()
            y = wanted[part, None]
            py = p.gather(1, y)
            nll[part] = -logp.gather(1, y)[:, 0]
            entropy[part] = -_dots(p, logp)
            p.scatter_(1, y, py - 1)  # from here on p − onehot(y)
            el2n[part] = _dots(p, p).sqrt()
            if pulled is not None:
                pulled[part] = head.pull_back(p, z)
        if pulled is not None:
            ctx.save_for_backward(pulled)
        ctx.mark_non_differentiable(entropy, el2n)
        return nll, entropy, el2n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (pulled,) = ctx.saved_tensors
        return pulled * grads[0][:, None].to(pulled.dtype), None, None


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a[:, None, :], b[:, :, None])[:, 0, 0]


def token_losses(model: Any, batch: Batch) -> TokenLosses:
    """Loss and signals of every labelled position. Peak memory: the model's activations plus one chunk."""
    head = head_of(model)
    if head is None:
        return _own_head(model, batch)
    hidden = hidden_states(model, batch)
    nll, entropy, el2n = _ClosedForm.apply(hidden[batch.rows, batch.before], batch.wanted, head)  # type: ignore[no-untyped-call]
    return TokenLosses(nll, entropy, el2n, hidden.detach())


def example_losses(model: Any, batch: Batch) -> torch.Tensor:
    """[B] mean loss of each example over its label tokens; every row must have a label."""
    return example_means(token_losses(model, batch).nll, batch)


def example_means(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[L] values of labelled positions → [B] means of each example."""
    return values.new_zeros(len(batch.counts)).index_add(0, batch.rows, values) / batch.counts


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """[B, T, H] what the model gives its head, without running the head on it."""
    kept: list[torch.Tensor] = []

    def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(inputs[0])
        return (inputs[0][:, :0],)  # the head, and whatever the model does after it, work on nothing

    _forward(model, batch, keep)
    return kept[0]


def _own_head(model: Any, batch: Batch) -> TokenLosses:
    kept: list[torch.Tensor] = []

    def pick(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(inputs[0])
        return (inputs[0][batch.rows, batch.before].unsqueeze(0),)

    z = _forward(model, batch, pick).logits[0].float()
    nll = cross_entropy(z, batch.wanted, reduction="none")
    with torch.no_grad():
        logp = torch.log_softmax(z, 1)
        p = logp.exp()
        entropy = -_dots(p, logp)
        p.scatter_add_(1, batch.wanted[:, None], -torch.ones_like(p[:, :1]))
        return TokenLosses(nll, entropy, _dots(p, p).sqrt(), kept[0].detach())


def _forward(model: Any, batch: Batch, before_head: Callable[..., Any]) -> Any:
    """Padding on the right needs no mask: it comes after all that a causal model looks at. Without one, attention
    skips the upper triangle, and nothing asks the device whether there is padding."""
    masked = {"attention_mask": batch.attention_mask, "position_ids": batch.positions}
    handle = model.get_output_embeddings().register_forward_pre_hook(before_head)
    try:
        return model(input_ids=batch.input_ids, use_cache=False, **(masked if batch.padding == "left" else {}))
    finally:
        handle.remove()


_KNOWN: weakref.WeakKeyDictionary[Any, Head | None] = weakref.WeakKeyDictionary()


def head_of(model: Any) -> Head | None:
    """The model's head in closed form, or None where it is not known to be one (see the module)."""
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or any(p.requires_grad for p in layer.parameters()):
        return None
    if model not in _KNOWN:
        _KNOWN[model] = _probe(model, layer)
    return _KNOWN[model]


@torch.no_grad()
def _probe(model: Any, layer: torch.nn.Linear) -> Head | None:
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    head = Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))
    ids = torch.arange(8, device=layer.weight.device)[None] % len(layer.weight)
    kept: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    training = model.training
    try:
        own = model.eval()(input_ids=ids, use_cache=False).logits[0].float()
    finally:
        handle.remove()
        model.train(training)
    return head if torch.allclose(head.logits(kept[0][0]), own, rtol=1e-3, atol=1e-4) else None
