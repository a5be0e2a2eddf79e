"""The one way to what transformers reads from a folder (`from_pretrained`): files of this host, and no code.

A folder is as hostile as who made it. Its files can ask for code in three ways, each refused, none asked about on a
terminal:

- `auto_map` names classes in Python files of the folder or of the hub. It is never followed: where transformers has a
  class of its own, that is taken, else the folder is refused. Transformers asks on stdin wherever it was not told, and
  does not tell the models inside a model: `auto_map` in a nested configuration is refused for whatever it names.
- `_attn_implementation: org/kernel` (and `_experts_implementation`, nested, for parts) is compiled code that
  transformers fetches from the hub. Of what a folder asks for, only what torch itself computes is taken.
- Weights in pickles: `weights.py` finds safetensors (or the GGUF file that the recipe names), and those are read.

What else lies there (`modules.json`, which tells sentence-transformers which classes to import) is not read.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradsift.datastore.errors import InputError
from gradsift.pipelines.bars import no_bars
from gradsift.pipelines.model.weights import weight_files

PLAIN = {
    "attn_implementation": {"eager", "sdpa", "flex_attention"},
    "experts_implementation": {"eager", "batched_mm", "grouped_mm"},
}
OF_ITS_OWN = "it needs code of its own (`auto_map`), which is never run; take a model that transformers has a class for"


def from_pretrained(kind: str, folder: Path, *, gguf_file: str | None = None, **options: Any) -> Any:
    """What a class of transformers (`AutoConfig`, `AutoModel`, …) reads from a folder, weights from safetensors
    or the GGUF file. `options` are the class's. Raises InputError for what cannot be read, and for a folder that asks
    for code.
    """
    options |= {"gguf_file": gguf_file} if gguf_file else {}
    if kind == "AutoTokenizer":
        return _read(kind, folder, options)
    config = _read("AutoConfig", folder, {"gguf_file": gguf_file} if gguf_file else {})
    for what in _asked(config):
        raise InputError(f"{folder} is not loaded: its config.json {what}")
    if kind == "AutoConfig":
        return config
    weight_files(folder, gguf_file)
    return _read(kind, folder, {"config": config, **({} if gguf_file else {"use_safetensors": True}), **options})


def _read(kind: str, folder: Path, options: Mapping[str, Any]) -> Any:
    import transformers

    try:
        with no_bars():
            return getattr(transformers, kind).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if "attn_implementation" in reason:
            reason = (
                f"it has no attention `{options.get('attn_implementation') or 'auto'}`; set `model.attention: auto`"
            )
        if "custom code" in reason:
            reason = OF_ITS_OWN
        raise InputError(f"cannot load {kind} from {folder}: {type(error).__name__}: {reason}") from error


def _asked(config: Any, depth: int = 0) -> Iterator[str]:
    """What a configuration, with those inside it, asks for that may be code."""
    inside = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    for key, value in inside.items():
        name = str(key).removeprefix("_").removesuffix("_internal")
        if name == "auto_map" and depth:
            yield f"has an `auto_map` inside another configuration: {OF_ITS_OWN}"
        elif name in PLAIN:
            yield from (
                f"asks for {name} `{one}`, which may be code of the hub: remove that key, and `model.attention` decides"
                for one in (value.values() if isinstance(value, Mapping) else [value])
                if one is not None and not (isinstance(one, str) and one in PLAIN[name])
            )
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for one in value:
                yield from _asked(one, depth + 1)
        elif not isinstance(value, str | bytes | int | float | None):
            yield from _asked(value, depth + 1)
