"""Packages beside this one's own that a recipe needs, looked for before any work is done."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain

from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.recipe.recipe import Recipe

MODULES = {"text": "bm25s", "ot": "ot", "lm-eval": "lm_eval", "gguf": "gguf"}  # of the extras of this package
OPTIMIZERS = {"dog": "dog", "dadapt": "dadaptation"}  # of the extra `lrfree`, by the recipe's name
INSTALLS = {"trackio": "'gradsift[trackio]'"}  # what pip is told for a tracker, where not its name


def check(recipe: Recipe) -> None:
    """Raise InputError, with the line that installs it, where a package that the recipe needs is not there. Nothing is
    imported."""
    _require(chain(_of_choosing(recipe), _of_validation(recipe)))


def check_validation(recipe: Recipe) -> None:
    """The same of what its `validate` needs."""
    _require(_of_validation(recipe))


def _require(needed: Iterable[tuple[str, str, str]]) -> None:
    """Look for (what needs it, what pip is told, module) of each."""
    for what, install, module in needed:
        if find_spec(module) is None:
            raise InputError(f"{what} needs the package {module}, which is not installed: pip install {install}")


def _of_choosing(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    for where, name in _methods(recipe):
        known = methods().get(name)
        if known is not None and known.extra in MODULES:
            yield _extra(f"{where} {name!r}", known.extra, MODULES[known.extra])
    if recipe.lm is not None and recipe.lm.gguf_file:
        yield _extra("`model.gguf_file`", "gguf", MODULES["gguf"])


def _of_validation(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    if recipe.validate_ is None:
        return
    settings = recipe.validation
    if settings.lm_eval is not None:
        yield _extra("`validate.lm_eval`", "lm-eval", MODULES["lm-eval"])
    if settings.optimizer in OPTIMIZERS:
        yield _extra(f"`validate.optimizer: {settings.optimizer}`", "lrfree", OPTIMIZERS[settings.optimizer])
    for name in settings.report_to:
        yield f"`validate.report_to: [{name}]`", INSTALLS.get(name, name), name


def _extra(what: str, extra: str, module: str) -> tuple[str, str, str]:
    return what, f"'gradsift[{extra}]'", module


def _methods(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.selecting is not None:
        yield from (("method", name) for name in recipe.select.between or [recipe.select.method])
    for part in recipe.mix.all_parts() if recipe.mix is not None else ():
        if part.target is not None:
            yield "method", recipe.method_of(part).method
    for arm in recipe.validation.arms if recipe.validate_ is not None else ():
        yield "arm", arm
