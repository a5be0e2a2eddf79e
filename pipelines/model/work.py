"""What the stages of a run share, and what travels to a worker: an order and pieces of the work."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import uuid4

from gradsift.datastore.errors import InputError
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
from gradsift.pipelines.model.opened import Loaded, open_model
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe


@dataclass(frozen=True)
class Order:
    """What a worker needs, on whatever host, to open a run's work. Two orders of a run differ in nothing but `model`:
    whether the recipe's model is opened."""

    place: Place
    recipe: Recipe
    token: str
    model: bool


class Piece(Protocol):
    """A part of a run's work that pickles: whoever can open the store can do it (`pieces.do`)."""

    @property
    def name(self) -> str:
        """What it is, for whoever looks on."""
        ...

    @property
    def order(self) -> Order:
        """What it needs to be opened."""
        ...

    @property
    def rows(self) -> int:
        """How much it is, as progress counts."""
        ...

    @property
    def alone(self) -> bool:
        """Whether no other such piece may be done in its process at the time: it draws from random generators that a
        process has one of."""
        ...

    def run(self, work: "Work") -> None:
        """Do it and commit it, unless that has been done."""
        ...


Done = Callable[[Piece], None]
Spread = Callable[[Sequence[Piece], Done], Sequence[str]]
"""Does pieces, in this process or elsewhere, before it returns, and calls `Done` with each. Returns what became of
workers that died, in words; raises what a piece raised."""


@dataclass(frozen=True)
class Work:
    """A recipe at work on a store: its opened model (None where it has none, or where none may be loaded), where
    progress is reported, and who does the pieces (None: threads of this process)."""

    store: Store
    recipe: Recipe
    loaded: Loaded | None = None
    progress: Progress = quiet
    spread: Spread | None = None
    token: str = field(default_factory=lambda: uuid4().hex)  # names this run of the work, for workers
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)  # what its pieces load

    @property
    def model(self) -> Loaded:
        """The opened model. Raises InputError where there is none."""
        if self.loaded is None:
            raise InputError(f"recipe {self.recipe.name!r} has no `model`, which this needs")
        return self.loaded

    def under(self, recipe: Recipe) -> "Work":
        """The same under another recipe."""
        return replace(self, recipe=recipe)

    def order(self, *, model: bool) -> Order:
        """What a worker needs to open this work."""
        return Order(self.store.place, self.recipe, self.token, model)


def open_work(store: Store, recipe: Recipe, progress: Progress = quiet, spread: Spread | None = None) -> Work:
    """Open the recipe's model, if it has one. Raises InputError when that is not a model."""
    return Work(store, recipe, open_model(recipe.model) if recipe.lm else None, progress, spread)
