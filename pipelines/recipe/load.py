"""Reading a recipe: unknown keys are refused with a suggestion, relative paths taken from the recipe's own folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gradsift.datastore.errors import InputError
from gradsift.datastore.files import followed
from gradsift.datastore.runs import Json
from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.recipe.recipe import Recipe
from gradsift.pipelines.recipe.section import Section
from gradsift.pipelines.recipe.written import read_yaml

RENAMED_OPTIONS = {"kde_points": "kde_neighbours"}  # since 0.1; and what `ccs` was is `ccs_adapt`
PATH_FIELDS = ("path", "encoder", "include_path", "from_")


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file. Raises InputError naming the file, the field and a suggestion."""
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}; see examples/ for some to start from") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of recipe fields, not a {type(data).__name__}")
    return parse_recipe(data, str(path), path.parent)


def parse_recipe(data: Json, where: str = "recipe", folder: Path | None = None) -> Recipe:
    """Check recipe data; relative paths are resolved against `folder`."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}:\n" + "\n".join(_explain(error))) from None
    except UnicodeEncodeError as error:  # half of a pair of characters, which JSON can write
        raise InputError(f"{where}: text that is no Unicode: {error}") from None
    if folder is None:
        return recipe
    try:
        return _resolve(recipe, folder).written_as(recipe.written)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def recorded_recipe(data: Json, where: str) -> Recipe:
    """A recipe that a store recorded, perhaps under an older version: what was renamed since is renamed in it."""
    return parse_recipe(renamed(data), where)


def renamed(value: Any) -> Any:
    """Recorded plain data with today's names of methods and options."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: renamed(item) for key, item in value.items()}
    options = changed.get("options")
    if isinstance(options, dict):
        options = {RENAMED_OPTIONS.get(name, name): item for name, item in options.items()}
        changed["options"] = options
        if changed.get("method") == "ccs" and options.keys() & {"low", "high", "bins"}:
            changed["method"] = "ccs_adapt"
    return changed


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            key, known = str(item["loc"][-1]), _known_keys(item["loc"][:-1])
            hint = suggestion(key, known, f"known here: {', '.join(known)}")
            yield f"  {place}: unknown key; {hint}"
        else:
            yield f"  {place or 'recipe'}: {item['msg'].removeprefix('Value error, ')}"


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
        if (section := section_of(part)) is not None:
            return section
    return None


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths: of every `path` and every `encoder` in it. Raises InputError, naming the field,
    for a path that no file can have."""

    def walk(value: Any, place: str) -> Any:
        if isinstance(value, Section):
            fields = type(value).model_fields
            names = {n: walk(getattr(value, n), f"{place}{of.alias or n}.") for n, of in fields.items()}
            names |= {
                n: _absolute(v, folder, f"{place}{fields[n].alias or n}") for n, v in names.items() if n in PATH_FIELDS
            }
            return value.model_copy(update=names)
        if isinstance(value, list):
            return [walk(item, f"{place}{n}.") for n, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: walk(item, f"{place}{key}.") for key, item in value.items()}
        return value

    resolved: Recipe = walk(recipe, "")
    return resolved


def _absolute(path: str | list[str] | None, folder: Path, field: str) -> str | list[str] | None:
    if isinstance(path, list):
        return [str(_followed(folder, one, field)) for one in path]
    return None if path is None else str(_followed(folder, path, field))


def _followed(folder: Path, path: str, field: str) -> Path:
    try:
        return followed(folder / Path(path).expanduser())
    except (InputError, RuntimeError) as error:  # `~nobody`
        raise InputError(f"{field}: {error}") from None
