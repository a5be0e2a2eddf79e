"""Checkpoints that others trained: peft LoRA adapters with Adam's moments, as TRL and transformers' Trainer do.

A folder holds `adapter_config.json`, `adapter_model.safetensors`, `optimizer.pt` and `trainer_state.json`. Weights are
read from safetensors alone, `optimizer.pt` by `torch.load(weights_only=True)` alone: neither runs code. The optimizer
knows its parameters by number. Their names follow from the order in which the Trainer had them: those with weight
decay, then those without, each in the order of the model; or stand in the file, where torch wrote them. Every moment
must have the shape of its parameter. (Two of one shape that a trainer of one's own has exchanged cannot be told apart.)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gradsift.datastore.checkpoints import CheckpointState, Tensors, tensors_digest
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Json
from gradsift.pipelines.model.load import load_lora, lora_parameters
from gradsift.pipelines.model.opened import Loaded
from gradsift.pipelines.recipe import Lora, Recipe
from gradsift.pipelines.training.loop import BETAS, EPS

WEIGHTS, OPTIMIZER, STATE, CONFIG = (
    "adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "adapter_config.json",
)  # fmt: skip
UNSUPPORTED = (
    "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices",
    "layer_replication", "target_parameters", "fan_in_fan_out", "lora_bias", "use_qalora", "alora_invocation_tokens",
    "arrow_config",
)  # fmt: skip
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # as transformers' Trainer


@dataclass(frozen=True)
class Adopted:
    """A checkpoint of others: its tensors, the steps that its optimizer had taken, and the mean learning rate of the
    interval that it ends."""

    folder: Path
    state: CheckpointState
    step: int
    mean_lr: float

    @property
    def digest(self) -> str:
        """Of its tensors."""
        return tensors_digest(self.state)


def folders(paths: Sequence[str]) -> list[Path]:
    """The checkpoints that paths name, in their order: adapters themselves, or all `checkpoint-N` of a training's
    output folder by N. Raises InputError for a path that is neither."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(
                f"warmup.from: {path} is not there. A run looks at it each time; what the store took from it serves "
                "query, select, export and report without"
            )
        inner = sorted(path.glob("checkpoint-*"), key=_number) if path.is_dir() else []
        if inner:
            found += inner
        elif (path / CONFIG).is_file():
            found.append(path)
        else:
            raise InputError(
                f"warmup.from: {path} has no {CONFIG} and no checkpoint-N folders: give folders that TRL or "
                "transformers wrote with a peft adapter"
            )
    places = [folder.resolve() for folder in found]
    for at, place in enumerate(places):
        if place in places[:at]:
            raise InputError(f"warmup.from names {found[at]} twice: name each checkpoint once")
    return found


def _number(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def with_adapter_of(recipe: Recipe) -> Recipe:
    """The recipe with the adapter that its adopted checkpoints have, where it says nothing else of it; itself without
    `warmup.from`. Raises InputError where they disagree with it or with each other, naming the field."""
    if recipe.warmup is None or not recipe.warmup.from_:
        return recipe
    for folder in folders(recipe.warmup.from_):
        lora = _lora_of(folder)
        for name in recipe.lora.model_fields_set if "lora" in recipe.model_fields_set else ():
            ours, theirs = getattr(recipe.lora, name), getattr(lora, name)
            if not (ours == theirs or (name == "targets" and _same_targets(ours, theirs))):
                raise InputError(f"lora.{name} is {ours!r}, but {folder / CONFIG} has {theirs!r}: leave it out")
        kept = recipe.lora.targets if "targets" in recipe.lora.model_fields_set else lora.targets
        recipe = recipe.model_copy(update={"lora": lora.model_copy(update={"targets": kept})})
    return recipe


def base_notes(recipe: Recipe) -> list[str]:
    """What there is to say where an adapter names another base model than the recipe's, by the last part of its name:
    shapes alone do not tell two trainings of one architecture apart."""
    warmup, own = recipe.warmup, recipe.model.hub or recipe.model.path or ""
    notes = []
    for folder in folders(warmup.from_) if warmup is not None and warmup.from_ else ():
        base = str(_json(folder / CONFIG).get("base_model_name_or_path") or "")
        if base and PurePath(base).name != PurePath(own).name:
            notes.append(
                f"{folder.name} was trained on {base!r}, and the model here is {PurePath(own).name!r}: if weights "
                "differ, its gradients say nothing of this model."
            )
    return notes


def _same_targets(ours: str | list[str], theirs: str | list[str]) -> bool:
    """`all-linear` is what peft writes as the names that it found: then the tensors' own names decide."""
    return ours == "all-linear" or (isinstance(ours, list) and isinstance(theirs, list) and set(ours) == set(theirs))


def _lora_of(folder: Path) -> Lora:
    config = _json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{folder / CONFIG}: peft_type {config.get('peft_type')!r}; only LORA adapters can be taken")
    start = config.get("init_lora_weights", True)
    odd = [name for name in UNSUPPORTED if config.get(name)]
    odd += ["bias"] if config.get("bias", "none") != "none" else []
    odd += ["init_lora_weights"] if not isinstance(start, bool) and start not in ("gaussian", "orthogonal") else []
    if odd:
        raise InputError(f"{folder / CONFIG}: {odd[0]} is {config[odd[0]]!r}; only plain LoRA adapters can be taken")
    try:
        targets = config["target_modules"]
        return Lora(
            r=config["r"],
            alpha=float(config["lora_alpha"]),
            dropout=config.get("lora_dropout", 0.0),
            targets=targets if isinstance(targets, str) else sorted(targets),
        )
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} is no LoRA adapter's configuration: {_first_line(error)}") from error


