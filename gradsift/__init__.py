"""gradsift: curate fine-tuning data by the gradients it produces.

import gradsift

result = gradsift.run("recipe.yaml", "store")
answer = gradsift.query("What is the capital of France?", answer="Paris.", store="store")

There is a function for each command, by its name and with its parameters; `index build` is `index_build`. A store is a
folder or an open `Store`; results are values; nothing is printed. docs/api.md has an example of each.

A store:
    open_store      open one that is there, for several calls
    connect         make this host's folder of a store that hosts share
    status          what it holds
Runs:
    init            write a commented recipe for data that are there
    dry_run         what a run would do: rows, bytes, minutes
    run             run a recipe, or finish an interrupted run
    runs            all runs and how they ended
    serve           run a recipe on a schedule, on this machine
    deploy          have a work pool run a recipe on a schedule
Where rows went:
    quarantine      which rows stayed out, and why
    marks           what screening left out, each beside its twin
    lineage         a row's way back to its file and forward to all that was made of it
Search:
    explore         look at it in the browser
    query           training rows whose gradients are most like a chat's
    query_sql       one SELECT over the store's tables (`gradsift sql`)
    index_build     build a search index and measure it
    index_list      the indexes, whether they are fresh, what they find
    index_refresh   make them hold the rows of the store again
    index_drop      drop them
Selections and mixtures:
    methods         what there is to select by
    select          select by another method from what a run computed
    score           score the pool without choosing
    overlap         what selections share
    mix             make another mixture
Results:
    export          write a selection or mixture for a trainer
    validate        train and measure what was chosen
    report          write the report of a run
    reports         the runs and their reports
    report_data     a report as values
Versions:
    diff            compare two selections, mixtures or pools
    log             the numbered versions
    checkout        export an old version as it was
    prune           drop old versions
Upkeep:
    verify          check every byte; repair what is damaged
    doctor          check the installation and the store
    compact         merge small files
    gc              delete files that killed processes left
Deletion:
    delete          delete examples for good
    deleted         what is deleted and kept out
    revive          let deleted examples back in
Parts:
    Store           an open store
    load_recipe     read and check a recipe file
    parse_recipe    check a recipe's data
    curate          what `run` calls: a recipe and an open store
    neighbours      nearest rows of a feature space to unit vectors
    GradsiftError   base of all errors
"""

from typing import TYPE_CHECKING, Any

from gradsift.api import (
    checkout,
    compact,
    connect,
    delete,
    deleted,
    deploy,
    diff,
    doctor,
    dry_run,
    explore,
    export,
    gc,
    index_build,
    index_drop,
    index_list,
    index_refresh,
    init,
    lineage,
    log,
    marks,
    methods,
    mix,
    open_store,
    overlap,
    prune,
    quarantine,
    query,
    query_sql,
    report,
    report_data,
    reports,
    revive,
    run,
    runs,
    score,
    select,
    serve,
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
    "connect",
    "curate",
    "delete",
    "deleted",
    "deploy",
    "diff",
    "doctor",
    "dry_run",
    "explore",
    "export",
    "gc",
    "index_build",
    "index_drop",
    "index_list",
    "index_refresh",
    "init",
    "lineage",
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
    "query_sql",
    "report",
    "report_data",
    "reports",
    "revive",
    "run",
    "runs",
    "score",
    "select",
    "serve",
    "status",
    "validate",
    "verify",
]


if not TYPE_CHECKING:  # checkers would take any name for one of these

    def __getattr__(name: str) -> Any:
        # Lazy: `import gradsift`, and so `gradsift --help`, must not load torch.
        if name not in _PUBLIC:
            raise AttributeError(f"module 'gradsift' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
