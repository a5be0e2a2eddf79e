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
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gradsift.pipelines.model.batches import Batch
from gradsift.pipelines.model.trunk import evaluating, hidden_states, probe_batch, run

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}  # of f32 logits: near the caches on one, wide products on the other


@dataclass(frozen=True)
class Head:
    """A frozen linear map to logits, then `scale` and tanh capping, as a model applies them."""

    weight: torch.Tensor  # [V, H]
    bias: torch.Tensor | None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """[L, H] → [L, V] in f32, in `out` where given."""
        z = out if out is not None else hidden.new_empty(len(hidden), len(self.weight), dtype=torch.float32)
        if hidden.dtype == torch.float32:
            torch.mm(hidden, self.weight.T, out=z)
        else:
            z.copy_(hidden @ self.weight.T)
        if self.bias is not None:
            z += self.bias
        if self.scale != 1.0:
            z *= self.scale
        if self.cap is not None:
            z.div_(self.cap).tanh_().mul_(self.cap)
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
    hidden: torch.Tensor  # [B, T, H] last hidden states, detached; of label tokens only unless asked for everywhere


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, head: Head
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = len(hidden)
        nll, entropy, el2n = (torch.empty(size, device=hidden.device) for _ in range(3))
        pulled = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(64, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"]) // (4 * len(head.weight)))
        # fresh pages cost as much as the arithmetic on them: all chunks share these
        scratch = torch.empty(2, min(rows, size), len(head.weight), device=hidden.device)
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            z, delta = scratch[:, : part.stop - start]
            head.logits(hidden[part], out=z)
            nll[part], entropy[part], el2n[part] = _statistics(z, wanted[part], delta)
            if pulled is not None:
                pulled[part] = head.pull_back(delta, z)
        if pulled is not None:
            ctx.save_for_backward(pulled)
        ctx.mark_non_differentiable(entropy, el2n)
        return nll, entropy, el2n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (pulled,) = ctx.saved_tensors
        return pulled * grads[0][:, None].to(pulled.dtype), None, None


def _statistics(
    z: torch.Tensor, wanted: torch.Tensor, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits z [L, V] → NLL, entropy, EL2N [L], and in `delta` [L, V] p − onehot(y)."""
    y = wanted[:, None]
    top = z.amax(1, keepdim=True)
    p = torch.sub(z, top, out=delta).exp_()
    total = p.sum(1, keepdim=True)
    p /= total
    log_total = top + total.log()  # log Σ exp z
    log_py = z.gather(1, y) - log_total
    entropy = log_total[:, 0] - _dots(p, z)
    p.scatter_(1, y, torch.expm1(log_py))
    return -log_py[:, 0], entropy, _dots(p, p).sqrt()


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a[:, None, :], b[:, :, None])[:, 0, 0]


def token_losses(model: Any, batch: Batch, everywhere: bool = False) -> TokenLosses:
    """Loss and signals of every labelled position. Peak memory: the model's activations plus one chunk.

    `everywhere` asks for the hidden states of unlabelled positions too.
    """
    head = head_of(model)
    if head is None:
        return _own_head(model, batch)
    hidden = hidden_states(model, batch, everywhere, graph_everywhere=False)
    nll, entropy, el2n = _ClosedForm.apply(hidden[batch.rows, batch.before], batch.wanted, head)  # type: ignore[no-untyped-call]
    return TokenLosses(nll, entropy, el2n, hidden.detach())


def example_losses(model: Any, batch: Batch) -> torch.Tensor:
    """[B] mean loss of each example over its label tokens; every row must have a label."""
    return example_means(token_losses(model, batch).nll, batch)


def example_means(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[L] values of labelled positions → [B] means of each example."""
    return values.new_zeros(len(batch.counts)).index_add(0, batch.rows, values) / batch.counts


def weighted(nll: torch.Tensor, loss: str) -> torch.Tensor:
    """[L] NLL of label tokens → their losses: `ce` as they are; `dft` times their probability, not differentiated
    (Dynamic Fine-Tuning, Wu et al. 2025, arXiv 2508.05629)."""
    return nll * torch.exp(-nll.detach()) if loss == "dft" else nll


def _own_head(model: Any, batch: Batch) -> TokenLosses:
    kept: list[torch.Tensor] = []

    def pick(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(inputs[0])
        return (inputs[0][batch.rows, batch.before].unsqueeze(0),)

    z = run(model, batch, pick).logits[0].float()
    with torch.no_grad():
        _, entropy, el2n = _statistics(z, batch.wanted, torch.empty_like(z))
    return TokenLosses(cross_entropy(z, batch.wanted, reduction="none"), entropy, el2n, kept[0].detach())


_KNOWN: weakref.WeakKeyDictionary[Any, Head | None] = weakref.WeakKeyDictionary()


def head_of(model: Any) -> Head | None:
    """The model's head in closed form, or None where it is not known to be one (see the module)."""
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or any(p.requires_grad for p in layer.parameters()):
        return None
    if model not in _KNOWN:
        _KNOWN[model] = _probe(model, layer)
    return _KNOWN[model]


def _probe(model: Any, layer: torch.nn.Linear) -> Head | None:
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    head = Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))
    kept: list[torch.Tensor] = []
    with evaluating(model):
        own = run(model, probe_batch(model), lambda _module, inputs: kept.append(inputs[0])).logits[0].float()
        return head if torch.allclose(head.logits(kept[0][0]), own, rtol=1e-3, atol=1e-4) else None
