"""The section about exports."""

from typing import Literal

from gradsift.pipelines.recipe.section import Section


class Export(Section):
    """What an export holds beside the chats."""

    format: Literal["parquet", "jsonl"] = "parquet"
    labels: bool | Literal["auto"] = "auto"
    """Add `input_ids` and `labels`, those of the recipe's model. `auto`: where its chat template does not mark the
    assistant's tokens, so that trainers cannot find them by themselves; without a `model` never. Where a method prunes
    tokens they are always there."""
    atlas: bool = False
    """Add `x`, `y` and `neighbors` for embedding-atlas, from plain rows of the last checkpoint."""
    places: bool = True
    """Say of each row where it was read: `file`, below the source's path, and `line`."""
    extra: Literal["json", "columns", "none"] = "json"
    """Other columns of the rows: one column `extra` of JSON text, each as a typed column, or none of them."""
    require_licence: bool = False
    """Refuse an export with rows of unknown licence."""
