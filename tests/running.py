"""Commands in tests: one place for their environment, their patience, and what is said when one fails."""

import os
import secrets
import socket
import subprocess
import sys
import time
import warnings
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

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


def gradsift_apart(*arguments, columns=80, **options):
    """Run the command line as typed, in a terminal of some width, as `run` does: a process of its own."""
    return python("-m", "gradsift", *arguments, COLUMNS=str(columns), **options)


def gradsift(*arguments, cwd=None, code=0, columns=80, **variables):
    """The same in this process, where torch, transformers and Prefect are imported once: for what a command answers.
    What it does to a process (signals, a closed pipe, what it imports, variables that libraries read as they are
    imported) takes `gradsift_apart`."""
    from gradsift.__main__ import main
    from gradsift.cli import show

    command = ["gradsift", *map(str, arguments)]
    out, errors, ended = StringIO(), StringIO(), 0
    with (
        chdir(cwd) if cwd is not None else nullcontext(),
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)} | variables),
        mock.patch.object(sys, "argv", command),
        mock.patch.object(show, "answered", False),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", "Cyclopts application invoked")  # pytest's arguments are not what it reads
        try:
            main()
        except SystemExit as stop:
            ended = stop.code or 0
    said = subprocess.CompletedProcess(command, ended, out.getvalue(), errors.getvalue())
    assert code is None or ended == code, f"{' '.join(command)}: exit code {ended}\n{said.stderr}"
    return said


def executed(code, cwd):
    """What Python code prints that runs in a folder, in this process."""
    out = StringIO()
    with chdir(cwd), warnings.catch_warnings(), redirect_stdout(out):
        warnings.simplefilter("default")
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


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


def new_mark():
    """The value of a variable that a command is given and its children inherit, so that `marked` finds them."""
    return f"mark-{secrets.token_hex(8)}"


def marked(mark):
    """{pid: command} of the processes that have a mark in their environment, whoever their parent is by now."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended, or is another user's
    return found


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
