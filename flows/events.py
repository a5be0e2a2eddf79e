"""Events of runs for Prefect, so that its automations can start what comes next: a training, a message.

    gradsift.mixture.made     a new version of a mixture    resource gradsift.mixture.NAME
    gradsift.selection.made   a new version of a selection  resource gradsift.selection.NAME
    gradsift.drift.above      the pool has moved away       resource gradsift.run.NAME
    gradsift.run.failed       a run failed                  resource gradsift.run.NAME

Each resource has the labels `gradsift.store`, `gradsift.run` and, of what was made, `gradsift.version`. The payload is
what a webhook gets (`pipelines.runs.events`). Prefect relates an event to the flow run that it is told in.
"""

from prefect.events import emit_event

from gradsift.pipelines.runs.events import Event


def emit(event: Event) -> None:
    """Send an event to Prefect's server. Never raises for a server that is not there: Prefect says so in its log."""
    kind, happened = event.what.split()
    made = event.facts.get("version")
    resource = {
        "prefect.resource.id": f"gradsift.{kind}.{event.facts['name']}" if made else f"gradsift.run.{event.run}",
        "prefect.resource.name": made or event.run,
        "gradsift.store": event.store,
        "gradsift.run": event.run,
        **({"gradsift.version": made} if made else {}),
    }
    emit_event(f"gradsift.{kind}.{happened}", resource=resource, payload=event.document())
