"""The model up to its output head: hidden states, and of the last decoder layer only what the loss needs.

After attention has read its keys and values, nothing looks at unlabelled positions any more: what the last layer
does position by position (queries, attention's output map, MLP) reaches the loss at labelled positions alone. There
those modules see [B, W, ·], the W ≤ T labelled positions of each example (filled up with position 0, whose results
are thrown away), and give zeros elsewhere. Exact, gradients included: δ is zero at every position left out. It saves
that layer's part of a pass times the share of unlabelled tokens: 8 % of a 6-layer model at 30 % labelled.
Where hidden states are wanted everywhere, the other positions go through the same modules apart, without a graph, so
that the backward is saved.

Such modules are looked for by name, and a probe decides: hidden states, of labelled positions and of all, must be those
of a plain forward. Other models run as they are.
Legend: B examples, T tokens, H hidden, W labelled tokens of the row with most, L of the batch.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradsift.pipelines.model.batches import Batch, collate
from gradsift.pipelines.model.encode import Encoded

BY_POSITION = ("q_proj", "o_proj", "c_proj", "mlp")  # as Llama and its many relatives, and GPT-2, call them
PLAIN = 5  # the first token of a probe, and what fills it up: small ids are special, and their embedding may be zero
_CLOSE = {torch.float32: 1e-4}  # of the largest hidden state; coarser types round otherwise in another shape
_KNOWN: weakref.WeakKeyDictionary[Any, tuple[torch.nn.Module, ...]] = weakref.WeakKeyDictionary()


def hidden_states(model: Any, batch: Batch, everywhere: bool = True, graph_everywhere: bool = True) -> torch.Tensor:
    """[B, T, H] what the model gives its head, without running the head on it.

    Unless `everywhere`, only the positions (`rows`, `before`) of the batch hold anything of use. Unless
    `graph_everywhere`, the gradient must be zero at all others.
    """
    # where no backward can be spared, all positions at once are cheaper than in two parts
    whole = everywhere and (graph_everywhere or not torch.is_grad_enabled())
    whole = whole or batch.widest == batch.input_ids.shape[1]
    with _narrowed(() if whole else narrowable(model), batch, everywhere):
        return _hidden(model, batch)


def run(model: Any, batch: Batch, before_head: Callable[..., Any]) -> Any:
    """The model's output, with a hook that sees (and may change) what its head is given.

    Padding on the right needs no mask: it comes after all that a causal model looks at. Without one, attention
    skips the upper triangle, and nothing asks the device whether there is padding.
    """
    masked = {"attention_mask": batch.attention_mask, "position_ids": batch.positions}
    handle = model.get_output_embeddings().register_forward_pre_hook(before_head)
    try:
        return model(input_ids=batch.input_ids, use_cache=False, **(masked if batch.padding == "left" else {}))
    finally:
        handle.remove()


def narrowable(model: Any) -> tuple[torch.nn.Module, ...]:
    """The modules of the last layer that are computed at labelled positions only."""
    if model not in _KNOWN:
        _KNOWN[model] = _probe(model)
    return _KNOWN[model]


def probe_rows(model: Any) -> list[Encoded]:
    """Two short rows with labels here and there, for finding out what a model does."""
    vocabulary = model.config.get_text_config().vocab_size
    labelled = ((False, False, True, False, True, True, False, True), (False, True, False, False, False, True))
    return [
        Encoded(tuple((PLAIN + 7 * t + k) % vocabulary for t in range(len(marks))), marks, "ok")
        for k, marks in enumerate(labelled)
    ]


def probe_batch(model: Any) -> Batch:
    """The two as a batch, where the model is."""
    return collate(probe_rows(model), PLAIN).to(model.get_input_embeddings().weight.device)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Eval mode and no autograd, for a probe; the mode is put back."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(training)


def _hidden(model: Any, batch: Batch) -> torch.Tensor:
    kept: list[torch.Tensor] = []

    def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(inputs[0])
        return (inputs[0][:, :0],)  # the head, and whatever the model does after it, work on nothing

    run(model, batch, keep)
    return kept[0]


@contextmanager
def _narrowed(modules: Sequence[torch.nn.Module], batch: Batch, everywhere: bool = False) -> Iterator[None]:
    """Within the block, these modules work on labelled positions only; `everywhere`: on the others without a graph."""
    if not modules:
        yield
        return
    size, tokens = batch.input_ids.shape
    picked = batch.rows.new_zeros(size, batch.widest)
    picked[batch.rows, batch.slots] = batch.before
    every = torch.arange(size, device=picked.device)[:, None]
    labelled = picked.new_zeros(size * tokens).index_fill_(0, batch.rows * tokens + batch.before, 1)
    rest = labelled.argsort(stable=True)[: size * tokens - len(batch.rows)]  # as many as the CPU knows there are
    others = (rest // tokens, rest % tokens)
    apart: dict[torch.nn.Module, torch.Tensor] = {}

    def pick(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        def of(where: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, ...]:
            # Bloom's MLP is given the residual beside its input
            return tuple(x[where] if torch.is_tensor(x) and x.shape[:2] == (size, tokens) else x for x in inputs)

        if everywhere:
            with torch.no_grad():
                alone = tuple(x[None] if torch.is_tensor(x) and x.dim() == 2 else x for x in of(others))
                apart[module] = module.forward(*alone)[0]
        return of((every, picked))

    def put(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        whole = output.new_zeros(size, tokens, output.shape[2])
        if everywhere:
            whole[others] = apart.pop(module)
        return whole.index_put((batch.rows, batch.before), output[batch.rows, batch.slots])

    handles = [h for m in modules for h in (m.register_forward_pre_hook(pick), m.register_forward_hook(put))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe(model: Any) -> tuple[torch.nn.Module, ...]:
    batch = probe_batch(model)
    wanted = (batch.rows, batch.before)
    with evaluating(model):
        plain, modules = _by_position(model, batch)
        try:
            with _narrowed(modules, batch):
                error = (_hidden(model, batch)[wanted] - plain[wanted]).float().abs().max()
            with _narrowed(modules, batch, everywhere=True):
                others = ((_hidden(model, batch) - plain) * batch.attention_mask[:, :, None]).float().abs().max()
        except (RuntimeError, ValueError, IndexError):  # such a module is given more than one value for each position
            return ()
    close = _CLOSE.get(plain.dtype, 3e-2) * plain[wanted].abs().max()
    return modules if bool(error <= close) and bool(others <= close) else ()


def _by_position(model: Any, batch: Batch) -> tuple[torch.Tensor, tuple[torch.nn.Module, ...]]:
    """Hidden states, and the last layer's outermost modules of such a name that are used once, on one [B, T, ·]."""
    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    named = dict(stacks[-1][-1].named_modules()) if stacks else {}
    candidates = {name: module for name, module in named.items() if name.rpartition(".")[2] in BY_POSITION}
    outer = [
        module for name, module in candidates.items() if not any(name.startswith(f"{other}.") for other in candidates)
    ]
    calls: dict[torch.nn.Module, list[bool]] = {module: [] for module in outer}

    def look(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes = [(value.dim(), value.shape[:2]) for value in (*inputs[:1], output) if torch.is_tensor(value)]
        calls[module].append(shapes == [(3, batch.input_ids.shape)] * 2)

    handles = [module.register_forward_hook(look) for module in outer]
    try:
        hidden = _hidden(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return hidden, tuple(module for module in outer if calls[module] == [True])
