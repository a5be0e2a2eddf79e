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
    require_licence: bool = False
    """Refuse an export with rows of unknown licence."""
