"""Commands in tests: one place for their environment, their patience, and what is said when one fails."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 3_600  # seconds; a slow or busy machine is no failure, only a command that hangs is one


def environment(**changes):
    """This process's variables, with this checkout's gradsift; conftest has set the threads and Prefect's folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes


def run(command, *, cwd=None, code=0, who=None, **variables):
    """Run a command to its end, as another user if one is given; asserts its exit code, unless `code` is None, and shows
    its errors when it is another."""
    command = [str(part) for part in command]
    out = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False, timeout=PATIENCE,
        **(who or {}),
    )  # fmt: skip
    assert code is None or out.returncode == code, f"{' '.join(command)}: exit code {out.returncode}\n{out.stderr}"
    return out


def python(*arguments, **options):
    """Run Python with this interpreter, as `run` does."""
    return run([sys.executable, *arguments], **options)


def gradsift(*arguments, columns=80, **options):
    """Run the command line as typed, in a terminal of some width, as `run` does."""
    return python("-m", "gradsift", *arguments, COLUMNS=str(columns), **options)


def start(*arguments, cwd=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, variables=None, **options):
    """Start Python with this interpreter and go on: for commands that are stopped on the way. Its errors are a pipe,
    if not said otherwise."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env=environment(**(variables or {})), stdout=stdout, stderr=stderr, text=True, **options,
    )  # fmt: skip


def free_port():
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(command, *, variables=None, **options):
    """Start any command and go on, with `variables` beside this process's."""
    command = [str(part) for part in command]
    return subprocess.Popen(command, env=environment(**{k: str(v) for k, v in (variables or {}).items()}), **options)
