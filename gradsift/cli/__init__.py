"""The command line: one module for each family of commands. Every command imports what it needs when it runs, so that
`--help` is quick."""

from gradsift.cli import (  # noqa: F401 - they register their commands
    asking,
    explore,
    forget,
    indexes,
    init,
    methods,
    mixtures,
    quarantine,
    results,
    run,
    schedule,
    store,
    tracing,
    versions,
)
from gradsift.cli.shared import app

__all__ = ["app"]
