"""Loading weights: base model and LoRA adapter; safetensors (or GGUF) only, no remote code ever."""

import random
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.causal import check_causal
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.opened import Loaded
from gradsift.pipelines.model.pretrained import from_pretrained
from gradsift.pipelines.recipe import Lora, Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # whose kernels take out_proj's weight itself
# transformers and peft build models under process-wide state (default device, skipped initialisation, warning
# filters, the random generator): two threads at once end in silently re-initialised weights.
_BUILDING = threading.Lock()


def seed_all(seed: int) -> None:
    """Seed every generator that training may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global one
    torch.manual_seed(seed)


def load_lora(loaded: Loaded, model: Model, lora: Lora, seed: int) -> Any:
    """A fresh peft LoRA model in eval mode: base frozen, adapter f32, initial values decided by the seed.

    Raises InputError when the weights do not cover the model, when it is no causal language model, or when the LoRA
    targets do not fit it.
    """
    with _BUILDING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = _load_base(loaded, model)
        seed_all(seed)
        return add_lora(base, lora)


def add_lora(base: Any, lora: Lora) -> Any:
    """A fresh adapter on a model, which is changed in place. `all-linear` leaves out what peft would break (see
    `own_linears`) and, as peft demands, `out_proj` of Mamba layers. Raises InputError when the targets do not fit."""
    from peft import LoraConfig, get_peft_model

    own = own_linears(base)
    out = ["out_proj"] if base.config.model_type in MAMBA else []
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        exclude_modules=[*own, *out] if (own or out) and lora.targets == "all-linear" else None,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft_model = get_peft_model(base, config)
    except ValueError as error:
        if lora.dropout and "lora_dropout" in str(error):
            raise InputError(
                f"lora.dropout {lora.dropout:g}: peft has none for experts and routers, which lora.targets "
                f"{lora.targets!r} reach in this model; set it to 0"
            ) from error
        raise InputError(f"lora.targets {lora.targets!r} do not fit this model: {error}") from error
    wrapped = {name.removeprefix("base_model.model.") for name, m in peft_model.named_modules() if hasattr(m, "lora_A")}
    if reached := [name for name in own if name in wrapped]:
        raise InputError(
            f"lora.targets reach {reached[0]}, which does more than multiply by its weight: peft's LoRA would break "
            "it. Leave it out, or take `all-linear`, which does"
        )
    return peft_model.eval()


def own_linears(model: Any) -> list[str]:
    """Names of linear layers whose class has a forward of its own that gives something else than x Wᵀ + b: routers that
    choose experts too, layers in groups."""
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and is_own(module)]


_OWN: dict[type, bool] = {torch.nn.Linear: False}


def is_own(layer: torch.nn.Linear) -> bool:
    """Whether a linear layer's class gives something else than x Wᵀ + b; tried once for each class."""
    kind = type(layer)
    if kind not in _OWN:
        _OWN[kind] = kind.forward is not torch.nn.Linear.forward and not _is_product(layer)
    return _OWN[kind]


@torch.no_grad()
def _is_product(module: Any) -> bool:
    x = torch.linspace(-1, 1, module.in_features).to(module.weight).expand(2, -1)
    try:
        z = module.eval()(x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    plain = torch.nn.functional.linear(x, module.weight, module.bias)
    return torch.is_tensor(z) and z.shape == plain.shape and torch.allclose(z, plain, rtol=1e-2, atol=1e-4)


def load_trainable(loaded: Loaded, model: Model, lora: Lora, seed: int, mode: str) -> Any:
    """A model to train: with a fresh adapter (`lora`), or with all weights trainable, in f32 (`full`)."""
    if mode == "lora":
        return load_lora(loaded, model, lora, seed)
    seed_all(seed)
    return load_base(loaded, model).float().requires_grad_(True)


def load_base(loaded: Loaded, model: Model) -> Any:
    """The model without an adapter, frozen, in eval mode. Raises InputError when weights are missing."""
    with _BUILDING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _load_base(loaded, model).eval().requires_grad_(False)


def _load_base(loaded: Loaded, model: Model) -> Any:
    base, info = from_pretrained(
        "AutoModelForCausalLM",
        loaded.folder,
        gguf_file=model.gguf_file,
        dtype=DTYPES[loaded.dtype],
        attn_implementation=None if model.attention == "auto" else model.attention,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{loaded.folder} lacks {len(missing)} weights of its model, e.g. {missing[0]}; is it complete?"
        )
    base = base.to(best_device())
    check_causal(base, f"{loaded.model_digest} {loaded.dtype} {model.attention}", str(loaded.folder))
    return base


def lora_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by name: the adapter's A and B matrices, and nothing else."""
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    strangers = [n for n in trainable if ".lora_A." not in n and ".lora_B." not in n]
    if strangers or not trainable:
        raise ValueError(f"expected LoRA matrices only, found {strangers[:3] or 'nothing'}")
    return trainable


def adapter_arrays(model: Any) -> dict[str, NDArray[np.float32]]:
    """Copies of the adapter's tensors, f32, by parameter name."""
    return {n: p.detach().float().cpu().numpy().copy() for n, p in lora_parameters(model).items()}


def set_adapter(model: Any, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Put adapter tensors into a model. Raises InputError when names or shapes do not fit."""
    parameters = lora_parameters(model)
    if set(parameters) != set(tensors):
        odd = sorted(set(parameters) ^ set(tensors))[:3]
        raise InputError(f"the checkpoint's adapter does not fit this model (e.g. {odd})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.asarray(tensors[name])))
