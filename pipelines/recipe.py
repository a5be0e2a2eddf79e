"""The recipe: a whole run as one YAML file. Its sections are in `sections` and `mix_sections`.

Unknown keys are refused with a suggestion. Relative paths are taken from the recipe's own folder.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.mix_sections import (
    Decontaminate,
    Dedup,
    Export,
    MinHash,
    Mix,
    Mixing,
    Part,
    Prospect,
    ScalingLaw,
    Semantic,
)
from gradsift.pipelines.sections import (
    Encoding,
    Features,
    Lora,
    Method,
    Model,
    Name,
    Projector,
    Section,
    Select,
    Signals,
    Source,
    Target,
    Training,
    Warmup,
)
from gradsift.pipelines.validate_sections import GradES, QTuning, Sft, Validate

__all__ = [
    "Decontaminate",
    "Dedup",
    "Encoding",
    "Export",
    "Features",
    "GradES",
    "Lora",
    "Method",
    "MinHash",
    "Mix",
    "Mixing",
    "Model",
    "Part",
    "Projector",
    "Prospect",
    "QTuning",
    "Recipe",
    "ScalingLaw",
    "Section",
    "Select",
    "Semantic",
    "Sft",
    "Signals",
    "Source",
    "Target",
    "Training",
    "Validate",
    "Warmup",
    "load_recipe",
    "parse_recipe",
    "section_of",
]

PATH_FIELDS = ("path", "encoder", "include_path")


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
                close = difflib.get_close_matches(part.target, self.targets, 1)
                hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(self.targets) or 'none'}"
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


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file. Raises InputError naming the file, the field and a suggestion."""
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}; see examples/ for some to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of recipe fields, not a {type(data).__name__}")
    return parse_recipe(data, str(path), path.parent)


def parse_recipe(data: dict[str, Any], where: str = "recipe", folder: Path | None = None) -> Recipe:
    """Check recipe data; relative paths are resolved against `folder`."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}:\n" + "\n".join(_explain(error))) from None
    if folder is None:
        return recipe
    return _resolve(recipe, folder).written_as(recipe.written)


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            key, known = str(item["loc"][-1]), _known_keys(item["loc"][:-1])
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
            yield f"  {place}: unknown key; {hint}"
        else:
            yield f"  {place or 'recipe'}: {item['msg']}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        if field is None:
            continue  # a list index or a target's name
        inner = section_of(field.annotation)
        if inner is None:
            return []
        model = inner
    return [f.alias or n for n, f in model.model_fields.items()]


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone or in a list or mapping; None for a plain field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in reversed(getattr(annotation, "__args__", ())):
        if (found := section_of(part)) is not None:
            return found
    return None


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths: of every `path` and every `encoder` in it."""

    def walk(value: Any) -> Any:
        if isinstance(value, Section):
            names = {n: walk(getattr(value, n)) for n in type(value).model_fields}
            names |= {n: _absolute(v, folder) for n, v in names.items() if n in PATH_FIELDS}
            return value.model_copy(update=names)
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return value

    resolved: Recipe = walk(recipe)
    return resolved


def _absolute(path: str | None, folder: Path) -> str | None:
    return None if path is None else str((folder / Path(path).expanduser()).resolve())
