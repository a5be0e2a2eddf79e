"""Commands as processes that cost a fork: a process that has imported what commands need makes one for each.

`Forks` is the test's side; run as a program this is the process that forks, which reads a line of JSON for each request.
"""

import json
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from running import PATIENCE, start

IMPORTS = (
    "gradsift.api", "gradsift.cli", "gradsift.pipelines.runs.curate", "gradsift.pipelines.runs.reselect",
    "gradsift.pipelines.export.checkout", "gradsift.pipelines.report.report", "gradsift.datastore.ann", "peft",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto", "boto3", "datasets",
    "pandas", "scipy.stats", "rich.table",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9 when it was killed), what it said, the operations that were seen as (kind,
    name), how many units of work it had computed, its seconds of CPU, and
    the folder of what was kept of it."""

    code: int
    out: str
    err: str
    seen: list
    units: int
    cpu: float
    folder: Path


class Forks:
    """Starts `gradsift` as forks of one warm process; close it."""

    def __init__(self, folder):
        self.folder, self._number = Path(folder), 0
        self._process = start(__file__, cwd=self.folder, stderr=None, stdin=-1, variables={"OMP_NUM_THREADS": "1"})

    def start(self, *words, cwd, variables=None, keep=None, **fault):
        """Start a command and go on; returns what `wait` takes. `fault`: see `Watch` (tests/interposed.py); `keep`: the
        moments for a `Keeper` (tests/powerloss.py), which keeps them in `out`."""
        self._number += 1
        out = self.folder / f"{self._number:05d}"
        out.mkdir()
        asked = {"words": list(map(str, words)), "cwd": str(cwd), "out": str(out), "fault": fault, "keep": keep}
        pid = self._ask(asked | {"variables": variables or {}})
        return pid, out

    def wait(self, started):
        """Wait for a command's end."""
        pid, out = started
        status, cpu = self._ask({"wait": pid}, pid)
        code = os.waitstatus_to_exitcode(status)
        units, seen = 0, []
        with suppress(FileNotFoundError):
            units, *lines = (out / "log").read_text().split("\n")
            seen = [tuple(line.split(" ", 1)) for line in lines]
        said = [_read(out / name) for name in ("stdout", "stderr")]
        return Ended(code, *said, seen, int(units), cpu, out)

    def stop(self, started):
        """`kill -9` of a command, if it has not ended; then `wait`."""
        with suppress(ProcessLookupError):
            os.kill(started[0], signal.SIGKILL)
        return self.wait(started)

    def close(self):
        self._process.stdin.close()
        self._process.kill()  # nothing of it is kept
        self._process.wait(timeout=PATIENCE)
        self._process.stdout.close()

    def _ask(self, request, pid=None):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"no answer to {request}")
        return json.loads(self._process.stdout.readline())


def _read(path):
    """What was said, nothing where the process was killed before it could."""
    return path.read_text("utf-8", "replace") if path.exists() else ""


def serve():
    """Fork for each line, until there are no more."""
    from importlib import import_module

    for name in IMPORTS:
        import_module(name)
    import interposed  # noqa: F401 - its imports, too
    import powerloss  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status, used = os.wait4(request["wait"], 0)
            answer = [status, used.ru_utime + used.ru_stime]
        else:
            answer = os.fork()
            if answer == 0:
                answers.close()
                _command(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _command(request):
    """Be the command: never returns."""
    from interposed import Watch, install
    from powerloss import Keeper

    code = 1
    out = Path(request["out"])
    try:
        os.chdir(request["cwd"])
        os.environ.update(request["variables"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
        sys.argv = ["gradsift", *request["words"]]
        keeper = None if request["keep"] is None else Keeper(request["cwd"], out, request["keep"])
        watch = Watch(request["cwd"], out / "log", keeper=keeper, **request["fault"])
        install(watch)
        from gradsift.__main__ import main

        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        watch.note()
    except BaseException:  # noqa: BLE001 - this process ends here, and says of what
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
