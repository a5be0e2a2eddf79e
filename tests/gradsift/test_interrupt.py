"""Ctrl-C in a terminal, which goes to every process of the command, and SIGTERM, which goes to the command alone: one line,
exit code 130 or 143, no process goes on, and what was done stays."""

import os
import signal
import sqlite3
import sys
import time

import pytest
import running
import yaml

# It takes 1.4 s here, 2.8 with Prefect and 2.7 with processes, on two idle cores; on a busy machine any time.
SETTINGS = {"seeds": list(range(16)), "epochs": 12, "test_rows": 12, "arms": ["random"]}


def recorded(root):
    """How many validation runs a store has."""
    with sqlite3.connect(f"file:{root / 'catalog.sqlite'}?mode=ro", uri=True) as db:
        return db.execute("SELECT count(*) FROM arm").fetchone()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "stop"),
    [(["--no-prefect"], signal.SIGINT), ([], signal.SIGTERM), (["--processes", "2"], signal.SIGINT)],
    ids=["here", "prefect, by SIGTERM", "processes"],
)
def test_a_validation_that_is_stopped_says_so_in_one_line(copy, tmp_path, flags, stop):
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    copy.close()
    before = recorded(copy.root)
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom gradsift.__main__ import main; main()"
    mark = running.new_mark()
    process = running.start(
        "-c",
        program,
        "validate",
        settings,
        "--store",
        copy.root,
        *flags,
        start_new_session=True,
        variables={"MARK": mark},
    )  # fmt: skip - a session of its own: the signal goes to all of it and to nothing else
    try:
        end = time.monotonic() + running.PATIENCE
        while recorded(copy.root) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert process.poll() is None, process.communicate()[1]
        time.sleep(1.0)  # into a training
        asked = time.monotonic()
        (os.killpg if stop is signal.SIGINT else os.kill)(process.pid, stop)
        _, said = process.communicate(timeout=running.PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    seconds = time.monotonic() - asked
    sys.stdout.write(f"ended {seconds:.2f} s after it was stopped\n")
    lines = [line for line in said.splitlines() if line.strip() and not _is_progress(line)]
    assert lines == ["error: stopped; run the same command again to go on"]
    assert process.returncode == 128 + stop
    running.until(lambda: not running.marked(mark))
    assert before < recorded(copy.root) < before + len(SETTINGS["seeds"]), "it did not go on to the end"


def _is_progress(line):
    return line.startswith(("validation runs: ", "read "))
