"""Weights of mixture-of-experts layers while gradients are captured: experts in one 3-D parameter, and routers.

An experts module gets all tokens flattened, [N, H], and for each of them the numbers of its K experts. Its forward is
run here expert by expert, with the rows of every product still knowing their token: row n·K + k is token n's k-th
choice, and tokens come example by example. For the expert e of a row,

    z = x W_eᵀ      G_(W_e) = Σ δ xᵀ      and of W_e + s·B_e A_e:  G_(A_e) = Σ (s·δ B_e) xᵀ,  G_(B_e) = Σ δ (s·x A_eᵀ)ᵀ

summed over the example's rows that went to e. peft keeps all A_e in one matrix, [E·R, I], all B_e in one, [O, R·E]:
their (δ, x) have zeros where a row's expert is not, so that one batched product gives every expert's part. A frozen
expert is a weight of its own, named `….gate_up_proj.3`, whose rows are padded to [B, C, ·].

A router or another map that is no plain layer applies its `weight` by `torch.nn.functional.linear` somewhere in its
forward, where it is met. All of this is checked on the model at hand (fit.py).
Legend: B examples, N tokens of all, K experts of each, S = N·K rows, E experts, I inputs, O outputs, R rank, H hidden,
C rows of the example with most.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from gradsift.pipelines.model.load import is_own


class Uses(Protocol):
    """Where uses of weights are reported (capture.py)."""

    size: int  # examples of the batch

    def begin(self, *names: str) -> None:
        """In the forward."""

    def __call__(self, name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
        """In the backward."""


@dataclass(frozen=True)
class _Adapter:
    """peft's LoRA on a parameter: A [E·R, I], B [O, R·E]; E = 1 for a plain weight. Names are None if not watched."""

    a: str | None
    b: str | None
    wrapper: Any

    def every(self) -> list[str]:
        return [name for name in (self.a, self.b) if name]

    def names(self, _present: Sequence[int]) -> list[str]:
        return self.every()

    def meet(self, uses: Uses, delta: torch.Tensor, x: torch.Tensor, expert: torch.Tensor | None) -> None:
        scale, experts = float(self.wrapper.scaling["default"]), self.wrapper.num_experts
        a, b = (getattr(self.wrapper, f"lora_{k}")["default"].weight.detach().to(x.dtype) for k in "AB")
        own = None if expert is None else (expert[:, None] == torch.arange(experts, device=x.device)).to(x.dtype)
        if self.a:
            back = b.view(len(b), -1, experts).transpose(1, 2).flatten(1)  # [O, R·E] → [O, E·R]
            uses(self.a, _of_own(delta @ back * scale, own), x)
        if self.b:
            h = _of_own(x @ a.T * scale, own)
            uses(self.b, delta, _blocks(h, experts).transpose(-1, -2).flatten(-2))


