"""The recipe: a whole run as one file."""

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.recipe.export import Export
from gradsift.pipelines.recipe.features import Features
from gradsift.pipelines.recipe.mix import Mix
from gradsift.pipelines.recipe.model import Encoding, Lora, Model, Warmup
from gradsift.pipelines.recipe.pool import Source, Target
from gradsift.pipelines.recipe.screening import Decontaminate, Dedup
from gradsift.pipelines.recipe.section import Name, Section
from gradsift.pipelines.recipe.select import Select
from gradsift.pipelines.recipe.validate import Validate
from gradsift.pipelines.suggest import suggestion


class Recipe(Section):
    """A whole curation run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """Name of the run and of its exports: lower-case letters, digits and dashes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice that has no seed of its own."""
    pool: list[Source] = Field(min_length=1)
    targets: dict[Name, Target] = Field(default_factory=dict)
    """Capabilities; `select` needs at least one."""
    dedup: Dedup | None = None
    """Leave near-duplicates out of the pool."""
    decontaminate: Decontaminate | None = Decontaminate()
    """`null`: leave only the very rows of test sets out."""
    lm: Model | None = Field(default=None, alias="model")
    """Needed for gradients, for budgets in tokens and for validation."""
    encoding: Encoding = Encoding()
    lora: Lora = Lora()
    warmup: Warmup | None = Warmup()
    """`null`: no training; rows are taken at the model as it is (needs `features.transform: sgd`)."""
    features: Features = Features()
    selecting: Select | None = Field(default=None, alias="select")
    """A selection for each target."""
    mix: Mix | None = None
    """One mixture of several parts."""
    export: Export = Export()
    validate_: Validate | None = Field(default=None, alias="validate")
    """Leave out to stop after the export."""
    workers: Annotated[int, Field(gt=0)] = 1
    """Gradient workers (threads with a model each); never changes the result."""

    _written: dict[str, Any] | None = PrivateAttr(default=None)

    @property
    def written(self) -> dict[str, Any]:
        """The recipe as plain data, with paths as its author wrote them."""
        return self._written or self.model_dump(mode="json", by_alias=True)

    def written_as(self, data: dict[str, Any]) -> "Recipe":
        """The same recipe, remembering how its author wrote it."""
        copy = self.model_copy()
        copy._written = data
        return copy

    @model_validator(mode="after")
    def _moments_need_training(self) -> "Recipe":
        if self.warmup is None and self.features.transform != "sgd":
            raise ValueError("`warmup: null` needs `features.transform: sgd`: without training there are no moments")
        return self

    @model_validator(mode="after")
    def _complete(self) -> "Recipe":
        if self.selecting is None and self.mix is None:
            raise ValueError("give `select` (a selection for each target), `mix` (one mixture), or both")
        if self.selecting is not None and not self.targets:
            raise ValueError("`select` needs `targets`: what should the selection be good for?")
        if self.validate_ is not None and not self.targets:
            raise ValueError("`validate` measures on the test sets of `targets`; give at least one")
        for part in self.mix.parts if self.mix else ():
            if part.target is not None and part.target not in self.targets:
                hint = suggestion(part.target, self.targets, f"there are: {', '.join(self.targets) or 'none'}")
                raise ValueError(f"mix: no target {part.target!r}; {hint}")
        why = self._model_for()
        if self.lm is None and why:
            raise ValueError(f"{why} needs `model`")
        if self.needs_rows and not self.targets:
            raise ValueError(f"{why} looks at gradients, which are computed for `targets`; give at least one")
        return self

    def _model_for(self) -> str:
        if self.selecting is not None:
            return "`select`"
        if self.needs_rows:
            return "a mixture with gradients"
        if self.mix and (self.mix.tokens or self.mix.label_tokens):
            return "a budget in tokens"
        if self.mix and any(p.weights == "scaling_law" for p in self.mix.all_parts()):
            return "`weights: scaling_law`"
        if self.validate_ is not None:
            return "`validate`"
        return "`export.labels`" if self.export.labels else ""

    @property
    def needs_rows(self) -> bool:
        """Whether the run computes gradient rows."""
        parts = self.mix.all_parts() if self.mix else []
        arms = self.validate_.arms if self.validate_ else []
        semantic = self.dedup.semantic if self.dedup else None
        return (
            self.selecting is not None
            or any(p.target is not None or p.weights in ("tive", "prospect") for p in parts)
            or self.export.atlas
            or any(arm in methods() for arm in arms)
            or (semantic is not None and semantic.represent != "encoder")
        )

    @property
    def model(self) -> Model:
        """The model; raises InputError when there is none."""
        if self.lm is None:
            raise InputError(f"recipe {self.name!r} has no `model`")
        return self.lm

    @property
    def select(self) -> Select:
        """The section `select`; raises InputError when there is none."""
        if self.selecting is None:
            raise InputError(f"recipe {self.name!r} has no `select`")
        return self.selecting
