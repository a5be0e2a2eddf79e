"""One accelerator for each worker: workers of a host that is told to have two."""

import threading

import pytest
import torch
from running import start

from gradsift.pipelines.model import devices

CLAIM = """
import sys, torch
torch.cuda.device_count = lambda: 2
from gradsift.pipelines.model import devices
devices.tempfile.tempdir = {folder!r}
devices.own_device(thread=False)
devices.own_device(thread=False)
import os
print(os.environ.get("CUDA_VISIBLE_DEVICES", ""), flush=True)
sys.stdin.readline()
"""


def worker(folder):
    process = start("-c", CLAIM.format(folder=str(folder)), stdin=-1)
    return process, process.stdout.readline().strip()


@pytest.mark.slow
def test_two_workers_take_a_device_each_and_the_next_take_turns(tmp_path):
    workers = [worker(tmp_path) for _ in range(4)]
    try:
        assert [device for _, device in workers] == ["0", "1", "0", "1"]
        workers[1][0].kill()  # a worker that dies gives its device back
        workers[1][0].wait()
        workers.append(worker(tmp_path))
        assert workers[-1][1] == "1"
    finally:
        for process, _ in workers:
            process.kill()
            process.communicate()


def test_a_device_that_was_given_is_kept_and_names_are_the_hosts(tmp_path, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "3")
    assert devices.devices(1) == ["3"]
    assert devices.claim(devices.devices(1), tmp_path) == ""
    monkeypatch.setenv(devices.VISIBLE, "4, 6")
    assert devices.devices(2) == ["4", "6"]
    monkeypatch.delenv(devices.VISIBLE)
    assert devices.devices(2) == ["0", "1"]
    assert devices.devices(0) == []


def test_threads_of_a_process_take_devices_in_turn(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(devices, "_turns", iter(range(4)))

    def work():
        devices.own_device(thread=True)
        devices.own_device(thread=True)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    devices.own_device(thread=True)  # the process's first thread keeps its device
    assert chosen == [0, 1]
