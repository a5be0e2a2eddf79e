"""Flow runs whose process died without a word: Prefect shows them as running. The next run says that they crashed.

Each flow run has two tags, `gradsift` and `process HOST:PID:…` (`holders.process_name`). Who begins one looks for
others that are running, and whose process was of this host and is gone: no guess, and no clock.
"""

from typing import cast

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.states import Crashed

from gradsift.datastore import holders

TAG = "gradsift"
PROCESS = "process "
MOST = 50  # flow runs that are looked at: a look costs a request


def begin() -> None:
    """Say in Prefect which process does this flow run, and of those whose process has died that they crashed.

    To be called in a flow run. Cost: two requests, and one for each that died.
    """
    running = FlowRunContext.get()
    if running is None or running.flow_run is None:
        return
    client, own = running.client, running.flow_run
    tags = {tag for tag in own.tags if not tag.startswith(PROCESS)}
    client.update_flow_run(own.id, tags=sorted(tags | {TAG, f"{PROCESS}{holders.process_name()}"}))
    at_work = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        tags=FlowRunFilterTags(all_=[TAG]),
    )
    for one in cast("list[FlowRun]", client.read_flow_runs(flow_run_filter=at_work, limit=MOST)):
        if one.id != own.id and _is_dead(one):
            client.set_flow_run_state(one.id, Crashed(message="its process died; found by a later run"), force=True)


def _is_dead(run: FlowRun) -> bool:
    return any(holders.holder_is_dead(tag.removeprefix(PROCESS)) for tag in run.tags if tag.startswith(PROCESS))
