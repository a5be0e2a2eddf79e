"""What the runs of a store know of a selection or mixture, for the card of an export that is written after them."""

from gradsift.datastore import runs, versions
from gradsift.datastore.runs import Run
from gradsift.datastore.selections import MIXTURE, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.about import Told, pool_words
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.report.answers import answers


def told_of(store: Store, chosen: Selection) -> Told:
    """Rows read and used, the version's number, and the report's sentences of the newest run that validated it."""
    made_by = list(runs.makers(store, chosen))
    if not made_by:
        return Told()
    verdicts = (_verdict(run, chosen) for run in made_by)
    return Told(
        pool_words(made_by[0].result), _version(store, made_by[0], chosen), next((v for v in verdicts if v), "")
    )


def _version(store: Store, run: Run, chosen: Selection) -> str:
    of_run = versions.of_run(store, run.run_id)
    mine = [one.version for one in of_run if one.kind != "pool" and one.name == chosen.name]
    pools = [one.version for one in of_run if one.kind == "pool"]
    return f"{mine[0]}, chosen from {pools[0]}" if mine and pools else ""


def _verdict(run: Run, chosen: Selection) -> str:
    """The sentences of the report about what was chosen; '' where the run did not validate it."""
    arm = OURS[1] if chosen.method == MIXTURE else OURS[0]
    mine = {one.target for one in run.result.arms if one.arm == arm}
    if chosen.method != MIXTURE:
        mine &= {chosen.target}
    return " ".join(one.text for one in answers(run.result) if one.arm == arm and one.target in mine)