def _of_own(values: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """[S, E·R] with zeros but for each row's own expert, of `own` [S, E]."""
    return values if own is None else (_blocks(values, own.shape[1]) * own[:, :, None]).flatten(-2)


@dataclass(frozen=True)
class _Frozen:
    """A frozen weight: a plain one, or those of experts by their numbers."""

    by_number: Mapping[int, str]

    def every(self) -> list[str]:
        return list(self.by_number.values())

    def names(self, present: Sequence[int]) -> list[str]:
        return [self.by_number[e] for e in present if e in self.by_number]

    def meet(self, uses: Uses, delta: torch.Tensor, x: torch.Tensor, expert: torch.Tensor | None) -> None:
        if expert is None:
            uses(self.by_number[0], delta, x)
            return
        for e in (e for e in _numbers(expert) if e in self.by_number):
            rows = (expert == e).nonzero()[:, 0]
            owner = rows // (len(expert) // uses.size)
            uses(self.by_number[e], _padded(delta[rows], owner, uses.size), _padded(x[rows], owner, uses.size))


def _padded(rows: torch.Tensor, owner: torch.Tensor, size: int) -> torch.Tensor:
    """Rows [n, ·] of examples `owner` [n], ascending → [B, C, ·] with zeros after each example's own."""
    counts = torch.bincount(owner, minlength=size)
    slot = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    return rows.new_zeros(size, int(counts.max()), rows.shape[1]).index_put((owner, slot), rows)


def _numbers(expert: torch.Tensor) -> list[int]:
    """The experts that there are rows for."""
    numbers: list[int] = expert.unique().tolist()  # type: ignore[no-untyped-call]
    return numbers


def _blocks(values: torch.Tensor, rows: int) -> torch.Tensor:
    """[…, rows·n] → […, rows, n]."""
    return values.view(*values.shape[:-1], rows, -1)


Watched = list[_Adapter | _Frozen]  # all that is watched of one parameter


def is_experts(module: Any) -> bool:
    """Whether a module is a stack of experts with transformers' common interface."""
    return hasattr(module, "_is_expert_parallel") and all(hasattr(module, name) for name in stacks(module))


def stacks(module: Any) -> tuple[str, str]:
    """Names of the 3-D parameters of an experts module."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


def is_inner(module: torch.nn.Module) -> bool:
    """Whether a module has a `weight` [O, I] that it applies in a forward of its own: a router, as a rule."""
    if isinstance(module, torch.nn.Linear):
        return is_own(module)
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and any(w in type(module).__name__ for w in ("Router", "Gate"))


def watch_routed(model: Any, layers: Mapping[str, torch.nn.Module], uses: Uses) -> dict[str, Callable[[], None]]:
    """Watch the experts and routers among `layers`; returns how to undo it, by the names of the weights they take care
    of. A weight that is none of these is left to others."""
    undo: dict[str, Callable[[], None]] = {}
    for module, weights in _watched(model, layers):
        if not _known(module, weights):
            continue
        if is_experts(module):
            module.forward = _Experts(module, weights, uses)
        else:
            module.forward = partial(_inner, module, type(module).forward, weights["weight"], uses)
        names = [name for some in weights.values() for one in some for name in one.every()]
        undo |= dict.fromkeys(names, partial(delattr, module, "forward"))
    return undo


def strays(model: Any, layers: Mapping[str, torch.nn.Module]) -> list[str]:
    """Names of LoRA's weights on parameters that no hook can see: of experts with a forward of another kind."""
    others = [weights for module, weights in _watched(model, layers) if not _known(module, weights)]
    return [name for weights in others for some in weights.values() for one in some for name in one.every()]


def _known(module: Any, weights: Mapping[str, Watched]) -> bool:
    return is_experts(module) or set(weights) == {"weight"}


def _watched(model: Any, layers: Mapping[str, torch.nn.Module]) -> list[tuple[Any, dict[str, Watched]]]:
    """Modules with parameters that are watched, and what of each: LoRA on a parameter, experts, maps with a forward of
    their own."""
    from peft.tuners.lora.layer import ParamWrapper

    found: dict[int, tuple[Any, dict[str, Watched]]] = {}
    for name, module in model.named_modules():
        a, b = (f"{name}.lora_{part}.default.weight" for part in "AB")
        if isinstance(module, ParamWrapper) and (a in layers or b in layers):
            adapter = _Adapter(a if a in layers else None, b if b in layers else None, module)
            owner = module.get_base_layer()
            found.setdefault(id(owner), (owner, {}))[1].setdefault(module.parameter_name, []).append(adapter)
    numbered: dict[tuple[int, str], dict[int, str]] = {}
    for name, module in layers.items():
        if is_experts(module):
            _, parameter, number = name.rsplit(".", 2)
            numbered.setdefault((id(module), parameter), {})[int(number)] = name
        elif is_inner(module):
            numbered[id(module), "weight"] = {0: name}
        else:
            continue
        found.setdefault(id(module), (module, {}))
    for (owner_id, parameter), by_number in numbered.items():
        found[owner_id][1].setdefault(parameter, []).append(_Frozen(by_number))
    return list(found.values())


def watch(output: torch.Tensor, meet: Callable[[torch.Tensor, torch.Tensor], None], x: torch.Tensor) -> torch.Tensor:
    """Have `meet(δ, x)` called in the backward, for the output of a linear map of x; gives the output to go on with."""
    kept = x.detach()
    if not output.requires_grad:  # nothing before this layer does: the graph starts here, at a copy that may be changed
        output = output.detach().requires_grad_().clone()
    output.register_hook(lambda delta: meet(delta, kept))  # type: ignore[no-untyped-call]
    return output


def _note(
    watched: Watched,
    uses: Uses,
    z: torch.Tensor,
    x: torch.Tensor,
    expert: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Have a product z = x Wᵀ met in the backward; gives z to go on with. Row k of x is the `order[k]`-th in the order
    of the tokens, in which `expert` is; without an `order` x is in it already."""
    if not torch.is_grad_enabled():
        return z
    present = [0] if expert is None else _numbers(expert)
    uses.begin(*(name for one in watched for name in one.names(present)))

    def back(values: torch.Tensor) -> torch.Tensor:
        return values if order is None else torch.empty_like(values).index_copy_(0, order, values)

    def meet(delta: torch.Tensor, x: torch.Tensor) -> None:
        for one in watched:
            one.meet(uses, back(delta), back(x), expert)

    return watch(z, meet, x)


@dataclass(frozen=True)
class _Experts:
    """The forward of an experts module, expert by expert: what transformers computes, in whatever implementation."""

    module: Any
    weights: Mapping[str, Watched]
    uses: Uses

    def __call__(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        m, expert = self.module, top_k_index.reshape(-1)
        order = expert.argsort(stable=True)
        sizes = torch.bincount(expert, minlength=len(m.down_proj)).tolist()
        up, down = stacks(m)
        z = self._product(up, hidden_states[order // top_k_index.shape[1]], expert, order, sizes)
        z = self._product(down, m._apply_gate(z) if m.has_gate else m.act_fn(z), expert, order, sizes)
        if m.has_post_expert_norm:
            z = m.post_expert_norm(z)
        z = z * top_k_weights.reshape(-1)[order, None]
        by_token = z[order.argsort()].view(*top_k_index.shape, -1)
        return by_token.sum(1).to(hidden_states.dtype)

    def _product(
        self, parameter: str, x: torch.Tensor, expert: torch.Tensor, order: torch.Tensor, sizes: list[int]
    ) -> torch.Tensor:
        m, weights = self.module, getattr(self.module, parameter)
        biases = getattr(m, f"{parameter}_bias") if m.has_bias else [None] * len(weights)
        parts = [
            linear(part, weights[e].T if m.is_transposed else weights[e], biases[e])
            for e, part in enumerate(torch.split(x, sizes))
        ]
        z = torch.cat(parts)
        if parameter in self.weights:
            z = _note(self.weights[parameter], self.uses, z, x, expert, order)
        return z


def _inner(module: Any, forward: Callable[..., Any], watched: Watched, uses: Uses, *args: Any, **kwargs: Any) -> Any:
    """A module's own forward, in which its weight's product is met."""
    with _Meeting(module, watched, uses):
        return forward(module, *args, **kwargs)


_CASTS = (torch.Tensor.to, torch.Tensor.type, torch.Tensor.float)


class _Meeting(TorchFunctionMode):
    """Meets products by the module's weight, or by the weight in another dtype (DeepSeek's routers work in float32)."""

    def __init__(self, module: Any, watched: Watched, uses: Uses) -> None:
        super().__init__()
        self.watched, self.uses, self.weights = watched, uses, [module.weight]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CASTS and self._is_weight(args[0]):
            self.weights.append(result)
        if func is linear and self._is_weight(args[1]):
            result = _note(self.watched, self.uses, result, args[0])
        return result

    def _is_weight(self, value: Any) -> bool:
        return any(value is weight for weight in self.weights)
