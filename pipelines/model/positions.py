"""How many positions a model has, against the tokens that a recipe keeps of a row."""

from typing import Any

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.opened import Loaded, load_config
from gradsift.pipelines.recipe import Recipe

NO_LIMIT = ("bloom", "mpt")  # ALiBi: what their configurations say of lengths is no limit
# Tables whose first rows, up to that of the padding token, are no positions.
AFTER_PADDING = (
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def positions(config: Any) -> int | None:
    """Positions that a configuration states; None where it states none, or where the model has no limit (ALiBi, state
    spaces). Scaled rotary positions count as they are scaled."""
    text = config.get_text_config()
    if text.model_type in NO_LIMIT or getattr(text, "alibi", False):
        return None
    stated = getattr(text, "max_position_embeddings", None) or getattr(text, "max_target_positions", None)
    if not isinstance(stated, int) or stated <= 0:
        return None
    if text.model_type in AFTER_PADDING:
        return stated - int(text.pad_token_id or 0) - 1
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("linear", "dynamic", "yarn") and rope.get("factor"):
        return max(stated, int((rope.get("original_max_position_embeddings") or stated) * rope["factor"]))
    return stated


def check_length(recipe: Recipe, loaded: Loaded) -> None:
    """Raise InputError when the recipe runs rows of more tokens than the model has positions."""
    if not recipe.runs_model:
        return
    config = load_config(loaded, recipe.model)
    limit, asked = positions(config), recipe.encoding.max_length
    if limit is not None and asked > limit:
        raise InputError(
            f"encoding.max_length is {asked}, but the model in {loaded.folder} ({config.model_type}) has {limit} "
            f"positions: set encoding.max_length to {limit} or less"
        )