def read(recipe: Recipe, loaded: Loaded, model: Any = None) -> list[Adopted]:
    """The checkpoints of a recipe's `warmup.from`, in order, for its model (with a fresh adapter; loaded where it is
    not given). Raises InputError, naming file and parameter, where one does not fit, and where moments are missing."""
    warmup = recipe.warmup
    if warmup is None or not warmup.from_:
        return []
    found = folders(warmup.from_)
    for folder in found:
        _require(folder)
    model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed) if model is None else model
    needs_moments = recipe.features.transform != "sgd" or recipe.features.query_transform != "sgd"
    states = [_state(folder, model, needs_moments=needs_moments) for folder in found]
    rates = _rates(found)
    if any(rate is None for rate in rates) and "lr" not in warmup.model_fields_set:
        bare = found[rates.index(None)]
        raise InputError(f"{bare / STATE} has no learning rates of its steps: give `warmup.lr`, their mean")
    logged = [rate for rate in rates if rate is not None]
    rates_used = logged if len(logged) == len(found) else [warmup.lr] * len(found)
    return [Adopted(f, state, step, lr) for f, (state, step), lr in zip(found, states, rates_used, strict=True)]


def _require(folder: Path) -> None:
    if not (folder / WEIGHTS).is_file():
        pickled = " (its adapter_model.bin is a pickle, which may run code; save it as safetensors)"
        has = (folder / "adapter_model.bin").exists()
        raise InputError(f"{folder} has no {WEIGHTS}{pickled if has else ''}")


def _state(folder: Path, model: Any, *, needs_moments: bool) -> tuple[CheckpointState, int]:
    parameters = lora_parameters(model)
    adapter = _weights(folder, parameters)
    if not (folder / OPTIMIZER).is_file():
        if needs_moments:
            raise InputError(
                f"{folder} has no {OPTIMIZER}, and rows by Adam need its moments: train with `save_only_model: false`, "
                "or set `features: {transform: sgd, query_transform: sgd}`"
            )
        return CheckpointState(adapter, {}, {}), _global_step(folder)
    first, second, step = _moments(folder / OPTIMIZER, model, parameters)
    return CheckpointState(adapter, first, second), step


