"""What the command line does, as functions: one for each command, by the command's name and with its parameters.

A store is a folder or an open `Store`; results are values; nothing is printed. Each function imports what it needs when
it is called, so that `import gradsift` is quick. All raise InputError for what the caller can mend, and for a folder
that is no store; only `run` makes one.
"""

from gradsift.api.asking import query
from gradsift.api.beginning import init
from gradsift.api.choosing import methods, overlap, score, select
from gradsift.api.curation import dry_run, run, validate
from gradsift.api.deletion import delete, deleted, revive
from gradsift.api.exploring import explore
from gradsift.api.history import checkout, log, prune
from gradsift.api.indexing import index_build, index_drop, index_list, index_refresh
from gradsift.api.looking import marks, quarantine, status
from gradsift.api.mixing import diff, export, mix
from gradsift.api.reporting import report, report_data, reports
from gradsift.api.scheduling import deploy, runs, serve
from gradsift.api.shared import connect, open_store
from gradsift.api.tracing import lineage, query_sql
from gradsift.api.upkeep import compact, doctor, gc, verify

__all__ = [
    "checkout",
    "compact",
    "connect",
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
    "log",
    "marks",
    "methods",
    "mix",
    "open_store",
    "overlap",
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
