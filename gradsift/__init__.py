"""gradsift: curate fine-tuning data by the gradients it produces.

import gradsift

result = gradsift.run("recipe.yaml", "store")
answer = gradsift.query("What is the capital of France?", store="store")

There is a function for each command, by its name and with its parameters; `index build` is `index_build`.
"""

from typing import TYPE_CHECKING, Any

from gradsift.api import (
    checkout,
    compact,
    delete,
    deleted,
    diff,
    doctor,
    dry_run,
    export,
    gc,
    index_build,
    index_drop,
    index_list,
    index_refresh,
    init,
    log,
    marks,
    methods,
    mix,
    open_store,
    overlap,
    prune,
    quarantine,
    query,
    report,
    report_data,
    reports,
    revive,
    run,
    score,
    select,
    status,
    validate,
    verify,
)
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
    "checkout",
    "compact",
    "curate",
    "delete",
    "deleted",
    "diff",
    "doctor",
    "dry_run",
    "export",
    "gc",
    "index_build",
    "index_drop",
    "index_list",
    "index_refresh",
    "init",
    "load_recipe",
    "log",
    "marks",
    "methods",
    "mix",
    "neighbours",
    "open_store",
    "overlap",
    "parse_recipe",
    "prune",
    "quarantine",
    "query",
    "report",
    "report_data",
    "reports",
    "revive",
    "run",
    "score",
    "select",
    "status",
    "validate",
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
