"""What a flow run shows in Prefect's UI: the report, tables of what it did, and how far a long stage is."""

from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from gradsift.datastore.runs import Json, RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.report.page import markdown
from gradsift.pipelines.report.report import report

ARM = ("target", "arm", "examples", "test_loss_mean", "test_loss_ci95", "score_mean", "forgetting")


def publish(store: Store, name: str, result: RunResult) -> None:
    """Artifacts of the flow run: the report as Markdown; the arms, the stages with their seconds, and the gradient rows
    by status as tables, where there are any. Keys are `gradsift-NAME` and what it is, so that runs of one name are
    versions of one artifact."""
    key = f"gradsift-{name}"
    create_markdown_artifact(markdown(report(store)), key=key, description=f"Report of {name}")
    stages: list[Json] = [{"stage": one.stage, "seconds": one.seconds} for one in result.stages]
    arms: list[Json] = [{column: _rounded(getattr(arm, column)) for column in ARM} for arm in result.arms]
    rows: list[Json] = [
        {"dataset": f"{one.role} {one.dataset}", "checkpoint": one.checkpoint, "computed": one.computed, **one.statuses}
        for one in result.rows
    ]
    tables = (("stages", stages, "Seconds by stage"), ("rows", rows, "Gradient rows by status"),
              ("arms", arms, "Test loss by arm, mean over seeds"))  # fmt: skip
    for what, table, description in tables:
        if table:
            create_table_artifact(table, key=f"{key}-{what}", description=f"{description}, {name}")


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def progress_bars(name: str) -> Callable[[str, int, int], None]:
    """A function of (stage, done, total) that shows the share as a progress artifact of the stage. Asks the server once
    for each call: not for each row."""
    shown: dict[str, UUID] = {}

    def show(stage: str, done: int, total: int) -> None:
        percent = 100.0 * done / total if total else 100.0
        if stage in shown:
            update_progress_artifact(shown[stage], progress=percent)
            return
        slug = "".join(c if c.isalnum() else "-" for c in stage.lower()).strip("-")
        made = create_progress_artifact(percent, key=f"gradsift-{name}-{slug}", description=f"{name}: {stage}")
        if isinstance(made, UUID):
            shown[stage] = made

    return show
