"""gradsift: curate fine-tuning data by the gradients it produces.

from gradsift import Store, curate, load_recipe

with Store("store") as store:
    result = curate(load_recipe(Path("recipe.yaml")), store)
"""

from typing import TYPE_CHECKING, Any

from gradsift.api import diff, log, marks, mix, open_store, query, run, select, status, verify
from gradsift.pipelines.version import VERSION

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers
    from gradsift.datastore.errors import GradsiftError
    from gradsift.datastore.search import neighbours
    from gradsift.datastore.store import Store
    from gradsift.pipelines.recipe import load_recipe, parse_recipe
    from gradsift.pipelines.runs.curate import curate

__version__ = VERSION

_PUBLIC = {
    "Store": "gradsift.datastore.store",
    "curate": "gradsift.pipelines.runs.curate",
    "load_recipe": "gradsift.pipelines.recipe",
    "parse_recipe": "gradsift.pipelines.recipe",
    "neighbours": "gradsift.datastore.search",
    "GradsiftError": "gradsift.datastore.errors",
}
__all__ = [
    "GradsiftError",
    "Store",
    "__version__",
    "curate",
    "diff",
    "load_recipe",
    "log",
    "marks",
    "mix",
    "neighbours",
    "open_store",
    "parse_recipe",
    "query",
    "run",
    "select",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Lazy: `import gradsift`, and so `gradsift --help`, must not load torch.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gradsift' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
