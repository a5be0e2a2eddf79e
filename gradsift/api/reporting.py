"""Functions about reports: write one, list them, have one as values."""

from pathlib import Path
from typing import TYPE_CHECKING

from gradsift.api.shared import AnyPath, AnyStore, as_path, opened, whereabouts

if TYPE_CHECKING:
    from gradsift.datastore.runs import Run
    from gradsift.datastore.store import Store
    from gradsift.pipelines.report.kept import Kept
    from gradsift.pipelines.report.parts import Document


def report(store: AnyStore = "store", *, run: int | None = None, out: AnyPath | None = None) -> Path:
    """Write the report of a run: one HTML page that opens from disk, and the same as JSON. Each run keeps its own.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    run
        Number of the run (`gradsift.reports` lists them); default: the store's last one.
    out
        Where to write the page; default: reports/ in the store.

    Returns
    -------
    Path
        Of the page; its JSON is beside it.

    Raises
    ------
    InputError
        For a run that is not there.
    StoreFullError
        When the disk is full.

    Example
    -------
    >>> page = gradsift.report("store", out="report.html")
    >>> page.with_suffix(".json").exists()
    True
    """
    from gradsift.datastore.outputs import refuse_taken

    if (page := as_path(out)) is not None:
        refuse_taken(whereabouts(store), page, "HTML page")
    with opened(store) as there:
        wanted = _run(there, run)
        from gradsift.pipelines.report.report import keep_report  # loads torch: not for a run that is not there

        return keep_report(there, wanted, page)


def reports(store: AnyStore = "store") -> "list[Kept]":
    """List the runs: number, date, name, what was found, and where the report is.

    Parameters
    ----------
    store
        Folder of the store, or an open one.

    Returns
    -------
    list of Kept
        The newest run first.

    Raises
    ------
    InputError
        For a folder that is no store.

    Example
    -------
    >>> headlines = {kept.run: kept.headline for kept in gradsift.reports("store")}
    """
    from gradsift.pipelines.report.kept import listed

    with opened(store) as there:
        return listed(there)


def report_data(store: AnyStore = "store", *, run: int | None = None) -> "Document":
    """The report of a run as values, as `gradsift report --json` prints it. Writes nothing.

    Parameters
    ----------
    store
        Folder of the store, or an open one.
    run
        Number of the run; default: the store's last one.

    Returns
    -------
    Document
        What the page shows: answers in words, cards, sections, the matrix of arms, the recipe.

    Raises
    ------
    InputError
        For a run that is not there.

    Example
    -------
    >>> answers = [answer.headline for answer in gradsift.report_data("store").answers]
    """
    with opened(store) as there:
        wanted = _run(there, run)
        from gradsift.pipelines.report.report import report as document

        return document(there, wanted)


def _run(store: "Store", number: int | None) -> "Run":
    from gradsift.datastore.runs import get, last_run

    return last_run(store) if number is None else get(store, number)
