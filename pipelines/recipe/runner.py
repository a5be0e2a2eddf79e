"""Section `runner`: who does the pieces of a run's work."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.recipe.section import Section

THREADS, PROCESS, DASK, RAY = KINDS = ("threads", "process", "dask", "ray")
FUNCTION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
LOOKS = {DASK: ("tcp://", "tls://", "ucx://"), RAY: ("ray://", "auto")}


class Runner(Section):
    """Where units of rows, signatures and validation runs are done. All but `threads` need Prefect."""

    kind: str = THREADS
    """`threads` of the run's own process, `process`: processes of its host, `dask` or `ray`; or
    `package.module:function`, which is given the number of workers and returns a task runner of Prefect's."""
    address: str | None = None
    """Of a cluster that is there: `tcp://HOST:8786` of a Dask scheduler; `ray://HOST:10001`, or `auto` for the Ray that
    runs on this host. Left out: a cluster of `workers` processes on this host, for the run."""

    @model_validator(mode="after")
    def _known(self) -> "Runner":
        if self.kind not in KINDS and not FUNCTION.match(self.kind):
            hint = suggestion(self.kind, KINDS, f"there are {', '.join(KINDS)}, and `package.module:function`")
            raise ValueError(f"no runner {self.kind!r}; {hint}")
        if self.address is not None:
            looks = LOOKS.get(self.kind)
            if looks is None:
                raise ValueError(f"runner `{self.kind}` has no `address`: it is of `dask` and `ray`")
            if not self.address.startswith(looks):
                raise ValueError(f"address {self.address!r} of `{self.kind}`: it begins with {' or '.join(looks)}")
        return self


def _spelled_out(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


AnyRunner = Annotated[Runner, BeforeValidator(_spelled_out)]
