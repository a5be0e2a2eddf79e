"""The command line's app, and what its commands share."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gradsift.pipelines.version import VERSION

app = App(
    name="gradsift",
    suppress_keyboard_interrupt=False,  # __main__ says how to go on
    version=VERSION,
    help="Curate fine-tuning data by the gradients it produces.",
    help_epilogue="Exit codes: 0 ok, 1 unexpected, 2 bad input, 4 damaged or incompatible store, 5 busy, "
    "6 disk full or failing, 7 a server does not answer, 8 workers died, 130 and 143 stopped.",
)
StorePath = Annotated[Path, Parameter(name=["--store", "-s"], env_var="GRADSIFT_STORE", help="Folder of the store.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document.")]
Options = Annotated[tuple[str, ...], Parameter(name="--option", negative=())]
Flag = Annotated[bool, Parameter(negative=())]
DEFAULT_STORE = Path("store")

# Our own progress is enough; libraries may still warn.
LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
# Prefect reads its settings when it is imported.
PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # of events that a server which was ended did not take
}


def quiet_libraries() -> None:
    """Set what the user has not set for the libraries that load models. Call it before they are imported."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)


def quiet_prefect() -> None:
    """Set what the user has not set for Prefect. Call it before `gradsift.flows` is imported."""
    for name, value in PREFECT.items():
        os.environ.setdefault(name, value)


def check_processes(no_prefect: bool, processes: int | None) -> None:
    """Raise InputError for a number of processes that makes no sense."""
    from gradsift.datastore.errors import InputError

    if processes is not None and processes < 2:
        raise InputError("--processes must be at least 2; without it validation does one run after the other")
    if processes is not None and no_prefect:
        raise InputError("--processes uses Prefect's process pool; leave out --no-prefect")
