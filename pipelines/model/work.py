"""What the stages of a run share."""

from dataclasses import dataclass, replace

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.model.load import Loaded, open_model
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """A recipe at work on a store: its opened model (None where it has none, or where none may be loaded), and where
    progress is reported."""

    store: Store
    recipe: Recipe
    loaded: Loaded | None = None
    progress: Progress = quiet

    @property
    def model(self) -> Loaded:
        """The opened model. Raises InputError where there is none."""
        if self.loaded is None:
            raise InputError(f"recipe {self.recipe.name!r} has no `model`, which this needs")
        return self.loaded

    def under(self, recipe: Recipe) -> "Work":
        """The same under another recipe."""
        return replace(self, recipe=recipe)


def open_work(store: Store, recipe: Recipe, progress: Progress = quiet) -> Work:
    """Open the recipe's model, if it has one. Raises InputError when that is not a model."""
    return Work(store, recipe, open_model(recipe.model) if recipe.lm else None, progress)
