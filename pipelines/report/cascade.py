"""What a cascade looked at and what it is estimated to have found: in a line, and as the report's part."""

from gradsift.datastore.cascades import CascadeReport
from gradsift.pipelines.report.parts import Part

NOTE = (
    "Overlap is the share of the choice from all rows that is expected among the shortlist: estimated from how far the "
    "prediction is off on the landmarks, each left out, and from how scores at the first checkpoint and at all of them "
    "differ. Explained is the share of the variance of the landmarks' scores that their words, source and lengths "
    "predict. Where tables and charts below say all, they mean the shortlist: it alone has scores."
)


def cascade_words(report: CascadeReport) -> str:
    """A cascade in two sentences."""
    words = (
        f"rows of {report.seen:,} of {report.usable:,} examples at checkpoint {report.checkpoint}, of "
        f"{report.shortlist:,} at all, for {report.price:.0%} of the tokens of all rows"
    )
    worst = min(report.overlap, key=lambda name: report.overlap[name])
    words += f"; estimated overlap with the choice from all rows {report.overlap[worst]:.2f} or more"
    if report.reached:
        return f"{words}."
    return f"{words} (least for {worst}): less than asked for. Raise `features.cascade.most` to look at more."


def cascade_parts(report: CascadeReport | None) -> list[Part]:
    """The same, with a line for each target."""
    if report is None:
        return []
    rows = [
        {"target": name, "overlap, estimated": share, "explained": report.explained[name]}
        for name, share in report.overlap.items()
    ]
    words = cascade_words(report).replace("`", "")  # a note has no code
    return [Part("Rows of a part of the pool", rows, note=f"{words[0].upper()}{words[1:]} {NOTE}")]
