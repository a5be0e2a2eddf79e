"""Prefect's temporary server, which a run without a server starts: it ends with the process that started it.

Prefect ends its own as Python ends, for which SIGKILL, SIGTERM and a closed terminal do not wait: it stays. A Ctrl-C
does not reach this one, so that it is there until what was interrupted is told to it.
"""

import os
import subprocess
import sys
from typing import Any

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from gradsift.flows import parent

VARIABLES = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}  # as Prefect's


class EndingServer(SubprocessASGIServer):
    """A temporary server that ends with this process."""

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(  # noqa: S603 - our own file, with two numbers
            [sys.executable, "-P", parent.__file__, str(os.getpid()), str(self.port)],
            env={**os.environ, **VARIABLES, **settings},
            start_new_session=True,
        )


def use() -> None:
    """Have Prefect take such a server, in this process, where it would start its own. One that runs is kept."""
    if None not in SubprocessASGIServer._instances:
        EndingServer()
