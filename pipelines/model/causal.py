"""Is it a causal language model? A probe of two short rows, once for each model in a process.

transformers registers encoders for causal language modelling too, and runs them as encoders unless their configuration
says otherwise: their losses look at the answer. Four things must hold of what the output head is given and of the loss,
for training and gradient rows to mean what they say: one hidden state for each token; a later token changes nothing
before it; a row beside a longer one, filled up on the right, is as it is alone; and the loss is that of the model's own
logits. Cost: seven forwards of 16 tokens, one with its backward.
Legend: B examples, T tokens, H hidden, L labelled positions.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.batches import Batch, collate
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import token_losses
from gradsift.pipelines.model.trunk import PLAIN, evaluating, hidden_states, probe_rows, run

# Mean relative differences of hidden states: with a later token changed, and alone or not. Encoders of random weights
# are at 2e-3 and more, decoders in float32 at 3e-7 and less; coarser types round otherwise in other shapes, and a
# router may then choose otherwise.
LIMITS = {torch.float32: (1e-4, 1e-4)}
COARSE = (0.02, 0.1)
LATER = 4  # the position from which tokens are changed
_SEEN: set[str] = set()
_PROBING = threading.Lock()


def check_causal(model: Any, identity: str, where: str) -> None:
    """Raise InputError for a model whose losses would not be those of a causal language model. `identity` says which
    model it is, so that it is looked at once; `where` is for the message."""
    with _PROBING:
        if identity in _SEEN:
            return
        kind = f"the model in {where} ({getattr(model.config, 'model_type', type(model).__name__)})"
        try:
            with evaluating(model):
                wrong = _wrong(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"{kind} cannot be run on rows of tokens alone: {type(error).__name__}: {reason}. It may need other "
                "inputs, or be registered for causal language modelling by its decoder only"
            ) from error
        if wrong:
            raise InputError(f"{kind} {wrong}")
        _SEEN.add(identity)


def _wrong(model: Any) -> str:
    """What is wrong, in words; nothing where all is well."""
    if model.get_output_embeddings() is None:
        return "has no output head, so it has no losses of tokens"
    rows = probe_rows(model)
    device, (same, other) = model.get_input_embeddings().weight.device, LIMITS.get(model.dtype, COARSE)
    batch = collate(rows, PLAIN).to(device)
    plain = hidden_states(model, batch)
    if plain.dim() != 3 or plain.shape[:2] != batch.input_ids.shape:
        return (
            f"gives its head {list(plain.shape)} for tokens {list(batch.input_ids.shape)}; one state for each is needed"
        )
    later = hidden_states(model, collate([_changed(row, model) for row in rows], PLAIN).to(device))
    if _apart(later[:, :LATER], plain[:, :LATER]) > same or _looks_ahead(model, batch):
        advice = "If its weights are those of a decoder, set `is_decoder` in its config.json"
        return (
            "is no causal language model as it is configured: a later token changes what it makes of earlier ones. "
            + (advice if getattr(model.config, "is_decoder", None) is False else "Take a decoder")
        )
    for number, row in enumerate(rows):
        alone = hidden_states(model, collate([row], PLAIN).to(device))
        if _apart(plain[number : number + 1, : len(row.input_ids)], alone) > other:
            return "makes something else of a row when it stands beside a longer one (padding): its losses mean nothing"
    logits = run(model, batch, lambda _module, _inputs: None).logits[batch.rows, batch.before].float()
    own = cross_entropy(logits, batch.wanted, reduction="none")
    if _apart(token_losses(model, batch).nll[None], own[None]) > other:
        return "has losses other than its own logits say; please report this model"
    return ""


@torch.enable_grad()
def _looks_ahead(model: Any, batch: Batch) -> bool:
    """Whether early hidden states have a gradient in the embeddings of later tokens: of a causal model it is exactly
    zero, in any dtype."""
    with _embeddings(model) as met:
        hidden = hidden_states(model, batch)[:, :LATER]
        (gradient,) = torch.autograd.grad((hidden * torch.linspace(-1, 1, hidden.shape[-1]).to(hidden)).sum(), met)
    size = gradient.float().abs().flatten(2).amax(2)  # [B, T]
    return size.shape == batch.input_ids.shape and bool(size[:, LATER:].max() > 1e-6 * size[:, :LATER].max())


@contextmanager
def _embeddings(model: Any) -> Iterator[list[torch.Tensor]]:
    """Within the block, the embedded tokens are the start of the graph, and are put in the list."""
    met: list[torch.Tensor] = []

    def start(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        met.append(output.detach().requires_grad_())
        return met[-1].clone()

    handle = model.get_input_embeddings().register_forward_hook(start)
    try:
        yield met
    finally:
        handle.remove()


def _changed(row: Encoded, model: Any) -> Encoded:
    vocabulary = model.config.get_text_config().vocab_size
    ids = tuple((i + 3) % vocabulary if t >= LATER else i for t, i in enumerate(row.input_ids))
    return replace(row, input_ids=ids)


def _apart(values: torch.Tensor, others: torch.Tensor) -> float:
    """Mean distance of two tensors of the same shape, in units of their size."""
    difference = (values.float() - others.float()).norm(dim=-1).mean()
    return float(difference / others.float().norm(dim=-1).mean().clamp(min=1e-12))
