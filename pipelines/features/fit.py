"""Does the capture fit the model? A probe of two short padded rows answers for each weight, before rows are computed.

The gradient of each row's loss is taken twice: by autograd, one backward for each row over the model's own logits, and
as it will be captured, for both rows at once. Compared are the products G v with a random vector v, so that nothing of
the size of the model is kept. Where they differ, the layer's rows are not examples side by side (a router that sorts
tokens, tokens before examples): then batches have one example, for which every order of rows is right. Where one
example alone differs too, the weight is no linear map of what its module is given, and autograd forms its gradient.

LoRA's B is given random values for the probe, since A has no gradient at B = 0. Cost: two forwards and three backwards
of 16 tokens, and two of each of 8 where something differs; memory is the gradient of one weight.
Legend: B examples, O outputs, I inputs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gradsift.datastore.errors import InputError
from gradsift.pipelines.features.capture import capturing, is_wide
from gradsift.pipelines.features.routed import is_experts, is_inner, strays
from gradsift.pipelines.model.batches import Batch, collate
from gradsift.pipelines.model.head import example_means, token_losses
from gradsift.pipelines.model.opened import Loaded
from gradsift.pipelines.model.trunk import PLAIN, probe_rows, run
from gradsift.pipelines.recipe import Lora

TOLERANCE = {torch.float32: (1e-2, 1e-6)}  # of the weight's gradient, and of the largest of any weight
COARSE = (0.3, 1e-2)  # in coarser types, where a router may also choose otherwise; a wrong example is wrong by about 1

Layers = Mapping[str, Any]  # modules by the name of a weight
Products = dict[str, torch.Tensor]  # G v [B, O] by the weight's name


@dataclass(frozen=True)
class Fit:
    """How a model's gradients are captured.

    Where weights are `mixed` (rows of several examples that cannot be told apart) or formed `by_autograd`, batches have
    one example. `idle` weights got no gradient in the probe: unless other tokens reach them, their part of a row is
    zero. `left_out` ones cannot be captured at all and have no part in rows. `bare` counts routers, experts and
    other modules with stacked weights, by class, that have no adapter, or whose way with them is not known.
    """

    mixed: tuple[str, ...] = ()
    by_autograd: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    bare: Mapping[str, int] = field(default_factory=dict)

    @property
    def together(self) -> bool:
        """Whether batches may have several examples."""
        return not (self.mixed or self.by_autograd)

    def notes(self) -> list[str]:
        """What a user should know of it, in sentences."""
        notes = []
        if not self.together:
            some = _some([*self.mixed, *self.by_autograd])
            notes.append(f"Gradients are taken one example at a time: those of {some} cannot be told apart in a batch.")
        if self.idle:
            notes.append(f"Zero in rows unless a text needs them, as a probe did not: {_some(self.idle)}.")
        if self.left_out:
            notes.append(f"Left out of rows, because their gradients cannot be taken: {_some(self.left_out)}.")
        if self.bare:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in self.bare.items())
            notes.append(f"Without a part in rows: {kinds}.")
        return notes


_KNOWN: dict[tuple[str, ...], Fit] = {}


def _some(names: Sequence[str]) -> str:
    return f"weight {names[0]}" if len(names) == 1 else f"{len(names)} weights (such as {names[0]})"


def look(model: Any, layers: Layers, loaded: Loaded, attention: str, lora: Lora) -> Fit:
    """`fit`, once in a process for a model with an adapter of this kind."""
    key = (loaded.model_digest, loaded.dtype, attention, type(model).__name__, lora.model_dump_json(), *layers)
    if key not in _KNOWN:
        _KNOWN[key] = fit(model, layers)
    return _KNOWN[key]


def fit(model: Any, layers: Layers) -> Fit:
    """Find out how the gradients of these weights can be captured. Leaves the model in eval mode, else as it was.

    Raises InputError for a model that fails on two short rows.
    """
    model.eval()
    try:
        return _fit(model, layers)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"this model ({model.config.model_type}) fails when gradients are taken, on two short rows: "
            f"{type(error).__name__}: {reason}. Choose other `lora.targets`, or other layers by `features.layers`"
        ) from error


def _fit(model: Any, layers: Layers) -> Fit:
    rows = probe_rows(model)
    device = model.get_input_embeddings().weight.device
    with _stirred(model):
        truth, wrong = _compare(model, layers, collate(rows, PLAIN).to(device))
        formed = _compare(model, layers, collate(rows[:1], PLAIN).to(device))[1] if wrong else []
    idle = [name for name in layers if name not in truth]
    unseen = set(strays(model, layers)) & set(idle)  # other tokens may reach them, and then there is no hook
    formed = [name for name in layers if name in formed or name in unseen]
    stuck = tuple(name for name in formed if is_experts(layers[name]))
    return Fit(
        mixed=tuple(name for name in wrong if name not in formed),
        by_autograd=tuple(name for name in formed if name not in stuck),
        idle=tuple(name for name in idle if not is_experts(layers[name])),
        left_out=stuck,
        bare=_bare(model, layers),
    )


def _bare(model: Any, layers: Layers) -> dict[str, int]:
    """Modules with weights that have no part in the rows, by class."""
    lora = any(".lora_" in name for name in layers)
    names: Counter[str] = Counter()
    for name, module in model.named_modules():
        stacked = any(p is not None and p.dim() == 3 and min(p.shape) > 1 for p in module._parameters.values())
        stacked = stacked and not isinstance(module, torch.nn.modules.conv._ConvNd)
        if lora and not name.endswith(".base_layer") and (stacked or is_inner(module)):
            names[type(module).__name__] += 1
        if not lora and stacked and not is_experts(module):
            names[type(module).__name__] += 1
    return dict(names)


def _compare(model: Any, layers: Layers, batch: Batch) -> tuple[Products, list[str]]:
    """What autograd gives, and the names of weights for which the capture gives something else."""
    truth, found = _by_autograd(model, layers, batch), _captured(model, layers, batch)
    share, floor = TOLERANCE.get(model.dtype, COARSE)
    size = {name: float(values.norm(dim=1).max()) for name, values in truth.items()}
    least = floor * max(size.values(), default=0.0)

    def differs(name: str) -> bool:
        wanted, got = truth.get(name), found.get(name)
        if wanted is None or got is None:
            return any(values is not None and float(values.norm()) > least for values in (wanted, got))
        return not float((got - wanted).norm(dim=1).max()) <= share * size[name] + least

    return truth, [name for name in layers if differs(name)]


def _vector(size: int, like: torch.Tensor) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)).to(like)


def _captured(model: Any, layers: Layers, batch: Batch) -> Products:
    found: Products = {}

    def consume(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
        along = (x @ _vector(x.shape[-1], x)).to(delta.dtype)
        found[name] = torch.bmm(delta.transpose(1, 2), along[:, :, None])[:, :, 0].float()

    with capturing(model, layers, consume, batch, on_odd=lambda _name, _shape: None), torch.enable_grad():
        losses = example_means(token_losses(model, batch).nll, batch)
        if losses.requires_grad:
            losses.sum().backward()  # type: ignore[no-untyped-call]
    return found


def _by_autograd(model: Any, layers: Layers, batch: Batch) -> Products:
    """The definition: one backward for each row, of the model's own logits. Only weights that a loss depends on."""
    weights = _by_weight(layers)
    rows: list[Products] = []

    def take(parameter: torch.nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:
            for name, number, wide in weights[parameter]:
                part = gradient if number is None else gradient[number]
                part = part.T if wide else part
                rows[-1][name] = (part @ _vector(part.shape[1], part)).float()

    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    handles = [p.requires_grad_().register_post_accumulate_grad_hook(take) for p in weights]  # type: ignore[no-untyped-call]
    try:
        with torch.enable_grad():
            logits = run(model, batch, lambda _module, _inputs: None).logits[batch.rows, batch.before].float()
            for loss in example_means(cross_entropy(logits, batch.wanted, reduction="none"), batch):
                rows.append({})
                loss.backward(retain_graph=True)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, needed in before:
            parameter.requires_grad_(needed)
    some = {name: torch.zeros_like(values) for row in rows for name, values in row.items()}
    return {name: torch.stack([row.get(name, zero) for row in rows]) for name, zero in some.items()}


def _by_weight(layers: Layers) -> dict[torch.nn.Parameter, list[tuple[str, int | None, bool]]]:
    """Parameters with the names in them, each with its number among experts, and whether it is kept as [I, O]."""
    found: dict[torch.nn.Parameter, list[tuple[str, int | None, bool]]] = {}
    for name, module in layers.items():
        if is_experts(module):
            _, stack, number = name.rsplit(".", 2)
            found.setdefault(getattr(module, stack), []).append((name, int(number), bool(module.is_transposed)))
        else:
            found.setdefault(module.weight, []).append((name, None, is_wide(module)))
    return found


@contextmanager
def _stirred(model: Any) -> Iterator[None]:
    """Within the block, LoRA's B is random."""
    kept = [(p, p.detach().clone()) for name, p in model.named_parameters() if ".lora_B." in name]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)
