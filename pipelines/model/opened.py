"""A model that was found: its tokenizer and what it is, without its weights. No torch, but to settle `auto`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradsift.datastore.errors import InputError
from gradsift.pipelines.bars import no_bars
from gradsift.pipelines.model.encode import tokenizer_digest
from gradsift.pipelines.model.pretrained import from_pretrained
from gradsift.pipelines.model.tokenizer import HUB_FILES, load_tokenizer
from gradsift.pipelines.model.weights import model_digest, refuse_adapter
from gradsift.pipelines.recipe import Model


@dataclass(frozen=True)
class Loaded:
    """A base model's folder, tokenizer and identity; the weights are read by `load.py`."""

    folder: Path
    tokenizer: Any
    dtype: str  # a key of `load.DTYPES`
    model_digest: str
    tokenizer_digest: str


def open_model(model: Model) -> Loaded:
    """Find a model, load its tokenizer and digest its weights. Raises InputError when it is not a model."""
    folder = _hub_folder(model) if model.hub else Path(model.path or "")
    if not folder.is_dir():
        raise InputError(f"there is no model folder {folder}; check `model.path`, or name a `hub` model")
    if not (folder / "config.json").is_file() and not model.gguf_file:
        refuse_adapter(folder)
        raise InputError(
            f"{folder} is not a model: it has no config.json. Give a folder as `save_pretrained` writes it, "
            "or a `gguf_file` in it."
        )
    digest = model_digest(folder, model.gguf_file)
    tokenizer = load_tokenizer(folder, model)
    return Loaded(folder, tokenizer, resolved_dtype(model), digest, tokenizer_digest(tokenizer))


def resolved_dtype(model: Model) -> str:
    """`auto` settled: bfloat16 on a GPU that has it. On a CPU it is slower than float32 unless the CPU has it too."""
    if model.dtype != "auto":
        return model.dtype
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def load_config(loaded: Loaded, model: Model) -> Any:
    """The model's configuration, without its weights."""
    return from_pretrained("AutoConfig", loaded.folder, gguf_file=model.gguf_file)


def _hub_folder(model: Model) -> Path:
    from huggingface_hub import snapshot_download

    files = [*HUB_FILES, model.gguf_file] if model.gguf_file else HUB_FILES
    try:
        with no_bars():
            return Path(snapshot_download(str(model.hub), revision=model.revision, allow_patterns=files))
    except Exception as error:
        raise InputError(
            f"cannot get {model.hub!r} from the hub: {error}. Check the name and the network, or give a local `path`."
        ) from error
