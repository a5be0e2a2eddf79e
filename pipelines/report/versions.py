"""What changed since the last version: rows in and out of the pool, selections and mixtures, by source."""

from dataclasses import asdict

from gradsift.datastore import versions
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.runs import Run, VersionReport
from gradsift.datastore.store import Store
from gradsift.pipelines.report.parts import Part

NOTE = "gradsift log lists all versions, gradsift diff compares any two, gradsift checkout exports an old one."


def version_parts(store: Store, run: Run) -> list[Part]:
    """A line for each version that the run has, and its sources where rows came or left."""
    catch_up(store)
    reports = versions.of_run(store, run.run_id)
    if not reports:
        return []
    lines = [
        {
            "version": report.version,
            "rows": report.rows,
            "in": report.came,
            "out": report.left,
            "against": _against(report),
        }
        for report in reports
    ]
    parts = [Part("Versions", lines, note=NOTE)]
    for report in reports:
        if report.by_source:
            title = f"{report.version} against @{report.before}"
            parts.append(Part(title, [asdict(moved) for moved in report.by_source]))
    return parts


def _against(report: VersionReport) -> str:
    if not report.new:
        return f"as @{report.number}: nothing changed"
    if report.before is not None:
        return f"@{report.before}{f'; {report.why}' if report.why else ''}"
    return "the first version" if report.number == 1 else "the version before it is no longer there"
