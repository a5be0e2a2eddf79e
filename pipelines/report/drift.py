"""How far the pool has moved away from its warm-up: in a line, and as the report's section."""

from gradsift.datastore.warmups import Drift
from gradsift.pipelines.report.parts import Part

NAMES = {"loss": "loss", "grad_norm": "gradient norm"}
NOTE = (
    "Losses and gradient norms at the last checkpoint, of rows that came after the warm-up against those that it was "
    "drawn from, in the pool now or not, and was not trained on. The gap is the largest one between the two "
    "distribution functions; times the share of rows that came, it is what they make in the whole pool. A gap with p "
    "of 0.01 or more counts as none."
)
ADVICE = (
    "The rows are measured at checkpoints of another pool than this has become. A new warm-up, gradsift run RECIPE "
    "--new-warmup, computes all of them again."
)


def drift_words(drift: Drift) -> str:
    """The drift in a sentence or two; '' where the pool is the one that the warm-up was drawn from."""
    if not drift.came and not drift.left:
        return ""
    words = f"{drift.came:,} of {drift.rows:,} rows ({drift.share:.0%}) came after the warm-up"
    if drift.left:
        words += f", {drift.left:,} of its {drift.drawn_from:,} left since"
    if drift.came and drift.drift is not None:
        words += f"; drift {drift.drift:.3f} of at most {drift.max_drift:g}"
    elif drift.came:
        words += f"; too few to compare, so their share stands for the drift, of at most {drift.max_drift:g}"
    return f"{words}. {ADVICE}" if drift.advised else f"{words}."


def drift_parts(drift: Drift | None) -> list[Part]:
    """Where the pool is not the one that the warm-up was drawn from: how they differ."""
    if drift is None or not (words := drift_words(drift)):
        return []
    facts = {
        "trained on": drift.trained,
        "of rows": drift.drawn_from,
        "rows now": drift.rows,
        "came": drift.came,
        "left": drift.left,
        "share that came": drift.share,
        "drift": drift.drift if drift.came else None,
        "at most": drift.max_drift,
    }
    parts = [Part("The warm-up's pool and this one", [facts], note=words)]
    if drift.shifts:
        rows = [
            {
                "signal": NAMES.get(one.signal, one.signal),
                "gap": one.gap,
                "in the whole pool": drift.share * one.gap,
                "p": one.p,
                "chance that a later row is higher": one.higher,
                "median before": one.before,
                "median after": one.after,
            }
            for one in drift.shifts
        ]
        parts.append(Part("Rows that came after it", rows, note=NOTE))
    return parts