def _weights(folder: Path, parameters: Mapping[str, Any]) -> Tensors:
    path = folder / WEIGHTS
    try:
        tensors = load_file(path) if not _has_bfloat16(path) else _load_torch(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error
    found = {}
    for name, parameter in parameters.items():
        stored = name.replace(".default.", ".")
        value = tensors.pop(stored, None)
        if value is None:
            raise InputError(f"{path} has no {stored}, which this model's adapter has: another model or targets?")
        _check_shape(path, name, value.shape, parameter)
        found[name] = _finite(path, name, np.asarray(value, np.float32))
    if tensors:
        raise InputError(f"{path}: {min(tensors)} is no LoRA matrix of this model's adapter: other targets?")
    return found


def _has_bfloat16(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys())  # noqa: SIM118 - no mapping


def _load_torch(path: Path) -> Tensors:
    from safetensors.torch import load_file as load_torch

    return {name: value.float().numpy() for name, value in load_torch(path).items()}


def _moments(path: Path, model: Any, parameters: Mapping[str, Any]) -> tuple[Tensors, Tensors, int]:
    """Adam's moments by name, zero for a parameter that no loss has reached, and the steps that were taken."""
    try:
        return _by_name(path, torch.load(path, map_location="cpu", weights_only=True), model, parameters)
    except InputError:
        raise
    except Exception as error:  # of many kinds: a file may be anything to torch's reader, and hold anything
        raise InputError(
            f"{path} is no optimizer's state that can be read without running code: {_first_line(error)}"
        ) from error


def _by_name(path: Path, saved: Json, model: Any, parameters: Mapping[str, Any]) -> tuple[Tensors, Tensors, int]:
    groups, state = saved["param_groups"], saved["state"]
    numbers = [number for group in groups for number in group["params"]]
    _check_kind(path, groups, state)
    names = _names(path, groups, model, parameters)
    moments: dict[str, Tensors] = {"exp_avg": {}, "exp_avg_sq": {}}
    for number, name in zip(numbers, names, strict=True):
        for key, tensors in moments.items():
            value = state.get(number, {}).get(key)
            if value is not None:
                _check_shape(path, name, value.shape, parameters[name])
            found = np.zeros(parameters[name].shape, np.float32) if value is None else value.float().numpy()
            tensors[name] = _finite(path, name, found)
    step = max(int(one["step"]) for one in state.values())
    return moments["exp_avg"], moments["exp_avg_sq"], step


def _finite(path: Path, name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(value).all():
        raise InputError(f"{path}: {name} holds values that are not finite: its training diverged; take an earlier one")
    return value


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]


def _check_kind(path: Path, groups: Sequence[Json], state: Mapping[int, Json]) -> None:
    """Raise InputError unless it is the state of plain AdamW, as rows by Adam have it."""
    for one in state.values():
        if "exp_avg" not in one or "exp_avg_sq" not in one:
            raise InputError(
                f"{path} has {', '.join(sorted(map(str, one))) or 'nothing'} and not exp_avg and exp_avg_sq: an 8-bit, "
                "paged or Adafactor optimizer's state is none of AdamW's; train with `optim: adamw_torch`"
            )
    if not state:
        raise InputError(f"{path} has no moments: its optimizer has taken no step")
    for group in groups:
        if tuple(group.get("betas", BETAS)) != BETAS or group.get("eps", EPS) != EPS or group.get("amsgrad"):
            raise InputError(
                f"{path} is of an Adam with other betas, eps or amsgrad; rows by Adam have {BETAS}, {EPS:g}"
            )


def _names(path: Path, groups: Sequence[Json], model: Any, parameters: Mapping[str, Any]) -> list[str]:
    """Names of an optimizer's parameters, in the order of its groups."""
    if all("param_names" in group for group in groups):
        names = [str(name).removeprefix("module.") for group in groups for name in group["param_names"]]
        if set(names) != set(parameters):
            raise InputError(f"{path}: {min(set(names) ^ set(parameters))} is a parameter of one side alone")
        return names
    from transformers.trainer_pt_utils import get_parameter_names

    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
    names = [n for n in parameters if n in decayed] + [n for n in parameters if n not in decayed]
    held = sum(len(group["params"]) for group in groups)
    if held != len(names):
        raise InputError(f"{path} has {held} parameters, the adapter {len(names)}: was more trained than the adapter?")
    return names


def _check_shape(path: Path, name: str, shape: Sequence[int], parameter: Any) -> None:
    if tuple(shape) != tuple(parameter.shape):
        raise InputError(
            f"{path}: {name} has the shape {list(shape)}, and in this model {list(parameter.shape)}: another model, "
            "other targets, or a trainer with an order of its own?"
        )


def _rates(found: Sequence[Path]) -> list[float | None]:
    """Mean of the learning rates that were logged after the checkpoint before, up to each; None where none was."""
    rates: list[float | None] = []
    before = 0
    for folder in found:
        state = _json(folder / STATE) if (folder / STATE).is_file() else {}
        now = int(state.get("global_step", 0))
        start = before if before < now else 0  # the first of another training
        try:
            logged = [
                float(line["learning_rate"])
                for line in state.get("log_history", [])
                if "learning_rate" in line and start < line["step"] <= now
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / STATE} has no log of a Trainer: {_first_line(error)}") from error
        rates.append(float(np.mean(logged)) if logged else None)
        before = now
    return rates


def _global_step(folder: Path) -> int:
    return int(_json(folder / STATE).get("global_step", 0)) if (folder / STATE).is_file() else max(0, _number(folder))


def _json(path: Path) -> Json:
    try:
        found: Json = json.loads(path.read_text("utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object")
    return found
