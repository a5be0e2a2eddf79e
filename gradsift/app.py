"""The command line's app and the types that its commands share."""

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
    "6 disk full, 130 interrupted.",
)
StorePath = Annotated[Path, Parameter(name=["--store", "-s"], env_var="GRADSIFT_STORE", help="Folder of the store.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document.")]
Options = Annotated[tuple[str, ...], Parameter(name="--option", negative=())]
Flag = Annotated[bool, Parameter(negative=())]
DEFAULT_STORE = Path("store")
