"""The section about exports."""

from typing import Literal

from gradsift.pipelines.recipe.section import Section


class Export(Section):
    """What an export holds beside the chats."""

    format: Literal["parquet", "jsonl"] = "parquet"
    labels: bool = False
    """Add `input_ids` and `labels` (always there where a method prunes tokens)."""
    atlas: bool = False
    """Add `x`, `y` and `neighbors` for embedding-atlas, from plain rows of the last checkpoint."""
    require_licence: bool = False
    """Refuse an export with rows of unknown licence."""
