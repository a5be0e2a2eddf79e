"""Packages beside this one's own that a recipe needs, looked for before any work is done."""

from collections.abc import Iterator
from importlib.util import find_spec

from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.recipe.recipe import Recipe

MODULES = {"text": "bm25s", "ot": "ot", "lm-eval": "lm_eval", "gguf": "gguf"}  # of the extras of this package
OPTIMIZERS = {"dog": "dog", "dadapt": "dadaptation"}  # of the extra `lrfree`, by the recipe's name


def check(recipe: Recipe) -> None:
    """Raise InputError, with the line that installs it, where a package that the recipe needs is not there. Nothing is
    imported."""
    for what, extra, module in _needed(recipe):
        if find_spec(module) is None:
            raise InputError(
                f"{what} needs the package {module}, which is not installed: pip install 'gradsift[{extra}]'"
            )


def _needed(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(what, extra, module) of all that needs one."""
    for where, name in _methods(recipe):
        known = methods().get(name)
        if known is not None and known.extra in MODULES:
            yield f"{where} {name!r}", known.extra, MODULES[known.extra]
    if recipe.lm is not None and recipe.lm.gguf_file:
        yield "`model.gguf_file`", "gguf", MODULES["gguf"]
    if recipe.validate_ is not None:
        if recipe.validation.lm_eval is not None:
            yield "`validate.lm_eval`", "lm-eval", MODULES["lm-eval"]
        if recipe.validation.optimizer in OPTIMIZERS:
            yield (
                f"`validate.optimizer: {recipe.validation.optimizer}`",
                "lrfree",
                OPTIMIZERS[recipe.validation.optimizer],
            )


def _methods(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.selecting is not None:
        yield "method", recipe.select.method
    for part in recipe.mix.all_parts() if recipe.mix is not None else ():
        if part.target is not None:
            yield "method", recipe.method_of(part).method
    for arm in recipe.validation.arms if recipe.validate_ is not None else ():
        yield "arm", arm
