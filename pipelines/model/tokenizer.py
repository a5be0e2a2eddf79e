"""Tokenizers: of a folder or of the hub's copy on this host, without weights and without torch."""

from pathlib import Path
from typing import Any

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.encode import pin_date
from gradsift.pipelines.model.pretrained import from_pretrained
from gradsift.pipelines.recipe import Model

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_tokenizer(folder: Path, model: Model) -> Any:
    """The tokenizer in a model's folder, with the recipe's day for templates that ask. Raises InputError where there is
    none, or none with a fast form."""
    try:
        tokenizer = from_pretrained("AutoTokenizer", folder, gguf_file=model.gguf_file)
    except InputError as error:
        if model.gguf_file or any((folder / name).is_file() for name in TOKENIZERS):
            raise
        raise InputError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}). Put the files of the model's tokenizer "
            "beside its weights: `AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)` writes them."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"the tokenizer in {folder} has no fast form (tokenizer.json), which labels need")
    pin_date(tokenizer, model.date)
    return tokenizer


def folder_here(model: Model) -> Path:
    """Where a model is on this host; nothing is fetched. Raises InputError where it is not here."""
    if not model.hub:
        folder = Path(model.path or "")
        if not folder.is_dir():
            raise InputError(f"there is no model folder {folder} any more")
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.hub, revision=model.revision, local_files_only=True))
    except Exception as error:
        raise InputError(f"{model.hub!r} is not in this host's copy of the hub") from error
