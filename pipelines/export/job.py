"""One export as a value, and the layouts that exports have had."""

from collections.abc import Mapping
from dataclasses import dataclass

from gradsift.datastore.identity import Spec
from gradsift.datastore.origins import Place
from gradsift.datastore.runs import Recipes
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.about import Told
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Export

EXPORT_VERSION = 5  # the layout of what is written
UNSEALED = 4  # the one before: its manifest has no seal, its parts have equal rows
UNDESCRIBED = 3  # and before that: without croissant.json
PLACELESS = 2  # and before that: without `file`, `line` and `extra`
OF_PLACELESS = {"format", "labels", "atlas", "require_licence"}  # options that it knew


@dataclass(frozen=True)
class Job:
    """One export: what is written, how, and the key that all of it gives."""

    store: Store
    selection: Selection
    recipes: Recipes
    options: Export
    key: str
    progress: Progress
    made_by: Mapping[str, str]
    lineage: Spec
    places: list[Place]  # in rank order
    layout: int
    told: Told

    @property
    def seed(self) -> int:
        """The recipe's."""
        return int(self.recipes.resolved.get("seed", 0))
